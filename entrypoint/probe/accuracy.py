"""How far a backend's output and gradients are from the reference, and how far plain torch is. Numbers, no verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from entrypoint.events import CaseEvent, TensorErrors, TensorName
from entrypoint.probe import calls, memory, reference, rows
from entrypoint.probe.backends import Arguments, Backend
from entrypoint.probe.cases import Case

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TENSORS: Final[tuple[TensorName, ...]] = ("out", "dq", "dk", "dv")
LSE: Final = "lse"
# Runs that must agree in every bit with the first, where the backend claims to be deterministic.
REPEATS = 2


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one case measured, in the terms of CaseEvent, which is made of it."""

    tensors: dict[TensorName, TensorErrors | None]
    no_gradient: str | None
    mutated: tuple[str, ...] = ()
    repeatable: bool | None = None

    def event(self, case: Case, seconds: float, relative_error: float | None = None) -> CaseEvent:
        """The event of `case`, which took so many seconds; `relative_error` is the backend's by its design."""
        return CaseEvent(
            id=case.id,
            dtype=case.dtype,
            inputs=case.inputs,
            seconds=seconds,
            relative_error=relative_error,
            tensors=self.tensors,
            no_gradient=self.no_gradient,
            mutated=self.mutated,
            repeatable=self.repeatable,
        )


def measure(backend: Backend, case: Case, where: torch.device) -> Measured:
    """Run the backend, the float64 reference and the low-precision baseline on the same seeded inputs.

    Raises what the backend raises, and ValueError when a tensor has another shape than the reference's.
    """
    solve = rows.solve if case.sampled else reference.solve
    solution = solve(case, where, backend)
    actual, mutated = launch(backend, case, solution, where)
    claimed = backend.capabilities is not None and "deterministic" in backend.capabilities.features
    again = [launch(backend, case, solution, where)[0] for _ in range(REPEATS if claimed else 0)]
    names = TENSORS if actual.lse is None else (*TENSORS, LSE)
    return Measured(
        tensors={name: compared(name, actual, solution) for name in names},
        no_gradient=actual.no_gradient,
        mutated=mutated,
        repeatable=all(equal(actual, other) for other in again) if again else None,
    )


def launch(
    backend: Backend, case: Case, solution: reference.Solution, where: torch.device
) -> tuple[calls.Results, tuple[str, ...]]:
    """One run on copies of the inputs in the case's layout, free memory filled with NaN; and what it wrote into."""
    trains = backend.no_gradient is None
    arguments, dout = memory.place(solution.arguments, solution.dout, case.layout, requires_grad=trains)
    before = poison(arguments, dout, where)
    results = calls.run(backend, arguments, dout, before)
    if backend.logsumexp is not None:
        before()
        lse = backend.logsumexp(arguments.map(lambda tensor: tensor.detach()))
        results = replace(results, lse=lse)
    return results, memory.changed(arguments, dout, solution.arguments, solution.dout)


def poison(arguments: Arguments, dout: Tensor, where: torch.device) -> Callable[[], None]:
    """Fills free memory with NaN; on a CPU blocks as large as the tensors that an attention call allocates."""
    inputs = (arguments.q, arguments.k, arguments.v, dout)
    sizes = [tensor.numel() * width for tensor in inputs for width in (tensor.element_size(), 4)]
    sizes.append(arguments.q[..., 0].numel() * 4)
    return partial(memory.poison, where, sizes)


def equal(one: calls.Results, other: calls.Results) -> bool:
    """Whether two runs agree in every bit."""
    return all(memory.same_bits(one.tensor(name), other.tensor(name)) for name in (*TENSORS, LSE))


def compared(name: TensorName, actual: calls.Results, solution: reference.Solution) -> TensorErrors | None:
    """The errors of one tensor; of a sampled case those of its rows, each in units of its own size.

    A value that is not finite counts wherever it is.
    """
    got, plain, exact = (results.tensor(name) for results in (actual, solution.plain, solution.exact))
    if solution.sample is None or got is None or plain is None or exact is None:
        return errors(name, got, plain, exact, solution.floor.get(name))
    there = solution.sample.of(name, got)
    numbers = errors(name, *solution.sample.in_units_of_rows(name, (there, plain, exact), exact))
    return numbers and replace(numbers, finite=numbers.finite and bool(got.isfinite().all()))


def errors(
    name: str, actual: Tensor | None, plain: Tensor | None, exact: Tensor | None, floor: float | None = None
) -> TensorErrors | None:
    """How far one tensor is off, read back from the device in one transfer.

    `floor` is the size that errors are measured by where the right answer is zero everywhere.
    """
    import torch

    if actual is None or plain is None or exact is None:
        return None
    if actual.shape != exact.shape:
        raise ValueError(f"{name} has shape {tuple(actual.shape)}, expected {tuple(exact.shape)}")
    wrong, unavoidable = actual.double() - exact, plain.double() - exact
    norm, scale = exact.norm(), exact.abs().amax()
    if floor is not None:
        norm, scale = norm.clamp(min=floor * exact.numel() ** 0.5), scale.clamp(min=floor)
    values = (
        wrong.abs().amax(),
        unavoidable.abs().amax(),
        wrong.norm() / norm,
        unavoidable.norm() / norm,
        scale,
        actual.isfinite().all().double(),
    )
    error, baseline, relative, baseline_relative, largest, finite = torch.stack(values).tolist()
    return TensorErrors(
        error=error,
        baseline=baseline,
        relative=relative,
        baseline_relative=baseline_relative,
        scale=largest,
        finite=bool(finite),
    )
