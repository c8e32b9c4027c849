"""The right output and gradients of some query rows, in float64, and the error that plain torch makes there.

The gradient that comes in is zero but for the sampled queries. Then the right gradients of all keys and values follow
from these queries alone, in time and memory of rows times length and not of its square; and the gradient of every other
query is zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from entrypoint.events import TensorErrors, TensorName
from entrypoint.probe.calls import loss_of
from entrypoint.probe.reference import product
from entrypoint.race import batch as batches
from entrypoint.race.layer import Inputs, Problem
from entrypoint.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class Tally:
    """What TensorErrors needs, summed and maximised over parts of one tensor."""

    error: float = 0.0
    baseline: float = 0.0
    scale: float = 0.0
    squares: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("wrong", "plain", "exact"), 0.0))
    finite: bool = True

    def add(self, actual: Tensor, plain: Tensor, exact: Tensor) -> None:
        """One part; read back from the device in one transfer."""
        import torch

        wrong, off = actual.double() - exact, plain.double() - exact
        numbers = [wrong.abs().amax(), off.abs().amax(), exact.abs().amax()]
        numbers += [part.square().sum() for part in (wrong, off, exact)]
        error, baseline, scale, *squares = torch.stack([*numbers, actual.isfinite().all().double()]).tolist()
        self.finite = self.finite and bool(squares.pop())
        # A number that is not one is kept, as max() would not.
        self.error = error if not error <= self.error else self.error
        self.baseline, self.scale = max(self.baseline, baseline), max(self.scale, scale)
        for name, square in zip(self.squares, squares, strict=True):
            self.squares[name] += square

    def errors(self) -> TensorErrors:
        norm = math.sqrt(self.squares["exact"]) or math.nan
        return TensorErrors(
            error=self.error,
            baseline=self.baseline,
            relative=math.sqrt(self.squares["wrong"]) / norm,
            baseline_relative=math.sqrt(self.squares["plain"]) / norm,
            scale=self.scale,
            finite=self.finite,
        )


def measure(
    attention: Callable[[Inputs], Tensor], inputs: Inputs, problem: Problem, window: int | None
) -> tuple[dict[TensorName, TensorErrors | None], str | None]:
    """How far output and gradients of the sampled rows are off; and why there is no gradient, where there is none.

    Raises what the attention raises, and ValueError for an output of another shape.
    """
    sampled = batches.sampled(problem.batch, window)
    out = attention(inputs)
    if out.shape != inputs.dout.shape:
        raise ValueError(f"the output has shape {tuple(out.shape)}, expected {tuple(inputs.dout.shape)}")
    dout = _only(inputs.dout, sampled)
    actual: dict[TensorName, Tensor | None] = {"out": out.detach(), **_gradients(out, inputs, dout)}
    tallies: dict[TensorName, Tally] = {name: Tally() for name, tensor in actual.items() if tensor is not None}
    for part in _parts(inputs, dout, problem, sampled, window):
        part.compare(actual, tallies)
    if "dq" in tallies and (dq := actual["dq"]) is not None:
        _others_are_zero(dq, sampled, tallies["dq"])
    missing = [name.removeprefix("d") for name, tensor in actual.items() if tensor is None]
    reason = f"no gradient reaches {', '.join(missing)}" if missing else None
    return {name: tallies[name].errors() if name in tallies else None for name in actual}, reason


def _gradients(out: Tensor, inputs: Inputs, dout: Tensor) -> dict[TensorName, Tensor | None]:
    """None for an input that no gradient reaches."""
    import torch

    names: tuple[TensorName, ...] = ("dq", "dk", "dv")
    if not out.requires_grad:
        return dict.fromkeys(names)
    leaves = (inputs.q, inputs.k, inputs.v)
    return dict(zip(names, torch.autograd.grad(loss_of(out, dout), leaves, allow_unused=True), strict=True))


def _only(dout: Tensor, sampled: Sequence[Sequence[int]]) -> Tensor:
    """`dout` at the sampled rows, and zero elsewhere."""
    import torch

    kept = torch.zeros_like(dout)
    for row, positions in enumerate(sampled):
        kept[row, list(positions)] = dout[row, list(positions)]
    return kept


def _others_are_zero(dq: Tensor, sampled: Sequence[Sequence[int]], tally: Tally) -> None:
    """A query without an incoming gradient gets none: the largest that there is counts as an error."""
    rest = dq.clone()
    for row, positions in enumerate(sampled):
        rest[row, list(positions)] = 0
    largest = float(rest.abs().amax())
    tally.error = largest if not largest <= tally.error else tally.error


@dataclass(frozen=True, kw_only=True)
class Part:
    """The sampled queries of one row and one kv head, with their right and plain torch's output and gradients."""

    row: int
    head: int
    group: slice
    positions: list[int]
    exact: dict[TensorName, Tensor]
    plain: dict[TensorName, Tensor]

    def compare(self, actual: Mapping[TensorName, Tensor | None], tallies: Mapping[TensorName, Tally]) -> None:
        for name, tally in tallies.items():
            if (whole := actual[name]) is not None:
                of_queries = name in {"out", "dq"}
                mine = whole[self.row][self.positions, self.group] if of_queries else whole[self.row][:, self.head]
                tally.add(mine, self.plain[name], self.exact[name])


