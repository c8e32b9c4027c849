"""The right answer in a few rows of a long call, where the square of its scores would cost too much.

Rows of out and dq follow from their own queries and all keys. A row of dk or dv needs every query that sees the key,
and of each its logsumexp and its delta = sum_j P_ij dP_ij (FlashAttention, appendix B.2): one pass over blocks of
queries in float32 finds those two for all queries. All else is float64. As in `entrypoint.probe.reference`, nothing
here is what a backend also calls.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from entrypoint.probe import reference
from entrypoint.probe.backends import Arguments, Backend
from entrypoint.probe.calls import Results
from entrypoint.probe.cases import Case, make_inputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Change = Callable[[Tensor], Tensor]

RANDOM_ROWS: Final = 12
# Pairs of a batch entry and a kv head. The short cases compare every one of them; here few save launches and time.
GROUPS: Final = {"cuda": 8, "cpu": 2}
# Scores of one block of the float32 pass: 64 MB on a GPU; on a CPU what a core's cache holds.
BLOCK: Final = {"cuda": 2**24, "cpu": 2**19}
# No row is measured by less than this share of the median row's size: the first row's dq is zero in exact arithmetic,
# and the last keys are seen by next to nobody.
LEAST_ROW: Final = 0.25


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What is compared: `positions` [R], and of each pair in `groups` (batch entry, kv head) its `heads` query heads.

    `shapes` are those of the whole tensors by name. `cancelled`: for dq [G, R, heads] and dk [G, R], see Rows.
    """

    positions: Tensor
    groups: tuple[tuple[int, int], ...]
    heads: int
    shapes: dict[str, tuple[int, ...]]
    cancelled: Mapping[str, Tensor | None] = field(default_factory=dict)

    def of(self, name: str, tensor: Tensor) -> Tensor:
        """The rows of a whole tensor: out and dq [G, R, heads, D], dk and dv [G, R, D], lse [G, heads, R].

        Raises ValueError for a tensor of another shape.
        """
        import torch

        if tuple(tensor.shape) != self.shapes[name]:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {self.shapes[name]}")
        return torch.stack([self._group(name, tensor, batch, kv) for batch, kv in self.groups])

    def in_units_of_rows(self, name: str, tensors: tuple[Tensor, ...], exact: Tensor) -> tuple[Tensor, ...]:
        """The tensors with each row divided by the root of its mean square in `exact`; a logsumexp as it is.

        Late rows of a causal call average thousands of keys and are a hundred times smaller than the first: beside
        that they would not count. A row of dq or dk is as large as what cancels in it, too: where a softmax is
        one-hot, as of a query that sees few keys, it is next to nothing beside the rounding of its parts.
        """
        if name == "lse":
            return tensors
        others = [dim for dim in range(exact.dim()) if dim != 1]
        square = exact.square().mean(dim=others, keepdim=True)
        if (cancelled := self.cancelled.get(name)) is not None:
            square = square + cancelled[..., None].square().mean(dim=others, keepdim=True) / exact.shape[-1]
        size = square.sqrt()
        size = size.clamp(min=LEAST_ROW * size.median().clamp(min=1e-30))
        return tuple(tensor.double() / size for tensor in tensors)

    def _group(self, name: str, tensor: Tensor, batch: int, kv: int) -> Tensor:
        if name in {"dk", "dv"}:
            return tensor[batch, self.positions, kv]
        heads = slice(kv * self.heads, (kv + 1) * self.heads)
        return tensor[batch, heads][:, self.positions] if name == "lse" else tensor[batch, self.positions, heads]


