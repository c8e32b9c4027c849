"""Attention written out: softmax(scale * Q K^T + mask) V, with nothing that a backend also calls.

Two orders of the same maths. `attention` in float64 is the reference; `reordered` in the case's own dtype is the
baseline whose error a good kernel stays close to. That pair is FlashAttention's convention: its tests compare a
kernel's error with that of plain torch in the same precision, scale applied to k instead of q. Gradients come from
autograd through these einsums.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from entrypoint.probe.backends import Arguments, Backend
from entrypoint.probe.calls import Results, forward_backward

if TYPE_CHECKING:
    from torch import Tensor


def float64(arguments: Arguments, dout: Tensor, no_gradient: str | None = None) -> Results:
    """Out and gradients in float64. `no_gradient`, a reason, leaves the backward out."""
    backend = Backend(name="reference", attention=attention, no_gradient=no_gradient)
    return forward_backward(backend, arguments.map(lambda tensor: tensor.double()), dout.double())


def plain_torch(arguments: Arguments, dout: Tensor, no_gradient: str | None = None) -> Results:
    """The same maths, reordered, in the dtype of the inputs: the error that this precision cannot avoid."""
    return forward_backward(Backend(name="plain", attention=reordered, no_gradient=no_gradient), arguments, dout)


def attention(arguments: Arguments) -> Tensor:
    """softmax(scale q k^T) v for q [B, S, H, D] and k, v [B, S, H_kv, D]; the scale is applied to q."""
    import torch

    q = arguments.q * softmax_scale(arguments)
    k = repeat_kv(arguments.k, q.shape[2])
    scores = torch.einsum("bihd,bjhd->bhij", q, k)
    return weighted_sum(scores, arguments)


def reordered(arguments: Arguments) -> Tensor:
    """As `attention`, the scale applied to k: equal in exact arithmetic, with other roundings."""
    import torch

    k = repeat_kv(arguments.k * softmax_scale(arguments), arguments.q.shape[2])
    scores = torch.einsum("bihd,bjhd->bhij", arguments.q, k)
    return weighted_sum(scores, arguments)


def weighted_sum(scores: Tensor, arguments: Arguments) -> Tensor:
    """Mask scores [B, H, S_q, S_k], take their softmax over keys, and average the values with it: [B, S_q, H, D]."""
    import torch

    if arguments.causal:
        scores = scores.masked_fill(future(scores), -math.inf)
    weights = torch.softmax(scores, dim=-1)
    return torch.einsum("bhij,bjhd->bihd", weights, repeat_kv(arguments.v, scores.shape[1]))


def future(scores: Tensor) -> Tensor:
    """True where key j comes after query i, both counted from the end: [S_q, S_k]."""
    import torch

    queries, keys = scores.shape[-2:]
    i = torch.arange(queries, device=scores.device)[:, None] + keys - queries
    j = torch.arange(keys, device=scores.device)[None, :]
    return j > i


def repeat_kv(tensor: Tensor, heads: int) -> Tensor:
    """Grouped-query attention: kv head g serves the query heads g*n to g*n + n - 1, n = heads / kv_heads."""
    return tensor.repeat_interleave(heads // tensor.shape[2], dim=2)


def softmax_scale(arguments: Arguments) -> float:
    """1 / sqrt(head_dim) unless the call says otherwise."""
    return arguments.q.shape[-1] ** -0.5 if arguments.softmax_scale is None else arguments.softmax_scale
