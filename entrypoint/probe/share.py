"""`python -m entrypoint.probe.share`: a check's helpers, each of which compiles and checks a share of the variants.

See `entrypoint.probe.helpers`. They are forked from one process that has imported what all of them need: processes that
imported it side by side were a second and a half behind the check. Each writes the events of the probe to their common
output, for the check that started them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from entrypoint.probe import backends, device, early, memory, schedule, variants
from entrypoint.probe.eventlog import EventLog
from entrypoint.probe.limit import Limit

if TYPE_CHECKING:
    import torch

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h: the signal that a process gets when its parent dies


def main(argv: Sequence[str] | None = None) -> int:
    """Whatever a case raises, the check will meet it too, and report it: here the next one follows."""
    argv = sys.argv[1:] if argv is None else argv
    options = parse(argv)
    if options.share:
        return work(options, *map(int, options.share.split("/")))
    backends.preload(options.backend)
    return forked(options.helpers, lambda index: helped(options, index, argv))


def helped(options: argparse.Namespace, index: int, argv: Sequence[str]) -> int:
    """One helper after its fork. Where an import asked CUDA anything, no GPU works in it, and it starts again alone."""
    import torch

    if torch.cuda._is_in_bad_fork():
        alone = [*argv, f"--share={index}/{options.helpers}"]
        os.execv(sys.executable, [sys.executable, "-P", "-m", "entrypoint.probe.share", *alone])
    return work(options, index, options.helpers)


def work(options: argparse.Namespace, index: int, count: int) -> int:
    """First calls and cases of every `count`-th variant, beginning with the `index`-th."""
    if not early.is_shared(options.device):  # the check needs it
        return 0
    log, where = EventLog.take(1), opened(options.device, options.backend)
    kernels = early.load_kernels(where)
    early.build_launcher(options.backend, where)
    backend = backends.load(options.backend, where)
    plan = schedule.plan(backend, where.type, schedule.asked(options), far=memory.room_for_far(where))
    for run in plan.shared[index::count]:
        mine = replace(plan, checked=[each for each in plan.checked if each.key == run.key])
        refusal = variants.first_call(run, where, log)
        kernels.join(early.PATIENCE)
        if refusal is None:
            variants.check_cases(mine, {run.key}, where, log, Limit())
    return 0


def forked(count: int, work: Callable[[int], int]) -> int:
    """Fork `count` processes that do `work` of their index, and wait for them: fewer where there is no room for more.
    SIGTERM ends them, and then this one; none of them outlives it.
    """
    running: list[int] = []

    def end(*_: object) -> None:
        for child in running:
            os.kill(child, signal.SIGKILL)

    with later(signal.SIGTERM), contextlib.suppress(OSError):
        signal.signal(signal.SIGTERM, end)
        for index in range(count):
            child = os.fork()
            if not child:
                _end_with(work, index)
            running.append(child)
    while running:
        os.waitid(os.P_PID, running[-1], os.WEXITED | os.WNOWAIT)  # its number is nobody else's until it is reaped
        with later(signal.SIGTERM):
            os.waitpid(running.pop(), 0)
    return 0


@contextlib.contextmanager
def later(number: signal.Signals) -> Iterator[None]:
    """The signal comes after the block."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])


def _end_with(work: Callable[[int], int], index: int) -> None:
    """Do it, and end this process, which was forked amidst the work of another. torch's own compiler workers can take
    nine seconds to say goodbye.
    """
    status = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        status = work(index)
    except BaseException:  # noqa: BLE001 - whatever it is, it must not go on as the process that forked this one
        traceback.print_exc()
    finally:
        os._exit(status)


def opened(name: str, backend: str) -> torch.device:
    """The device, whose context is made while the rest is imported: 0.8 s, where six processes make one each."""
    context = early.open_context(name)
    backends.preload(backend)
    backends.preload_compiler(backend)
    context.join(early.PATIENCE)
    return device.open_device(name)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -P -m entrypoint.probe.share", description=__doc__)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--device", required=True)
    schedule.add_options(parser)
    parser.add_argument("--helpers", type=int, default=1, metavar="N", help="how many of them to fork (default: 1)")
    parser.add_argument("--share", metavar="I/N", help="be the one with every N-th variant, beginning with the I-th")
    return parser.parse_args(argv)


if __name__ == "__main__":
    os._exit(main())
