"""Helpers of a check: processes beside it, each of which compiles and checks a share of the variants.

A just-in-time compiler is busy on one core for seconds with each variant that its cache does not hold, and for half a
second with one that it holds. The check begins with what it will also time, the helpers take the rest, and it writes
down what they measured as its own. They are an aid: a case that none of them has finished, whatever the reason, the
check runs itself, and reports it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from entrypoint.events import CaseEvent, Depth, FirstCallEvent, Garbled, decode
from entrypoint.probe import backends

if TYPE_CHECKING:
    from entrypoint.probe.schedule import Asked

# Each imports torch beside the check, and takes half a gigabyte of the GPU meanwhile.
MOST: Final[Mapping[Depth, int]] = {"start": 6, "deep": 12}
# Seconds until what an ended process has written is read.
PATIENCE: Final = 5.0


@dataclass(frozen=True)
class Finished:
    """What helpers have finished, by the ids of the cases: the first call of a variant, and what was measured."""

    first_calls: Mapping[str, FirstCallEvent] = field(default_factory=dict)
    cases: Mapping[str, CaseEvent] = field(default_factory=dict)


NOTHING: Final = Finished()


class Helpers:
    """The helpers of one check, `count` of them under one process, and the lines that they have written so far.

    Leaving the context ends those that still run: nothing may disturb a measurement.
    """

    def __init__(self, command: Sequence[str] = (), count: int = 0) -> None:
        self._count = count
        self._lines: list[bytes] = []
        # In the process group of this process, so that whoever ends that ends it too.
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE) if count else None
        self._reader = threading.Thread(target=self._read, daemon=True)
        if count:
            self._reader.start()

    def __enter__(self) -> Helpers:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish(0.0)

    def __len__(self) -> int:
        return self._count

    def finish(self, seconds: float) -> Finished:
        """Wait for them so long at most, then end them; what they have finished."""
        if self.process:
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.terminate()
                self.process.wait()
            self._reader.join(PATIENCE)
        return finished(self._lines)

    def _read(self) -> None:
        if self.process and self.process.stdout:
            with self.process.stdout as stream:
                self._lines.extend(stream)


NONE: Final = Helpers()


def finished(lines: Iterable[bytes]) -> Finished:
    """What the lines tell of cases that are finished; the last line of a helper that was ended may be half a one."""
    first_calls: dict[str, FirstCallEvent] = {}
    cases: dict[str, CaseEvent] = {}
    for line in lines:
        with contextlib.suppress(Garbled):
            event = decode(line)
            if isinstance(event, FirstCallEvent):
                first_calls[event.id] = event
            elif isinstance(event, CaseEvent):
                cases[event.id] = event
    return Finished(first_calls=first_calls, cases=cases)


def start(backend: str, device: str, jobs: int, environ: Mapping[str, str], asked: Asked | None = None) -> Helpers:
    """The helpers of a check that may keep `jobs` processes busy, itself among them."""
    count = max(0, min(wanted(backend, device, environ, asked), jobs - 1))
    command = [sys.executable, "-P", "-m", "entrypoint.probe.share", "--backend", backend, "--device", device]
    command += [*(asked.flags if asked else []), f"--helpers={count}"]
    return Helpers(command, count)


def wanted(backend: str, device: str, environ: Mapping[str, str], asked: Asked | None) -> int:
    """How many helpers are worth their start: one for each variant that the check does not begin with.

    Where the compiler's cache has content, only what is traced anew in each process is worth one, and only on a GPU:
    on a CPU they would share the cores with the check. The calls of a run that is known are one variant, or two where
    only some layers have a window.
    """
    depth = asked.depth if asked else "deep"
    traced = device != "cpu" and backends.cache_variable(backend) and backends.compiles_each_variant(backend)
    if not traced and not is_cold(backend, environ):
        return 0
    if asked and asked.shape and depth == "start":
        return int(asked.shape.mixed)
    variants = backends.start_variants(backend) if depth == "start" else None
    return MOST[depth] if variants is None else variants - 1


def is_cold(backend: str, environ: Mapping[str, str]) -> bool:
    """Whether the backend compiles just in time, and the directory of its cache holds no file yet."""
    directory = environ.get(backends.cache_variable(backend) or "")
    return bool(directory) and not any(files for _, _, files in os.walk(str(directory)))