def positions(seqlen: int, cu_seqlens: tuple[int, ...] | None = None, seed: int = 0) -> list[int]:
    """First, last and middle rows, those beside each power of two from a tile of 64 on, documents' ends, and others.

    A kernel cuts its work at such rows, and its indices wrap there.
    """
    powers = [2**exponent for exponent in range(6, seqlen.bit_length())]
    edges = [0, seqlen, seqlen // 2, seqlen - 64, *powers, *(cu_seqlens or ())]
    beside = {at + step for at in edges for step in (-1, 0, 1)}
    drawn = random.Random(seed).sample(range(seqlen), min(RANDOM_ROWS, seqlen))
    return sorted(at for at in beside | set(drawn) if 0 <= at < seqlen)


def groups(case: Case, device_type: str) -> tuple[tuple[int, int], ...]:
    """The first and the last pair of a batch entry and a kv head, and some between them."""
    first, *others = itertools.product(range(case.batch), range(case.kv_heads))
    last = others[-1:]
    count = max(0, min(GROUPS[device_type] - 2, len(others) - 1))
    drawn = random.Random(case.seed).sample(others[:-1], count)
    return (first, *sorted(drawn), *last)


def solve(case: Case, where: torch.device, backend: Backend) -> reference.Solution:
    """The case's inputs with the right rows and plain torch's, once for all that share its inputs."""
    return _solve(case.problem, where, backend.no_gradient, backend.logsumexp is not None)


@functools.lru_cache(maxsize=1)
def _solve(case: Case, where: torch.device, no_gradient: str | None, lse: bool) -> reference.Solution:
    import torch

    arguments, dout = make_inputs(case, where)
    at = torch.tensor(positions(case.seqlen, case.cu_seqlens, case.seed), device=where)
    shapes = {
        "out": tuple(dout.shape),
        "dq": tuple(arguments.q.shape),
        "dk": tuple(arguments.k.shape),
        "dv": tuple(arguments.v.shape),
        "lse": (case.batch, case.heads, case.seqlen),
    }
    heads = case.heads // case.kv_heads
    sample = Sample(positions=at, groups=groups(case, where.type), heads=heads, shapes=shapes)
    exact: list[Rows] = []
    plain: list[Rows] = []
    for batch, kv in sample.groups:
        group = Group.of(arguments, dout, batch, kv)
        statistics = group.statistics() if no_gradient is None else None
        exact.append(group.change(lambda tensor: tensor.double()).rows(at, statistics))
        rounded = functools.partial(_rounded, dtype=arguments.q.dtype)
        plain.append(group.change(lambda tensor: tensor.float()).rows(at, statistics, rounded))
    with_lse = {"lse"} if lse else set()
    return reference.Solution(
        arguments=arguments,
        dout=dout,
        exact=_results(exact, no_gradient, with_lse),
        plain=_results(plain, no_gradient, with_lse),
        floor={},
        sample=replace(sample, cancelled={name: _stacked(exact, f"cancelled_{name}") for name in ("dq", "dk")}),
    )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Of one group: out, dq [R, n, D], lse [n, R], and dk, dv [R, D]; None without a backward.

    dq_i is scale * (sum_j P_ij dP_ij k_j - delta_i sum_j P_ij k_j). Kernels get delta_i = dout_i . out_i from an output
    that is rounded, so it is off by a rounding of |dout_i| |out_i| / sqrt(D): `cancelled_dq` [R, n] is the norm of the
    second term with that for delta_i, and `cancelled_dk` [R] the same of dk, whose queries' roundings add up by chance.
    """

    out: Tensor
    lse: Tensor
    dq: Tensor | None = None
    dk: Tensor | None = None
    dv: Tensor | None = None
    cancelled_dq: Tensor | None = None
    cancelled_dk: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Of every query of a group: the logsumexp of its scores, its delta, and a bound of what delta's rounding is a part
    of, |dout_i| sqrt(sum_j P_ij |v_j|^2 / D); all [n, S], float64.
    """

    lse: Tensor
    delta: Tensor
    bound: Tensor


@dataclass(frozen=True, kw_only=True)
class Group:
    """One kv head and the n query heads that share it: q [n, S, D], k [S, D], v [S, D_v], dout [n, S, D_v].

    `heads` are the query heads' numbers in the whole call, of `of_heads`; `call` has the rest of the arguments.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor
    heads: slice
    call: Arguments

    @classmethod
    def of(cls, call: Arguments, dout: Tensor, batch: int, kv: int) -> Group:
        count = call.q.shape[2] // call.k.shape[2]
        heads = slice(kv * count, (kv + 1) * count)
        q, dout = (tensor[batch, :, heads].transpose(0, 1) for tensor in (call.q, dout))
        return cls(q=q, k=call.k[batch, :, kv], v=call.v[batch, :, kv], dout=dout, heads=heads, call=call)

    def change(self, change: Change) -> Group:
        tensors = {name: change(getattr(self, name)) for name in ("q", "k", "v", "dout")}
        return replace(self, **tensors)

    def statistics(self) -> Statistics:
        """In float32, by blocks of queries: memory for one block of scores."""
        import torch

        group = self.change(lambda tensor: tensor.float())
        parts = [group._block(rows) for rows in self._blocks()]
        lse, delta, bound = (torch.cat(part, dim=1).double() for part in zip(*parts, strict=True))
        return Statistics(lse=lse, delta=delta, bound=bound)

    def _blocks(self) -> Iterator[Tensor]:
        """Positions of queries, as many as make a block of scores with all keys."""
        import torch

        count, seqlen = self.q.shape[:2]
        rows = max(1, BLOCK[self.q.device.type] // (count * seqlen))
        yield from torch.arange(seqlen, device=self.q.device).split(rows)

    def _block(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The Statistics [n, R] of the queries at `rows`; later keys than a causal block sees are left out."""
        keys = int(rows[-1]) + 1 if self.call.causal else len(self.k)
        seen = replace(self, k=self.k[:keys], v=self.v[:keys])
        scores = seen._masked(seen._scores(self.q[:, rows], seen.k), rows, _range(seen.k))[0]
        lse = scores.logsumexp(dim=-1)
        weights = (scores - lse[..., None]).exp()
        dout, size = self.dout[:, rows], seen.v.square().mean(-1)
        return lse, (weights * (dout @ seen.v.T)).sum(-1), dout.norm(dim=-1) * (weights @ size).sqrt()

    def rows(self, rows: Tensor, statistics: Statistics | None, rounded: Change = lambda tensor: tensor) -> Rows:
        """The results at `rows`. `rounded` is applied where plain torch keeps an intermediate in the call's dtype."""
        keys = rounded(self.k * reference.softmax_scale(self.call))
        scores, slope = self._masked(rounded(self.q[:, rows] @ keys.T), rows, _range(self.k), rounded)
        p = rounded(scores.softmax(dim=-1))
        out = Rows(out=rounded(p @ self.v).transpose(0, 1), lse=scores.logsumexp(dim=-1))
        if statistics is None:
            return out
        dp = rounded(self.dout[:, rows] @ self.v.T)
        ds = rounded(rounded(p * (dp - (p * dp).sum(-1, keepdim=True))) * slope)
        dk, dv, cancelled_dk = self._columns(rows, keys, statistics, rounded)
        cancelled_dq = (statistics.bound[:, rows].to(p.dtype) * (p @ keys).norm(dim=-1)).T
        dq = rounded(ds @ keys).transpose(0, 1)
        return replace(out, dq=dq, dk=dk, dv=dv, cancelled_dq=cancelled_dq, cancelled_dk=cancelled_dk)

    def _columns(self, at: Tensor, keys: Tensor, known: Statistics, rounded: Change) -> tuple[Tensor, Tensor, Tensor]:
        """dk, dv and what cancels in dk of the keys at `at`, from all queries; each head's part is rounded, and their
        sum.
        """
        scores, slope = self._masked(rounded(self.q @ keys[at].T), _range(self.k), at, rounded)
        p = rounded((scores - known.lse[..., None].to(scores.dtype)).exp())
        dp = rounded(self.dout @ self.v[at].T)
        ds = rounded(rounded(p * (dp - known.delta[..., None].to(dp.dtype))) * slope)
        dk = rounded(ds.transpose(1, 2) @ self.q).sum(0)
        dv = rounded(p.transpose(1, 2) @ self.dout).sum(0)
        scale = reference.softmax_scale(self.call)
        parts = p * (known.bound.to(p.dtype) * self.q.norm(dim=-1))[..., None]
        return rounded(rounded(dk) * scale), rounded(dv), parts.square().sum(dim=(0, 1)).sqrt() * scale

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ (k * reference.softmax_scale(self.call)).T

    def _masked(
        self, scores: Tensor, queries: Tensor, keys: Tensor, rounded: Change = lambda tensor: tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores [n, R, C] of these positions after softcap and mask, and the softcap's slope there."""
        softcap, slope = self.call.softcap, scores.new_ones(())
        if softcap > 0.0:
            share = (scores / softcap).tanh()
            scores, slope = rounded(softcap * share), 1.0 - share.square()
        every = self.call.q.shape[2]
        mask = reference.hidden_at(queries[:, None], keys[None, :], every, self.call)
        if mask is None:
            return scores, slope
        mask = mask[self.heads] if mask.dim() == 3 else mask
        return scores.masked_fill(mask, -math.inf), slope


def _range(tensor: Tensor) -> Tensor:
    import torch

    return torch.arange(len(tensor), device=tensor.device)


def _rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype).to(tensor.dtype)


def _stacked(groups: list[Rows], name: str) -> Tensor | None:
    import torch

    parts = [getattr(group, name) for group in groups]
    return None if parts[0] is None else torch.stack(parts)


def _results(groups: list[Rows], no_gradient: str | None, with_lse: set[str]) -> Results:
    import torch

    return Results(
        out=torch.stack([group.out for group in groups]),
        dq=_stacked(groups, "dq"),
        dk=_stacked(groups, "dk"),
        dv=_stacked(groups, "dv"),
        no_gradient=no_gradient,
        lse=_stacked(groups, "lse") if with_lse else None,
    )
