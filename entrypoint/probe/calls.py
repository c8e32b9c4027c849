"""One forward and backward of an attention function: the same for a backend, the reference and the baseline."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from entrypoint.probe import cases, device, memory
from entrypoint.probe.backends import Arguments, Backend

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Results:
    """What one call gave: out like q, and the gradients of q, k and v; None, with a reason, where there is none.

    `lse`, the logsumexp of each row's scores [batch, heads, seqlen], where it was asked for.
    """

    out: Tensor
    dq: Tensor | None
    dk: Tensor | None
    dv: Tensor | None
    no_gradient: str | None
    lse: Tensor | None = None

    def tensor(self, name: str) -> Tensor | None:
        value: Tensor | None = getattr(self, name)
        return value


def forward_backward(backend: Backend, arguments: Arguments, dout: Tensor) -> Results:
    """Run the backend on copies of the arguments, forward and, unless it has no backward, back from `dout`."""
    return run(backend, fresh(arguments, requires_grad=backend.no_gradient is None), dout)


def run(backend: Backend, leaves: Arguments, dout: Tensor, before: Callable[[], object] = lambda: None) -> Results:
    """Run the backend on these very tensors; `before` is called ahead of each launch."""
    before()
    out = backend.attention(leaves)
    if backend.no_gradient is not None:
        return Results(out=out, dq=None, dk=None, dv=None, no_gradient=backend.no_gradient)
    before()
    dq, dk, dv = gradients(out, leaves, dout)
    missing = [name for name, gradient in (("q", dq), ("k", dk), ("v", dv)) if gradient is None]
    reason = f"no gradient reaches {', '.join(missing)}" if missing else None
    return Results(out=out.detach(), dq=dq, dk=dk, dv=dv, no_gradient=reason)


def fresh(arguments: Arguments, *, requires_grad: bool) -> Arguments:
    """Copies that are leaves of their own graph: what a kernel writes in place cannot reach the next reader."""
    return arguments.map(lambda tensor: tensor.detach().clone().requires_grad_(requires_grad))


def first(backend: Backend, case: cases.Case, where: torch.device) -> None:
    """A forward and backward of a case, and wait for it. Raises whatever the backend raises."""
    arguments, dout = cases.make_inputs(case, where)
    run(backend, *memory.place(arguments, dout, case.layout, requires_grad=backend.no_gradient is None))
    device.synchronize(where)


def gradients(out: Tensor, leaves: Arguments, dout: Tensor) -> tuple[Tensor | None, ...]:
    """dq, dk, dv, each None when no gradient reaches that input: some kernels return an output cut off from them."""
    return backward(loss_of(out, dout), leaves) if out.requires_grad else (None, None, None)


def backward(loss: Tensor, leaves: Arguments) -> tuple[Tensor | None, ...]:
    import torch

    wanted = (leaves.q, leaves.k, leaves.v)
    found: tuple[Tensor | None, ...] = torch.autograd.grad(loss, wanted, allow_unused=True)
    return found


def loss_of(out: Tensor, dout: Tensor) -> Tensor:
    """A scalar whose gradient for `out` is `dout` itself, as a loss's is.

    Given dout, torch.autograd.grad would first import what symbolic shapes need: half a second of a start.
    """
    scalar: Tensor = _loss().apply(out, dout)
    return scalar


@functools.cache
def _loss() -> Any:
    import torch

    class Loss(torch.autograd.Function):  # type: ignore[misc]  # torch's own class is untyped
        """A number without a meaning; its gradient for the first argument is the second."""

        @staticmethod
        def forward(ctx: Any, out: Tensor, dout: Tensor) -> Tensor:
            ctx.dout = dout
            return out.new_empty(())

        @staticmethod
        def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, None]:
            return ctx.dout, None

    return Loss
