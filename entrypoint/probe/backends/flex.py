"""FlexAttention, compiled, with a block mask for causal attention."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from entrypoint.probe.backends import Arguments, Attention, Backend

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Inductor's template kernels on a GPU (`triton_tem_fused_flex_attention_0`, in older versions `triton_tem_fused_0`).
# Its C++ kernels have no name in a profile; on a CPU the call of the compiled graph stands for them.
KERNELS = (r"triton_tem_fused_", r"Call CompiledFxGraph")
# torch's default of 8 recompiles is fewer than our variants, and past it flex runs unfused with only a log line.
RECOMPILE_LIMIT = 64


def load(where: torch.device) -> Backend:
    """Raises ImportError where torch has no FlexAttention."""
    import torch._dynamo.config
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    # fullgraph: what cannot be compiled is an error, instead of a silent run of the unfused code.
    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    return Backend(name="flex", attention=adapt(compiled), no_gradient=refusal_of_gradients(where))


def adapt(compiled: Any) -> Attention:
    """The one signature around a compiled flex_attention."""

    def attention(arguments: Arguments) -> Tensor:
        q, k, v = (tensor.transpose(1, 2) for tensor in (arguments.q, arguments.k, arguments.v))
        mask = causal_mask(q.shape[2], k.shape[2], q.device) if arguments.causal else None
        grouped = q.shape[1] != k.shape[1]
        out: Tensor = compiled(q, k, v, block_mask=mask, scale=arguments.softmax_scale, enable_gqa=grouped)
        return out.transpose(1, 2)

    return attention


@functools.lru_cache(maxsize=8)
def causal_mask(queries: int, keys: int, where: torch.device) -> Any:
    """A BlockMask, made once per shape: a model makes it once per step, not once per layer."""
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(_at_or_before, None, None, queries, keys, device=str(where))


def _at_or_before(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key


def refusal_of_gradients(where: torch.device) -> str | None:
    """Flex's own words when it has no backward on this device, else None.

    Asked of the uncompiled function: it refuses before it computes, and a compiled function whose tracing failed once
    would run later calls unfused.
    """
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    if where.type != "cpu":
        return None
    q = torch.zeros(1, 1, 16, 16, device=where, requires_grad=True)
    try:
        flex_attention(q, q, q)
    except NotImplementedError as refusal:
        return str(refusal)
    return None
