"""Attention written out: softmax(scale * Q K^T + mask) V, with nothing that a backend also calls.

Two orders of the same maths. `attention` in float64 is the reference; `reordered` in the case's own dtype is the
baseline whose error a good kernel stays close to. That pair is FlashAttention's convention: its tests compare a
kernel's error with that of plain torch in the same precision, scale applied to k instead of q. Gradients come from
autograd through these einsums.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from entrypoint.probe import oracles
from entrypoint.probe.backends import Arguments, Backend
from entrypoint.probe.calls import Results, forward_backward
from entrypoint.probe.cases import Case, make_inputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from entrypoint.probe.rows import Sample


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A case's inputs with the right answer, from float64 or an oracle, and plain torch's. `floor`: see `errors`.

    `sample` says which rows the answers are of; None: of all.
    """

    arguments: Arguments
    dout: Tensor
    exact: Results
    plain: Results
    floor: dict[str, float]
    sample: Sample | None = None


def solve(case: Case, where: torch.device, backend: Backend) -> Solution:
    """The case's Solution, computed once for all that share its inputs: layouts, and kernels of one backend."""
    return _solve(case.problem, where, backend.no_gradient, backend.logsumexp is not None)


# Those that share a solution, some 50 MB on the device, come one after the other; a kernel with another logsumexp
# between them wants its own.
@functools.lru_cache(maxsize=2)
def _solve(case: Case, where: torch.device, no_gradient: str | None, lse: bool) -> Solution:
    arguments, dout = make_inputs(case, where)
    oracle = oracles.ORACLES.get(case.inputs)
    exact = oracle(arguments, dout) if oracle else float64(arguments, dout, no_gradient)
    plain = plain_torch(arguments, dout, no_gradient)
    if lse:
        exact = exact if oracle else replace(exact, lse=logsumexp(arguments.map(lambda tensor: tensor.double())))
        plain = replace(plain, lse=logsumexp(arguments.map(lambda tensor: tensor.float())))
    floor = oracles.FLOOR if oracle else {}
    return Solution(arguments=arguments, dout=dout, exact=exact, plain=plain, floor=floor)


def float64(arguments: Arguments, dout: Tensor, no_gradient: str | None = None) -> Results:
    """Out and gradients in float64. `no_gradient`, a reason, leaves the backward out."""
    backend = Backend(name="reference", attention=attention, no_gradient=no_gradient)
    return forward_backward(backend, arguments.map(lambda tensor: tensor.double()), dout.double())


def plain_torch(arguments: Arguments, dout: Tensor, no_gradient: str | None = None) -> Results:
    """The same maths, reordered, in the dtype of the inputs: the error that this precision cannot avoid.

    (Solution's logsumexp of plain torch is float32's, as kernels compute and return it.)
    """
    return forward_backward(Backend(name="plain", attention=reordered, no_gradient=no_gradient), arguments, dout)


def attention(arguments: Arguments) -> Tensor:
    """softmax(scale q k^T) v for q [B, S, H, D] and k, v [B, S, H_kv, D]; the scale is applied to q."""
    return weighted_sum(scores_of(arguments), arguments)


def logsumexp(arguments: Arguments) -> Tensor:
    """The natural logarithm of each softmax's denominator, [B, H, S_q]."""
    return masked(scores_of(arguments), arguments).logsumexp(dim=-1)


def scores_of(arguments: Arguments) -> Tensor:
    """scale q k^T, [B, H, S_q, S_k], before softcap and mask."""
    import torch

    q = arguments.q * softmax_scale(arguments)
    return torch.einsum("bihd,bjhd->bhij", q, repeat_kv(arguments.k, q.shape[2]))


def reordered(arguments: Arguments) -> Tensor:
    """As `attention`, the scale applied to k: equal in exact arithmetic, with other roundings."""
    k = repeat_kv(arguments.k * softmax_scale(arguments), arguments.q.shape[2])
    return weighted_sum(product("bihd,bjhd->bhij", arguments.q, k), arguments)


