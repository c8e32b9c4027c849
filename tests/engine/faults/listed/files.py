"""Full, read-only and missing file systems; closed and broken streams."""

from __future__ import annotations

from typing import Final

from tests.engine.faults.fault import RUNS, Fault

DEFAULTS: Final = {"ATTN_REPORT": "/tmp/attn/report.json", "ATTN_CACHE": "/tmp/attn/cache"}
PASSES: Final = r"PASS: sdpa is right in 1 of 1 cases"
CHECKS: Final = ("check", "--json")

FAULTS: Final = (
    Fault(
        name="/tmp is full",
        options=("--tmpfs=/tmp:size=4k",),
        env=DEFAULTS,
        code=RUNS,
        says=r"The report could not be written to /tmp/attn/report.json \(No space left on device\)",
    ),
    Fault(
        name="nothing at all can be written",
        options=("--read-only",),
        env=DEFAULTS,
        code=RUNS,
        says=r"The report could not be written to /tmp/attn/report.json \(Read-only file system\)",
    ),
    Fault(
        name="no file may hold a byte (RLIMIT_FSIZE)",
        options=("--ulimit=fsize=0",),
        env=DEFAULTS,
        code=RUNS,
        says=r"The report could not be written to /tmp/attn/report.json \(File too large\)",
    ),
    Fault(
        name="the report's path is a folder",
        env={"ATTN_REPORT": "/data/folder"},
        before="mkdir /data/folder",
        code=RUNS,
        says=r"The report could not be written to /data/folder \(Is a directory\)",
    ),
    Fault(
        name="the termination log is a folder",
        options=("--tmpfs=/dev/termination-log",),
        behaviour="wrong",
        code=92,
        says=r"sdpa computes wrong numbers",
    ),
    Fault(
        name="the termination log is full",
        options=("--volume=/dev/full:/dev/termination-log",),
        behaviour="wrong",
        code=92,
        says=r"sdpa computes wrong numbers",
    ),
    Fault(name="stderr is full", shell='exec "$@" 2>/dev/full', code=RUNS, says=PASSES),
    Fault(
        name="stderr is full, and attention wrong",
        behaviour="wrong",
        shell='exec "$@" 2>/dev/full',
        code=92,
        says="sdpa computes wrong numbers",
    ),
    Fault(name="stdin, stdout and stderr are closed", shell='exec "$@" <&- >&- 2>&-', code=RUNS, says=PASSES),
    Fault(
        name="`check --json` into a full file",
        command=CHECKS,
        shell='exec "$@" >/dev/full',
        code=0,
        warn=0,
        says=r"\(No space left on device\)",
    ),
    Fault(
        name="`check --json` for a reader that is gone",
        command=CHECKS,
        behaviour="wrong",
        shell='mkfifo /tmp/p; sleep 0.1 </tmp/p & exec 3>/tmp/p; wait; exec "$@" >&3',
        code=92,
        warn=92,
        says=r"\(Broken pipe\)",
    ),
)
