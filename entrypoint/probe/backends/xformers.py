"""xFormers' memory_efficient_attention with xFormers' own choice of operator."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from entrypoint.probe.backends import Arguments, Attention, Backend

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# xFormers 0.0.35 launches torch's own kernels (ops/fmha/flash.py and cutlass.py), those of an installed FlashAttention
# 2, or FlashAttention 3's.
KERNELS = (r"fmha_cutlass[FB]", r"pytorch_flash::", r"\bflash::flash_(fwd|bwd)", r"FlashAttn(Fwd|Bwd)Sm90")


def load(where: torch.device) -> Backend:
    """Raises ImportError, also where FA4 is installed without FA2 (xFormers asks it for flash_attn_interface)."""
    return Backend(name="xformers", attention=adapt(importlib.import_module("xformers.ops")))


def adapt(ops: Any) -> Attention:
    """memory_efficient_attention takes and gives our layout, [batch, seqlen, heads, head_dim].

    Its five-dimensional grouped layout has no backward (its docstring, and SUPPORTS_BMGHK of the backward operators in
    0.0.35), so kv heads are expanded, as Axolotl does, and autograd sums their gradients over each group.
    """

    def attention(arguments: Arguments) -> Tensor:
        heads = arguments.q.shape[2]
        out: Tensor = ops.memory_efficient_attention(
            arguments.q,
            expand_kv(arguments.k, heads),
            expand_kv(arguments.v, heads),
            attn_bias=ops.LowerTriangularMask() if arguments.causal else None,
            scale=arguments.softmax_scale,
        )
        return out

    return attention


def expand_kv(tensor: Tensor, heads: int) -> Tensor:
    """[batch, seqlen, kv_heads, head_dim] to [batch, seqlen, heads, head_dim], each kv head for its group in a row."""
    batch, seqlen, kv_heads, head_dim = tensor.shape
    if kv_heads == heads:
        return tensor
    shape = (batch, seqlen, kv_heads, heads // kv_heads, head_dim)
    return tensor.unsqueeze(3).expand(shape).reshape(batch, seqlen, heads, head_dim)
