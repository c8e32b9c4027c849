"""FlashAttention 4 (the distribution flash-attn-4, module flash_attn.cute), compiled on first use by CuTe DSL."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from entrypoint.probe.backends import Arguments, Attention, Backend

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# CuTe DSL names a kernel after its module and class, such as
# kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90FlashAttentionForwardSm90_object_at__...
KERNELS = (r"flash_attn_?cute", r"FlashAttention(Forward|Backward)")


def load(where: torch.device) -> Backend:
    """Raises ImportError, also where FlashAttention 2's stub of flash_attn.cute is found in place of FA4."""
    return Backend(name="fa4", attention=adapt(importlib.import_module("flash_attn.cute").flash_attn_func))


def adapt(flash_attn_func: Any) -> Attention:
    """flash_attn_func takes and gives our layout; 4.0.0b36 always returns (out, logsumexp)."""

    def attention(arguments: Arguments) -> Tensor:
        result = flash_attn_func(
            arguments.q, arguments.k, arguments.v, softmax_scale=arguments.softmax_scale, causal=arguments.causal
        )
        out: Tensor = result[0] if isinstance(result, tuple) else result
        return out

    return attention
