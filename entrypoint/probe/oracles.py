"""Answers known without any attention: two input families whose output and gradients follow from a sum or a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from entrypoint.probe.backends import Arguments
from entrypoint.probe.calls import Results

if TYPE_CHECKING:
    from torch import Tensor

    Oracle = Callable[[Arguments, Tensor], Results]

# dq and dk are zero here, which is no scale to measure their error by; without cancellation they would be of this size.
FLOOR = {"dq": 1.0, "dk": 1.0}


def running_mean(arguments: Arguments, dout: Tensor) -> Results:
    """q = k = 0: out_i is the mean of the values that i sees, lse_i the logarithm of their number.

    dv_j is the sum of dout_i / (number that i sees) over the i that see j; dq = dS k = 0 and dk = dS^T q = 0.
    """
    import torch

    q, v, dout = arguments.q, arguments.v.double(), dout.double()
    seen = torch.full((q.shape[1],), q.shape[1], dtype=torch.float64, device=q.device)
    if arguments.causal:
        seen = torch.arange(1, q.shape[1] + 1, dtype=torch.float64, device=q.device)
    shares = dout / seen[:, None, None]
    if arguments.causal:
        sums, dv = v.cumsum(1), shares.flip(1).cumsum(1).flip(1)
    else:
        sums, dv = (tensor.sum(1, keepdim=True).expand_as(tensor) for tensor in (v, shares))
    out = (sums / seen[:, None, None]).repeat_interleave(q.shape[2] // v.shape[2], dim=2)
    return _results(arguments, out, dv, seen.log().expand(q.shape[0], q.shape[2], -1))


def one_row(arguments: Arguments, dout: Tensor) -> Results:
    """Query i sees position S - 1 - i alone: out is v reversed, and dv is dout reversed, summed over each group.

    lse is the one score; a softmax that is constant around its inputs has no gradient, so dq = dk = 0.
    """
    q, v = arguments.q.double(), arguments.v.double()
    out = v.flip(1).repeat_interleave(q.shape[2] // v.shape[2], dim=2)
    scores = q.square().sum(-1) * q.shape[-1] ** -0.5
    return _results(arguments, out, dout.double().flip(1), scores.transpose(1, 2))


def _results(arguments: Arguments, out: Tensor, dv: Tensor, lse: Tensor) -> Results:
    """dv comes with one head for each query head: grouped heads sum theirs."""
    kv_heads = arguments.v.shape[2]
    dv = dv.unflatten(2, (kv_heads, dv.shape[2] // kv_heads)).sum(3)
    dq, dk = (tensor.double() * 0.0 for tensor in (arguments.q, arguments.k))
    return Results(out=out, dq=dq, dk=dk, dv=dv, no_gradient=None, lse=lse)


# By input family.
ORACLES: dict[str, Oracle] = {"mean": running_mean, "onehot": one_row}
