"""`check --collective`: start this machine's ranks, or under torchrun the one rank that this process stands for.

Ranks find each other as torchrun's do, by MASTER_ADDR and MASTER_PORT. Where torchrun has set these, they are not
touched; else the ranks are processes of this machine alone, one for each GPU, or two on a CPU.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Final

from entrypoint.children.child import spawn, with_our_package
from entrypoint.children.outcome import LOG_TAIL
from entrypoint.children.progress import Progress
from entrypoint.children.ranks import Ranks
from entrypoint.collective.board import GAVE_UP, GRACE
from entrypoint.collective.events import ProgressEvent
from entrypoint.errors import ConfigError, MismatchError

TORCHRUN: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Bytes. Floors are known at 1 GiB; the smaller one is nearer to what a training step sends at a time.
ON_GPU: Final = (256 << 20, 1 << 30)
ON_CPU: Final = (4 << 20,)  # enough to be exact on, and a second on two busy cores
ON_A_CPU: Final = 2  # ranks
# A rank ends by itself before the limit, with what it knows: so many seconds, of a short limit a quarter.
MARGIN: Final = 8.0
POLL: Final = 0.1  # seconds between two looks at silent ranks
# After a rank has died, seconds for the others to say that they wait for it.
AFTERMATH: Final = 2 * GRACE + 4.0


@dataclass(frozen=True, kw_only=True)
class Starting:
    """The variables of each rank that this parent starts, by rank, and the size of the whole group."""

    world_size: int
    ranks: Mapping[int, Mapping[str, str]]


def plan(environ: Mapping[str, str], device: str, gpus: int) -> Starting:
    """Raises ConfigError for half of torchrun's variables, MismatchError where there is one GPU to talk to itself."""
    given = [name for name in TORCHRUN if environ.get(name)]
    if given:
        return _of_torchrun(environ, given)
    count = ON_A_CPU if device == "cpu" else gpus
    if count < 2:
        raise MismatchError(
            "A collective needs two GPUs, and one is in reach.", "Give the container all GPUs, or use torchrun."
        )
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    group = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), **address}
    # As torchrun does: all ranks together would have a thread for each core as many times as there are ranks.
    threads = {"OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS", "1")}
    ranks = {rank: {**group, **threads, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)}
    return Starting(world_size=count, ranks=ranks)


def _of_torchrun(environ: Mapping[str, str], given: Sequence[str]) -> Starting:
    missing = [name for name in TORCHRUN if name not in given]
    if missing:
        what = f"{', '.join(given)} is set and {', '.join(missing)} is not, so nobody knows which ranks there are."
        raise ConfigError(what, "Start it with torchrun, which sets them all, or with none of them.")
    try:
        rank, world_size = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    except ValueError:
        rank, world_size = 0, 0
    if not 0 <= rank < world_size or world_size < 2:
        what = f"RANK={environ['RANK']} and WORLD_SIZE={environ['WORLD_SIZE']} are no rank of a group of two or more."
        raise ConfigError(what, "Start it with torchrun --nproc-per-node and --nnodes of at least two ranks.")
    return Starting(world_size=world_size, ranks={rank: {}})


def _free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(eq=False)
class Process:
    """One rank that runs, and what it has written so far."""

    rank: int
    process: subprocess.Popen[bytes]
    events: IO[bytes]
    lines: bytearray = field(default_factory=bytearray)
    log: bytearray = field(default_factory=bytearray)


class Gang:
    """The ranks of this parent. Use as a context manager: leaving it ends every one with all that it started."""

    def __init__(self, home: str, device: str, environ: Mapping[str, str], group: Starting, seconds: float) -> None:
        started = time.monotonic()
        self._deadline = started + seconds
        self._progress = Progress(f"rank {next(iter(group.ranks))} of {group.world_size}", started)
        self._ranks = Ranks(world_size=group.world_size, ours=tuple(group.ranks), seconds=seconds)
        sizes = [str(size) for size in (ON_CPU if device == "cpu" else ON_GPU)]
        own_limit = seconds - min(MARGIN, seconds / 4)
        arguments = ["--device", device, "--sizes", *sizes, "--seconds", f"{own_limit:.3f}"]
        self._processes: list[Process] = []
        for rank, variables in group.ranks.items():
            self._processes.append(_start(rank, arguments, with_our_package(home, {**environ, **variables})))

    def __enter__(self) -> Gang:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(each.process.pid, signal.SIGKILL)
        for each in self._processes:
            each.process.wait()
            each.events.close()
            if each.process.stdout:
                each.process.stdout.close()

    def run(self) -> Ranks:
        """Read until every rank of ours has ended or the limit is over."""
        with selectors.DefaultSelector() as selector:
            for each in self._processes:
                selector.register(each.events, selectors.EVENT_READ, (each, each.lines))
                if each.process.stdout:
                    selector.register(each.process.stdout, selectors.EVENT_READ, (each, each.log))
            while time.monotonic() < self._deadline:
                ended = all(each.process.poll() is not None for each in self._processes)
                ready = selector.select(0 if ended else POLL)
                for key, _ in ready:
                    self._read(selector, key)
                if ended and not ready:  # what they started may keep their pipes open
                    break
                self._notice_deaths()
        for each in self._processes:
            self._end(each)
        return self._ranks

    def _read(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        each, buffer = key.data
        chunk = os.read(key.fd, 1 << 16)
        buffer.extend(chunk)
        if not chunk:
            selector.unregister(key.fileobj)
        del each.log[: -4 * LOG_TAIL]
        while (end := each.lines.find(b"\n")) >= 0:
            event = self._ranks.take(bytes(each.lines[:end]))
            del each.lines[: end + 1]
            if isinstance(event, ProgressEvent):
                self._show(event)

    def _show(self, event: ProgressEvent) -> None:
        size = f" of {event.size >> 20} MiB" if event.size and event.step != "local" else ""
        if event.rank == self._processes[0].rank and event.step != "leave":
            self._progress.show(f"{event.step}{size}")

    def _notice_deaths(self) -> None:
        """Ranks that wait for a dead one on a GPU would do so until the limit: they get a moment to say so."""
        codes = [each.process.poll() for each in self._processes]
        if any(code not in (None, 0, GAVE_UP) for code in codes):
            self._deadline = min(self._deadline, time.monotonic() + AFTERMATH)

    def _end(self, each: Process) -> None:
        """How it ended; one that has not is at the limit."""
        facts, code = self._ranks.facts[each.rank], each.process.poll()
        facts.log = each.log[-LOG_TAIL:].decode(errors="replace").strip()
        if code is None:
            facts.ending = "timeout"
        elif code < 0:
            facts.ending, facts.number = "killed", -code
        elif code == GAVE_UP:
            facts.ending = "gave-up"
        else:
            facts.ending, facts.number = ("over", 0) if facts.over and code == 0 else ("exited", code)


def _start(rank: int, arguments: Sequence[str], environ: Mapping[str, str]) -> Process:
    """A rank in a session of its own, with a pipe for its events and one for what it prints."""
    process, events = spawn("entrypoint.collective", arguments, environ)
    return Process(rank=rank, process=process, events=events)
