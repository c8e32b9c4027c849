"""`python -m entrypoint.probe.ahead` compiles a share of a check's variants and says which: a helper of a cold start.

A just-in-time compiler is busy on one core for seconds with each variant, and keeps what it compiled on disk. Where
that cache is still empty, helpers compile side by side, each in a process of its own, and the check itself finds their
work there. They are an aid and no part of the check: what one of them cannot compile, the check meets by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from entrypoint.events import Depth
from entrypoint.lines import private
from entrypoint.probe import backends

if TYPE_CHECKING:
    from entrypoint.probe.schedule import Asked

# About as many as FlexAttention has variants at each depth; each takes half a gigabyte of the GPU meanwhile, and
# imports torch beside the others.
MOST: Final[Mapping[Depth, int]] = {"start": 6, "deep": 12}


class Helpers:
    """The helpers of one check. Leaving the context ends those that still run: nothing may disturb a measurement."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def __enter__(self) -> Helpers:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish(0.0)

    def __len__(self) -> int:
        return len(self._processes)

    def finish(self, seconds: float) -> frozenset[str]:
        """Wait for them so long at most, then end them; the ids of what they compiled."""
        deadline = time.monotonic() + seconds
        compiled: set[str] = set()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for process in self._processes:
            process.kill()
            if process.stdout and not process.stdout.closed:
                compiled.update(process.stdout.read().split())
                process.stdout.close()
            process.wait()
        return frozenset(compiled)


NONE: Final = Helpers(())


def start(backend: str, device: str, jobs: int, environ: Mapping[str, str], asked: Asked | None = None) -> Helpers:
    """Helpers for a backend whose cache is empty, one fewer than `jobs` processes; else none.

    The calls of a run that is known are one variant, or two where only some layers have a window.
    """
    most = MOST[asked.depth if asked else "deep"]
    if asked and asked.shape and asked.depth == "start":
        most = int(asked.shape.mixed)
    count = max(0, min(most, jobs - 1)) if is_cold(backend, environ) else 0
    command = [sys.executable, "-P", "-m", "entrypoint.probe.ahead", "--backend", backend, "--device", device]
    command += asked.flags if asked else []
    # In the process group of this process, so that whoever ends that ends them too.
    return Helpers(
        [
            subprocess.Popen([*command, f"--share={index}/{count}"], stdout=subprocess.PIPE, text=True)
            for index in range(count)
        ]
    )


def is_cold(backend: str, environ: Mapping[str, str]) -> bool:
    """Whether the backend compiles just in time, and the directory of its cache holds no file yet."""
    directory = environ.get(backends.cache_variable(backend) or "")
    return bool(directory) and not any(files for _, _, files in os.walk(str(directory)))


def main(argv: Sequence[str] | None = None) -> int:
    """Compile every n-th variant but the first, which the check itself begins with; say the id of each when done."""
    options = parse(argv)
    said = private(1)  # our output is the ids alone
    from entrypoint.probe import calls, device, memory, schedule

    index, count = map(int, options.share.split("/"))
    where = device.open_device(options.device)
    backend = backends.load(options.backend, where)
    plan = schedule.plan(backend, where.type, schedule.asked(options), far=memory.room_for_far(where))
    for run in [*plan.variants][1:][index::count]:
        # Whatever it raises, the check will meet it too, and report it.
        with contextlib.suppress(Exception):
            calls.first(run.backend, run.case, where)
            print(run.case.id, file=said, flush=True)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    from entrypoint.probe import schedule

    parser = argparse.ArgumentParser(prog="python -P -m entrypoint.probe.ahead", description=__doc__)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--device", required=True)
    schedule.add_options(parser)
    parser.add_argument("--share", required=True, metavar="I/N", help="every N-th variant, beginning with the I-th")
    return parser.parse_args(argv)


if __name__ == "__main__":
    os._exit(main())  # torch's own compiler workers can take nine seconds to say goodbye
