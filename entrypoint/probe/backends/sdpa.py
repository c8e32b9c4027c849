"""torch.nn.functional.scaled_dot_product_attention with torch's own choice among its kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from entrypoint.probe.backends import Arguments, Backend

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# The fused kernels in torch: FlashAttention 2, cuDNN, memory-efficient (CUTLASS), and the operators of the CPU.
KERNELS = (
    r"pytorch_flash::",
    r"cudnn_generated_\w*sdpa",
    r"fmha_cutlass[FB]",
    r"aten::_scaled_dot_product_(flash|efficient|cudnn|fused)\w*attention",
)


def load(where: torch.device) -> Backend:
    return Backend(name="sdpa", attention=attention)


def attention(arguments: Arguments) -> Tensor:
    """SDPA wants [batch, heads, seqlen, head_dim]; the transposed views are what a model passes too."""
    from torch.nn.functional import scaled_dot_product_attention

    q, k, v = (tensor.transpose(1, 2) for tensor in (arguments.q, arguments.k, arguments.v))
    out = scaled_dot_product_attention(
        q, k, v, is_causal=arguments.causal, scale=arguments.softmax_scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.transpose(1, 2)
