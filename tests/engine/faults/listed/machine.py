"""Too little memory, processors, processes or open files; a machine that is suspended; another user."""

from __future__ import annotations

from typing import Final

from tests.engine.faults.box import paused
from tests.engine.faults.fault import Fault
from tests.patience import CHECK, SHORT

PASSES: Final = r"PASS: sdpa is right in 1 of 1 cases"
NO_PROCESS: Final = r"The check could not start a process or thread: "
ALL: Final = r"PASS: sdpa is right in (?P<any>\d+ of \d+ cases.*)"
HARDENED: Final = (
    *("--user=12345:0", "--read-only", "--tmpfs=/tmp:exec", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    "--ipc=none",
)


def memory(size: str) -> tuple[str, ...]:
    """A limit without swap."""
    return f"--memory={size}", f"--memory-swap={size}"


FAULTS: Final = (
    Fault(
        name="the kernel kills it for memory (96 MiB)",
        behaviour="fill memory in correctness",
        options=memory("96m"),
        code=95,
        says=r"The check was killed in correctness \(causal-d64\): the memory limit was reached",
    ),
    Fault(
        name="the kernel kills it for memory (150 MiB, the image's own check)",
        behaviour="",
        options=memory("150m"),
        env={"ATTN_TIMEOUT": CHECK},
        code=95,
        says=r"The check was killed in (?P<any>.*): the memory limit was reached",
    ),
    # More than runc itself takes before it becomes the container: with 100 MB it failed now and then.
    Fault(
        name="no memory to be had by the process (RLIMIT_DATA)",
        behaviour="fill memory in compile",
        options=("--ulimit=data=400000000",),
        code=95,
        says=r"MemoryError",
    ),
    Fault(
        name="RLIMIT_CPU is used up",
        behaviour="compute in correctness",
        options=("--ulimit=cpu=3:600",),
        code=95,
        says=r"crashed with SIGXCPU in correctness",
    ),
    # Of a user that has no other process. A limit of the container's control group would hold its runtime's threads.
    Fault(
        name="no process beside the first (RLIMIT_NPROC)",
        options=("--ulimit=nproc=1", "--user=54321:0"),
        code=95,
        says=NO_PROCESS,
    ),
    Fault(
        name="too few open files for 8 GPUs (RLIMIT_NOFILE)",
        gpus=8,
        options=("--ulimit=nofile=16",),
        code=95,
        says=r"The check itself failed: OSError: \[Errno 24\] Too many open files(?P<any>.*)",
    ),
    Fault(
        name="a fifth of a processor (the image's own check)",
        behaviour="",
        options=("--cpus=0.2",),
        env={"ATTN_TIMEOUT": SHORT},
        code=91,
        says=r"too slow for the limit: after 6 s \(ATTN_TIMEOUT\) the check of sdpa was still computing (?P<any>.*)",
    ),
    Fault(
        name="a second is too short (the image's own check)",
        behaviour="",
        env={"ATTN_TIMEOUT": "1"},
        code=91,
        says=r"too slow for the limit: after 1 s \(ATTN_TIMEOUT\) the check of sdpa was still computing (?P<any>.*)",
    ),
    Fault(
        name="the machine is suspended past the limit",
        behaviour="compute in correctness",
        env={"ATTN_TIMEOUT": SHORT},
        during=paused(8.0, "sdpa: correctness"),
        code=91,
        says=r"after 6 s \(ATTN_TIMEOUT\) the check of sdpa was still computing in correctness (?P<any>.*)",
    ),
    Fault(
        name="UID 12345, read-only root, no capability, no /dev/shm (the image's own check)",
        behaviour="",
        options=HARDENED,
        env={"ATTN_TIMEOUT": CHECK, "ATTN_REPORT": "/tmp/attn/report.json"},
        code=5,
        says=ALL,
    ),
    Fault(name="a user and a group that nobody knows", options=("--user=12345:54321",), code=5, says=PASSES),
    Fault(name="HOME is not there", env={"HOME": "/nowhere"}, code=5, says=PASSES),
)
