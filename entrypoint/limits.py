"""How much of this machine a check may use, as the container's control group (version 2) limits it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")
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
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return max(1, min(bound, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return bound


def memory() -> int:
    """Bytes that are free on this machine and within the container's limit; 0 when neither can be read."""
    try:
        fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return 0
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        return max(0, min(free, limit - used))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return free


def oom_kills() -> int:
    """How often the kernel has killed a process of this container because memory ran out; 0 when unknown."""
    try:
        fields = dict(line.split() for line in (CGROUP / "memory.events").read_text().splitlines())
        return int(fields.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0
