"""How much of this machine a check may use, as the container's control group limits it, of version 2 or 1."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")
# What holds each limit, in version 2 and in version 1, where -1 is no quota and a number beyond all memory no limit.
QUOTA: Final = ("cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")
LIMIT: Final = ("memory.max", "memory/memory.limit_in_bytes")
USED: Final = ("memory.current", "memory/memory.usage_in_bytes")
EVENTS: Final = ("memory.events", "memory/memory.oom_control")
MEMINFO: Final = Path("/proc/meminfo")
# What a process with torch, a CUDA context and a compiler takes.
BYTES_PER_JOB: Final = 3 << 30


def jobs() -> int:
    """The processes that may be busy side by side: one for each processor, as far as there is memory; at least one."""
    return max(1, min(cpus(), memory() // BYTES_PER_JOB))


def cpus() -> int:
    """Whole processors: those that this process is bound to, or its quota."""
    bound = len(os.sched_getaffinity(0))
    try:
        quota, period = map(int, _text(*QUOTA).split())
    except ValueError:  # no such file, or "max": no quota
        return bound
    return max(1, min(bound, quota // period)) if quota > 0 else bound


def memory() -> int:
    """Bytes that are free on this machine and within the container's limit; 0 when neither can be read."""
    try:
        fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return 0
    try:
        return max(0, min(free, int(_text(*LIMIT)) - int(_text(*USED))))
    except ValueError:  # no such file, or "max": no limit
        return free


def oom_kills() -> int:
    """How often the kernel has killed a process of this container because memory ran out; 0 when unknown."""
    try:
        return int(dict(line.split() for line in _text(*EVENTS).splitlines()).get("oom_kill", 0))
    except ValueError:
        return 0


def _text(newer: str, *older: str) -> str:
    """The content of version 2's file, or else of version 1's side by side; empty where neither can be read."""
    for names in ((newer,), older):
        try:
            return " ".join((CGROUP / name).read_text() for name in names)
        except OSError:
            continue
    return ""
