"""flash-attn-4: `max_seqlen_q` and `max_seqlen_k` as integers, where transformers hands over tensors of one number."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any


def mend(module: ModuleType) -> None:
    """Wrap `flash_attn_varlen_func` of flash_attn.cute."""
    inner = module.flash_attn_varlen_func

    # transformers reads the signature, which `wraps` keeps.
    @functools.wraps(inner)
    def flash_attn_varlen_func(*arguments: Any, **named: Any) -> Any:
        for name in ("max_seqlen_q", "max_seqlen_k"):
            if named.get(name) is not None:
                named[name] = int(named[name])
        return inner(*arguments, **named)

    module.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
