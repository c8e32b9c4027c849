"""Axolotl 0.17.0: `attn_implementation: flash_attention_4`, as Axolotl takes it from 0.19.0 on, packing included."""

from __future__ import annotations

from types import ModuleType

NAME = "flash_attention_4"


def mend(module: ModuleType) -> None:
    """Add it to the two lists of axolotl.utils.schemas.enums that 0.19.0 has it in."""
    for each in ("CANONICAL_ATTN_IMPLS", "ATTN_IMPLS_SUPPORTING_PACKING"):
        setattr(module, each, getattr(module, each) | {NAME})
