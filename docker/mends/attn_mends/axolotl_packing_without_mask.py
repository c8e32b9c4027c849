"""Axolotl 0.17.0: packed documents do not see each other in sdpa and eager, as from 0.18.0 on.

transformers tells the documents of a row apart by position_ids, and only where no attention_mask is given. Axolotl
leaves the mask out for the backends of ATTN_IMPLS_SUPPORTING_PACKING alone.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any


def mend(module: ModuleType) -> None:
    """Wrap the hook of axolotl.core.builders.causal's builder that its training arguments pass through last."""
    builder = module.HFCausalTrainerBuilder
    inner = builder.hook_pre_create_training_args

    @functools.wraps(inner)
    def hook_pre_create_training_args(self: Any, given: dict[str, Any]) -> Any:
        if given.get("sample_packing") and self.cfg.attn_implementation in (None, "sdpa", "eager"):
            given["sample_packing_drop_attention_mask"] = True
        return inner(self, given)

    builder.hook_pre_create_training_args = hook_pre_create_training_args