def weighted_sum(scores: Tensor, arguments: Arguments) -> Tensor:
    """Mask scores [B, H, S_q, S_k], take their softmax over keys, and average the values with it: [B, S_q, H, D_v]."""
    import torch

    weights = torch.softmax(masked(scores, arguments), dim=-1)
    return product("bhij,bjhd->bihd", weights, repeat_kv(arguments.v, scores.shape[1]))


def product(equation: str, one: Tensor, other: Tensor) -> Tensor:
    """torch.einsum of two tensors; on a CPU a product of halves is computed in float32 and rounded once.

    That is what a bf16 product is: exact products, summed in float32, one rounding of the sum; and so are those of its
    backward. A CPU without bf16 instructions emulates it many times slower than it computes in float32.
    """
    import torch

    if one.device.type != "cpu" or one.dtype not in {torch.bfloat16, torch.float16}:
        return torch.einsum(equation, one, other)
    return torch.einsum(equation, one.float(), other.float()).to(one.dtype)


def masked(scores: Tensor, arguments: Arguments) -> Tensor:
    """Scores after softcap, and -inf where the query does not see the key."""
    if arguments.softcap > 0.0:
        scores = arguments.softcap * (scores / arguments.softcap).tanh()
    mask = hidden(scores, arguments)
    return scores if mask is None else scores.masked_fill(mask, -math.inf)


def hidden(scores: Tensor, arguments: Arguments) -> Tensor | None:
    """True where query i must not see key j: [S_q, S_k], or [H, S_q, S_k] for S2; None when every query sees all."""
    i, j = positions(scores)
    return hidden_at(i, j, scores.shape[1], arguments)


def hidden_at(i: Tensor, j: Tensor, heads: int, arguments: Arguments) -> Tensor | None:
    """The same for queries at positions `i` [R, 1] and keys at `j` [1, C], of a call with so many query heads."""
    masks = [j > i] if arguments.causal else []
    left, right = arguments.window or (-1, -1)
    masks += [j < i - left] if left >= 0 else []
    masks += [j > i + right] if right >= 0 else []
    if arguments.cu_seqlens is not None:
        masks.append(documents(i, arguments.cu_seqlens) != documents(j, arguments.cu_seqlens))
    if arguments.shifted_group is not None:
        segments = [shifted_segments(at, heads, arguments.shifted_group) for at in (i, j)]
        masks.append(segments[0] != segments[1])
    return functools.reduce(lambda one, other: one | other, masks) if masks else None


def future(scores: Tensor) -> Tensor:
    """True where key j comes after query i, both counted from the end: [S_q, S_k]."""
    i, j = positions(scores)
    return j > i


def positions(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Of queries [S_q, 1] and keys [1, S_k], both counted from the end."""
    import torch

    queries, keys = scores.shape[-2:]
    i = torch.arange(queries, device=scores.device)[:, None] + keys - queries
    return i, torch.arange(keys, device=scores.device)[None, :]


def documents(at: Tensor, cu_seqlens: tuple[int, ...]) -> Tensor:
    """The document of each position: how many documents end at or before it."""
    import torch

    return torch.searchsorted(torch.tensor(cu_seqlens[1:], device=at.device), at.contiguous(), right=True)


def shifted_segments(at: Tensor, heads: int, group: int) -> Tensor:
    """S2's segment of each position for each query head, [H, ...]: of `group` positions, shifted by half for the second
    half of the heads, so that their first and last segment are half as long (LongLoRA's varlen variant, which has no
    segment that wraps around).
    """
    import torch

    shift = torch.arange(heads, device=at.device) // (heads // 2) * (group // 2)
    return (at + shift[:, None, None]) // group


def repeat_kv(tensor: Tensor, heads: int) -> Tensor:
    """Grouped-query attention: kv head g serves the query heads g*n to g*n + n - 1, n = heads / kv_heads."""
    return tensor.repeat_interleave(heads // tensor.shape[2], dim=2)


def softmax_scale(arguments: Arguments) -> float:
    """1 / sqrt(head_dim) unless the call says otherwise."""
    return arguments.q.shape[-1] ** -0.5 if arguments.softmax_scale is None else arguments.softmax_scale
