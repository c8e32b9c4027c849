"""The child's one run: import, machine, compile, correctness, observe, performance; each step an event."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from entrypoint.events import Subject
from entrypoint.probe import accuracy, backends, calls, cases, device, facts, health, memory, observe, performance
from entrypoint.probe.eventlog import EventLog

if TYPE_CHECKING:
    import torch


# A variant that a JIT backend has no cached kernel for costs seconds: those that would begin after this are left out,
# and a later start, which finds the earlier ones in the cache, gets to them.
COMPILE_SECONDS = 20.0
# Causal and full, head_dim 64 and 128: no start goes without them, whatever they take to compile.
ALWAYS = 4
# Of a kernel that is forced: causal and full, both head dims, then strided inputs and the first feature.
CASES_PER_KERNEL = 6


class Unusable(Exception):
    """torch, the device or the backend (`subject`) cannot be used here at all; the message is the reason."""

    def __init__(self, subject: Subject, reason: str) -> None:
        super().__init__(reason)
        self.subject = subject


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 whenever the events tell the whole story; a traceback and 1 when the device is beyond use."""
    options = parse(argv)
    log = EventLog.take(options.events)
    try:
        probe(options.backend, options.device, log)
    except Unusable as refusal:
        log.emit("unusable", subject=refusal.subject, reason=str(refusal))
    return 0


def probe(name: str, device_name: str, log: EventLog) -> None:
    """Measure one backend on one device. Raises Unusable, or the device's own error when no later call can succeed."""
    with log.phase("import", "torch"), unusable_if_it_raises("torch"):
        import torch  # noqa: F401  (this import is what is being measured)
    with log.phase("machine", device_name):
        with unusable_if_it_raises("device"):
            where = device.open_device(device_name)
        machine: dict[str, Any] = facts.machine(where)
        log.emit("machine", **machine)
    with log.phase("import", name), unusable_if_it_raises("backend"):
        backend = backends.load(name, where)
    with health.watched(machine["device"]["uuid"], log) as sensors:
        timed = [Run(backend, case) for case in performance.timed_cases(where.type, backend.capabilities)]
        first = [Run(backend, case) for case in cases.startup_cases(backend.capabilities)[:ALWAYS]]
        planned = plan(backend, far=memory.room_for_far(where))
        compiled, left_out = compile_variants([*first, *timed], planned, where, log)
        check_cases([run for run in planned if run.key in compiled], where, log)
        for asked in (backend, *backend.kernels.values()):
            observe_kernels(asked, cases.startup_cases(asked.capabilities)[0], where, log)
        survive = partial(case_error_if_it_raises, where=where, log=log)
        performance.measure_speed(backend, where, log, sensors, survive)
    log.emit("done", seconds=log.seconds, left_out=left_out)


@dataclass(frozen=True)
class Run:
    """One case for a backend, or for one of its kernels, forced: then the case's id begins with the kernel's name."""

    backend: backends.Backend
    case: cases.Case

    @property
    def key(self) -> tuple[str, cases.Case]:
        """Runs that share it share a compiled kernel."""
        return (self.backend.name, self.case.variant)


def plan(backend: backends.Backend, *, far: bool) -> list[Run]:
    """Every case that the backend claims, and beside it the same of its kernels, of each the first few."""
    runs = [Run(backend, case) for case in cases.startup_cases(backend.capabilities, far=far)]
    for name, kernel in backend.kernels.items():
        few = cases.startup_cases(kernel.capabilities)[:CASES_PER_KERNEL]
        runs += [Run(kernel, replace(case, id=f"{name}:{case.id}")) for case in few]
    # Side by side they share the reference; the far case stays the last.
    order = {problem: index for index, problem in enumerate(dict.fromkeys(run.case.problem for run in runs))}
    return sorted(runs, key=lambda run: (run.case.layout == "far", order[run.case.problem]))


