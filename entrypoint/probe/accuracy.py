"""How far a backend's output and gradients are from the reference, and how far plain torch is. Numbers, no verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from entrypoint.events import TENSOR_FIELDS
from entrypoint.probe import reference
from entrypoint.probe.backends import Backend
from entrypoint.probe.calls import forward_backward
from entrypoint.probe.cases import Case, make_inputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TENSORS = ("out", "dq", "dk", "dv")
Errors = dict[str, float | bool]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """TENSOR_FIELDS of each of TENSORS; None for a gradient that does not exist, with the reason in `no_gradient`."""

    tensors: dict[str, Errors | None]
    no_gradient: str | None


def measure(backend: Backend, case: Case, where: torch.device) -> Measured:
    """Run the backend, the float64 reference and the low-precision baseline on the same seeded inputs.

    The backend runs first, on memory that the others have not touched. Raises what the backend raises, and ValueError
    when a tensor has another shape than the reference's.
    """
    arguments, dout = make_inputs(case, where)
    actual = forward_backward(backend, arguments, dout)
    exact = reference.float64(arguments, dout, backend.no_gradient)
    plain = reference.plain_torch(arguments, dout, backend.no_gradient)
    tensors = {name: errors(name, actual.tensor(name), plain.tensor(name), exact.tensor(name)) for name in TENSORS}
    return Measured(tensors=tensors, no_gradient=actual.no_gradient)


def errors(name: str, actual: Tensor | None, plain: Tensor | None, exact: Tensor | None) -> Errors | None:
    """TENSOR_FIELDS of one tensor, read back from the device in one transfer."""
    import torch

    if actual is None or plain is None or exact is None:
        return None
    if actual.shape != exact.shape:
        raise ValueError(f"{name} has shape {tuple(actual.shape)}, expected {tuple(exact.shape)}")
    wrong, unavoidable, norm = actual.double() - exact, plain.double() - exact, exact.norm()
    values = (
        wrong.abs().amax(),
        unavoidable.abs().amax(),
        wrong.norm() / norm,
        unavoidable.norm() / norm,
        exact.abs().amax(),
        actual.isfinite().all().double(),
    )
    fields: Errors = dict(zip(TENSOR_FIELDS, torch.stack(values).tolist(), strict=True))
    return {**fields, "finite": bool(fields["finite"])}
