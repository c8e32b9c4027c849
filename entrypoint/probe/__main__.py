"""The child's one run: import, machine, compile, correctness, observe, performance; each step an event."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from entrypoint.events import Subject
from entrypoint.probe import accuracy, backends, calls, cases, device, facts, observe, performance
from entrypoint.probe.eventlog import EventLog

if TYPE_CHECKING:
    import torch


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
        log.emit("machine", **facts.machine(where))
    with log.phase("import", name), unusable_if_it_raises("backend"):
        backend = backends.load(name, where)
    startup, timed = cases.startup_cases(), cases.performance_case(where.type)
    compile_variants(backend, (*startup, timed), where, log)
    check_cases(backend, startup, where, log)
    observe_kernels(backend, startup[0], where, log)
    measure_speed(backend, timed, where, log)
    log.emit("done", seconds=log.seconds)


def compile_variants(
    backend: backends.Backend, planned: Sequence[cases.Case], where: torch.device, log: EventLog
) -> None:
    """First forward and backward of each kernel variant, so that just-in-time compilation has its own phase.

    A variant that fails here fails again as a case and is reported there; Unusable is for a backend that runs none.
    """
    variants: dict[object, cases.Case] = {}
    for case in planned:
        variants.setdefault(case.variant, case)
    refusals = []
    for case in variants.values():
        with log.phase("compile", case.id):
            try:
                calls.forward_backward(backend, *cases.make_inputs(case, where))
                device.synchronize(where)
            except Exception as error:  # noqa: BLE001 - a kernel package may raise anything
                device.recover(where)
                refusals += [] if device.is_out_of_memory(error) else [describe(error)]
    if len(refusals) == len(variants):
        raise Unusable("backend", f"no case runs forward and backward: {refusals[0]}")


def check_cases(backend: backends.Backend, startup: Sequence[cases.Case], where: torch.device, log: EventLog) -> None:
    for case in startup:
        with log.phase("correctness", case.id) as watch, case_error_if_it_raises(case, where, log):
            measured = accuracy.measure(backend, case, where)
            log.emit(
                "case",
                id=case.id,
                seconds=watch.elapsed(),
                tensors=measured.tensors,
                no_gradient=measured.no_gradient,
            )


def observe_kernels(backend: backends.Backend, case: cases.Case, where: torch.device, log: EventLog) -> None:
    """A profiler that does not work is no fault of the backend: then nothing was observed, with the reason."""
    names: tuple[str, ...] = ()
    reason = None
    with log.phase("observe", case.id):
        try:
            names = observe.kernel_names(backend, case, where)
        except Exception as error:  # noqa: BLE001 - profilers raise RuntimeError and more
            reason = describe(error)
            device.recover(where)
    observed = observe.attribute(names, backend.name)
    log.emit("kernels", names=observe.presentable(names), observed=observed, reason=reason)


def measure_speed(backend: backends.Backend, case: cases.Case, where: torch.device, log: EventLog) -> None:
    with log.phase("performance", "matmul"), case_error_if_it_raises(case, where, log):
        ceiling = performance.matmul_ceiling(where)
        log.emit("ceiling", matmul_tflops=ceiling.tflops, seconds=ceiling.seconds, samples=ceiling.samples)
    with log.phase("performance", case.id), case_error_if_it_raises(case, where, log):
        for speed in performance.attention_speeds(backend, case, where):
            log.emit(
                "speed",
                id=case.id,
                direction=speed.direction,
                tflops=speed.tflops,
                seconds=speed.seconds,
                samples=speed.samples,
            )


@contextmanager
def unusable_if_it_raises(subject: Subject) -> Iterator[None]:
    """Every exception of an import or of opening a device is a reason for the report."""
    try:
        yield
    except Exception as error:
        raise Unusable(subject, describe(error)) from error


@contextmanager
def case_error_if_it_raises(case: cases.Case, where: torch.device, log: EventLog) -> Iterator[None]:
    """Report a case's exception and go on, unless the device no longer works: then its error ends this process."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a kernel package may raise anything
        log.emit("case_error", id=case.id, reason=describe(error), out_of_memory=device.is_out_of_memory(error))
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