def compile_variants(
    always: Sequence[Run], planned: Sequence[Run], where: torch.device, log: EventLog
) -> tuple[set[tuple[str, cases.Case]], list[str]]:
    """First forward and backward of each kernel variant, so that just-in-time compilation has its own phase.

    Returns the keys of the runs that have been tried, and the ids of those that COMPILE_SECONDS left no time for; what
    is in `always` is compiled however long it takes. A variant that fails here fails again as a case and is reported
    there; Unusable is for a backend that runs none.
    """
    tried: set[tuple[str, cases.Case]] = set()
    refusals, left_out = [], []
    for position, run in enumerate([*always, *planned]):
        if run.key in tried:
            continue
        if position >= len(always) and log.seconds.get("compile", 0.0) > COMPILE_SECONDS:
            left_out.append(run.case.id)
            continue
        tried.add(run.key)
        with log.phase("compile", run.case.id) as watch:
            try:
                first_call(run, where)
                log.emit("first_call", id=run.case.id, seconds=watch.elapsed())
            except Exception as error:  # noqa: BLE001 - a kernel package may raise anything
                device.recover(where)
                refusals += [] if device.is_out_of_memory(error) else [describe(error)]
    if len(refusals) == len(tried):
        raise Unusable("backend", f"no case runs forward and backward: {refusals[0]}")
    return tried, left_out


def first_call(run: Run, where: torch.device) -> None:
    arguments, dout = cases.make_inputs(run.case, where)
    trains = run.backend.no_gradient is None
    calls.run(run.backend, *memory.place(arguments, dout, run.case.layout, requires_grad=trains))
    device.synchronize(where)


def check_cases(planned: Sequence[Run], where: torch.device, log: EventLog) -> None:
    for run in planned:
        case, capabilities = run.case, run.backend.capabilities
        with log.phase("correctness", case.id) as watch, case_error_if_it_raises(case.id, where, log):
            measured = accuracy.measure(run.backend, case, where)
            log.emit(
                "case",
                id=case.id,
                dtype=case.dtype,
                inputs=case.inputs,
                seconds=watch.elapsed(),
                tensors=measured.tensors,
                no_gradient=measured.no_gradient,
                mutated=measured.mutated,
                repeatable=measured.repeatable,
                relative_error=None if capabilities is None else capabilities.relative_error,
            )


def observe_kernels(backend: backends.Backend, case: cases.Case, where: torch.device, log: EventLog) -> None:
    """A profiler that does not work is no fault of the backend: then nothing was observed, with the reason."""
    seen = observe.Recording(names=(), recorded=0)
    reason = None
    with log.phase("observe", case.id):
        try:
            seen = observe.record(backend, case, where)
        except Exception as error:  # noqa: BLE001 - profilers raise RuntimeError and more
            reason = describe(error)
            device.recover(where)
    observed = observe.attribute(seen.names, backend.name)
    names = observe.presentable(seen.names)
    log.emit("kernels", asked=backend.name, names=names, observed=observed, recorded=seen.recorded, reason=reason)


@contextmanager
def unusable_if_it_raises(subject: Subject) -> Iterator[None]:
    """Every exception of an import or of opening a device is a reason for the report."""
    try:
        yield
    except Exception as error:
        raise Unusable(subject, describe(error)) from error


@contextmanager
def case_error_if_it_raises(subject: str, where: torch.device, log: EventLog) -> Iterator[None]:
    """Report a case's exception and go on, unless the device no longer works: then its error ends this process."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a kernel package may raise anything
        log.emit("case_error", id=subject, reason=describe(error), out_of_memory=device.is_out_of_memory(error))
        device.recover(where)


def describe(error: BaseException) -> str:
    """The exception's type and message, short enough for a report."""
    return f"{type(error).__name__}: {error}"[:2000]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -P -m entrypoint.probe",
        description="Run one attention backend forward and backward on one device, next to a float64 reference, time "
        "it, and write what was measured as JSON lines (see entrypoint/events.py). It never judges.",
        epilog="Exit status: 0 when the lines tell the whole story (an `unusable` line included), 2 for a mistake in "
        "these arguments, anything else when the device or a kernel broke this process. Standard output is redirected "
        "to standard error, so that the lines of --events are all that is written there.",
    )
    parser.add_argument("--backend", required=True, type=_backend, help=f"one of: {', '.join(backends.NAMES)}")
    parser.add_argument("--device", required=True, help="torch's name for the device: cuda:0, cpu")
    parser.add_argument("--events", default=1, type=int, metavar="FD", help="file descriptor of the lines (default: 1)")
    return parser.parse_args(argv)


def _backend(name: str) -> str:
    """argparse prints an ArgumentTypeError's own text; of a ValueError it would only say that there was one."""
    try:
        return backends.known(name)
    except backends.UnknownBackend as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