def _parts(
    inputs: Inputs, dout: Tensor, problem: Problem, sampled: Sequence[Sequence[int]], window: int | None
) -> Iterator[Part]:
    """Row by row and kv head by kv head, so that little memory is in use at a time."""
    import torch

    shape = problem.shape
    group = shape.heads // shape.kv_heads
    for row, positions in enumerate(map(list, sampled)):
        seen = _seen(problem, row, positions, window)
        for head in range(shape.kv_heads):
            heads = slice(head * group, (head + 1) * group)
            tensors = (inputs.q[row, positions, heads], inputs.k[row, :, head], inputs.v[row, :, head])
            sinks = None if inputs.sinks is None else inputs.sinks[heads]
            incoming = dout[row, positions, heads]
            with torch.enable_grad():
                exact, plain = (
                    _solved([tensor.detach().to(dtype) for tensor in tensors], incoming.to(dtype), sinks, seen, shape)
                    for dtype in (torch.float64, tensors[0].dtype)
                )
            yield Part(row=row, head=head, group=heads, positions=positions, exact=exact, plain=plain)


def _seen(problem: Problem, row: int, positions: list[int], window: int | None) -> Tensor:
    """[sampled, length]: a query sees its document up to itself, and of that as many positions as the window has."""
    import torch

    batch, where = problem.batch, problem.where
    starts = [next(start for start, end in batch.spans(row) if start <= at < end) for at in positions]
    at, start = torch.tensor(positions, device=where)[:, None], torch.tensor(starts, device=where)[:, None]
    low = start if window is None else torch.maximum(start, at - window + 1)
    keys = torch.arange(batch.length, device=where)[None]
    return (keys >= low) & (keys <= at)


def _solved(
    tensors: Sequence[Tensor], dout: Tensor, sinks: Tensor | None, seen: Tensor, shape: Shape
) -> dict[TensorName, Tensor]:
    """Output and gradients of q [n, group, d], k [length, d], v [length, d_v], written out.

    In float64 the scale is applied to q, else to k: the same maths with other roundings, as FlashAttention's tests
    have their baseline.
    """
    import torch

    q, k, v = (tensor.requires_grad_() for tensor in tensors)
    exact = q.dtype == torch.float64
    scores = product("ngd,sd->ngs", q * shape.scale if exact else q, k if exact else k * shape.scale)
    scores = shape.softcap * (scores / shape.softcap).tanh() if shape.softcap else scores
    scores = scores.masked_fill(~seen[:, None], -math.inf)
    if sinks is not None:
        column = sinks.to(q.dtype)[None, :, None].expand(*scores.shape[:2], 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : k.shape[0]]
    out = product("ngs,sd->ngd", weights, v)
    dq, dk, dv = torch.autograd.grad(loss_of(out, dout), (q, k, v))
    return {"out": out.detach(), "dq": dq, "dk": dk, "dv": dv}
