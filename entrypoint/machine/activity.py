"""What the processes of a session are doing, as the kernel tells it: computing, or waiting for something."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
# On a processor or waiting for one (R), or for a disk (D): slow, where this machine is. All else waits for an event.
AT_WORK: Final = frozenset("RD")


def processor_seconds(session: int, proc: Path = PROC) -> float:
    """What the processes of this session, and those of their children that have ended, have used of the processors."""
    ticks = sum(sum(map(int, fields[11:15])) for _, fields in _processes(session, proc))
    return ticks / os.sysconf("SC_CLK_TCK")


def at_work(session: int, proc: Path = PROC) -> bool:
    """Whether a thread of this session is running, or would if it got a processor or its data from a disk."""
    threads = (stat for folder, _ in _processes(session, proc) for stat in (folder / "task").glob("*/stat"))
    return any(fields[0] in AT_WORK for stat in threads if (fields := _fields(stat)))


def _processes(session: int, proc: Path) -> Iterator[tuple[Path, list[str]]]:
    for stat in proc.glob("[0-9]*/stat"):
        fields = _fields(stat)
        if fields and int(fields[3]) == session:
            yield stat.parent, fields


def _fields(stat: Path) -> list[str]:
    """What proc_pid_stat(5) lists from `state` on: the name before it may hold anything. Empty when it has ended."""
    try:
        return stat.read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
