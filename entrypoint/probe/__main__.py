"""The child's one run: import, machine, compile, correctness, observe, performance; each step an event."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from entrypoint.events import KernelsEvent, UnusableEvent
from entrypoint.probe import (
    backends,
    cases,
    device,
    early,
    facts,
    helpers,
    memory,
    observe,
    performance,
    schedule,
    sensors,
    variants,
)
from entrypoint.probe.eventlog import EventLog
from entrypoint.probe.limit import Limit
from entrypoint.probe.trouble import Unusable, case_error_if_it_raises, describe, unusable_if_it_raises

if TYPE_CHECKING:
    import torch


UNLIMITED = Limit()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 whenever the events tell the whole story; a traceback and 1 when the device is beyond use."""
    options = parse(argv)
    log, limit = EventLog.take(options.events), Limit(options.seconds)
    # Inductor's own pool would compile the two directions of one variant at a time; helpers compile many.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    try:
        asked = schedule.asked(options)
        with helpers.start(options.backend, options.device, options.jobs, os.environ, asked) as aids:
            probe(options.backend, options.device, log, aids=aids, limit=limit, asked=asked)
    except Unusable as refusal:
        log.emit(UnusableEvent(subject=refusal.subject, reason=str(refusal)))
    return 0


def probe(  # noqa: PLR0913 - one parameter for each of what a check is told
    name: str,
    device_name: str,
    log: EventLog,
    *,
    aids: helpers.Helpers = helpers.NONE,
    limit: Limit = UNLIMITED,
    asked: schedule.Asked = schedule.EVERYTHING,
) -> None:
    """Measure one backend on one device. Raises Unusable, or the device's own error when no later call can succeed."""
    context = early.open_context(device_name)
    with log.phase("import", "torch"), unusable_if_it_raises("torch"):
        import torch  # noqa: F401  (this import is what is being measured)
    with log.phase("machine", device_name):
        with unusable_if_it_raises("device"):
            context.join(early.PATIENCE)
            where = device.open_device(device_name)
        machine = facts.machine(where)
        log.emit(machine)
        sensors_of_it = sensors.opening(machine.device.uuid)
        kernels = early.load_kernels(where, performance.timed_cases(where.type))
        early.build_launcher(name, where)
    with log.phase("import", name), unusable_if_it_raises("backend"):
        backend = backends.load(name, where)
    with log.phase("machine", "kernels of torch"):
        kernels.join(early.PATIENCE)
    with log.phase("machine", "sensors"):
        watched = sensors_of_it()
    with sensors.watched(watched, log):
        plan = schedule.plan(backend, where.type, asked, far=memory.room_for_far(where))
        compiling = variants.Compiling(plan, where, log, limit)
        compiling.run(aids)
        compiled = compiling.tried if plan.compiles else {run.key for run in plan.checked}
        left_out = variants.check_cases(plan, compiled, where, log, limit, finished=compiling.finished)
        for kernel in plan.kernels:
            first = next((run for run in plan.checked if run.key in compiled), plan.checked[0])
            case = first.case if kernel is backend else cases.startup_cases(kernel.capabilities)[0]
            observe_kernels(kernel, unmasked(case, kernel), where, log)
        survive = partial(case_error_if_it_raises, where=where, log=log)
        performance.measure_speed(backend, where, log, watched, survive, timed=plan.timed, compared=plan.compared)
    log.done(left_out, plan.left_out)


def unmasked(case: cases.Case, backend: backends.Backend) -> cases.Case:
    """The call in which a kernel is looked for; what a packed training runs, its rehearsal sees."""
    return replace(case, cu_seqlens=None, window=None) if backend.masked else case


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
    log.emit(KernelsEvent(asked=backend.name, names=names, observed=observed, recorded=seen.recorded, reason=reason))


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
    parser.add_argument(
        "--jobs", default=1, type=int, metavar="N", help="processes that may compile side by side (default: 1)"
    )
    parser.add_argument(
        "--seconds", default=math.inf, type=float, metavar="S", help="after most of them, cases are left out and named"
    )
    schedule.add_options(parser)
    return parser.parse_args(argv)


def _backend(name: str) -> str:
    """argparse prints an ArgumentTypeError's own text; of a ValueError it would only say that there was one."""
    try:
        return backends.known(name)
    except backends.UnknownBackend as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
