"""What FlashAttention 2, 3 and 4 have in common: a function for a batch, one for packed documents, and their options.

Their layouts are ours. Packed, they take [total, heads, head_dim] and int32 cu_seqlens, and give the logsumexp as
[heads, total].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from entrypoint.probe.backends import Arguments, Attention, Backend, Capabilities, tensors

if TYPE_CHECKING:
    from torch import Tensor

# A package's own keyword arguments for a call.
Options = Callable[[Arguments], dict[str, Any]]


def common_options(arguments: Arguments) -> dict[str, Any]:
    """The keyword arguments that FlashAttention 2 and 3 share, all of them always given."""
    return {
        "softmax_scale": arguments.softmax_scale,
        "causal": arguments.causal,
        "window_size": arguments.window or (-1, -1),
        "softcap": arguments.softcap,
    }


def adapt(package: Any, options: Options, **fixed: object) -> Attention:
    """`package` holds flash_attn_func and flash_attn_varlen_func; `fixed` options are given with every call."""

    def attention(arguments: Arguments) -> Tensor:
        result = call(package, arguments, options(arguments) | fixed)
        out: Tensor = result[0] if isinstance(result, tuple) else result
        return out.unsqueeze(0) if arguments.cu_seqlens is not None else out

    return attention


def adapt_logsumexp(package: Any, options: Options, **fixed: object) -> Attention:
    """The second of what the functions return when `fixed` asks for it, [batch, heads, seqlen]."""

    def logsumexp(arguments: Arguments) -> Tensor:
        lse: Tensor = call(package, arguments, options(arguments) | fixed)[1]
        return lse.unsqueeze(0) if arguments.cu_seqlens is not None else lse

    return logsumexp


def deterministic(name: str, attention: Attention, claims: Capabilities, widest: int) -> Backend:
    """The mode of a backend whose backward gives the same bits every time, up to a head_dim."""
    claims = replace(
        claims,
        head_dims=tuple(pair for pair in claims.head_dims if max(pair) <= widest),
        features=(claims.features - {"logsumexp"}) | {"deterministic"},
    )
    return Backend(name=f"{name}-deterministic", attention=attention, capabilities=claims)


def call(package: Any, arguments: Arguments, options: dict[str, Any]) -> Any:
    """What the package's function for this call returns. Raises NotImplementedError for a shifted group (see s2)."""
    tensors.refuse_others("FlashAttention", arguments, "window", "softcap", "varlen")
    q, k, v = arguments.q, arguments.k, arguments.v
    if arguments.cu_seqlens is None:
        return package.flash_attn_func(q, k, v, **options)
    cu_seqlens = tensors.on_device(arguments.cu_seqlens, q.device)
    longest = max(tensors.seqlens(arguments.cu_seqlens))
    return package.flash_attn_varlen_func(
        q.squeeze(0),
        k.squeeze(0),
        v.squeeze(0),
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_k=cu_seqlens,
        max_seqlen_q=longest,
        max_seqlen_k=longest,
        **options,
    )
