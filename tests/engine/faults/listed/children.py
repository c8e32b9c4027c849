"""The measuring child is killed, hangs, crashes, says nothing, or says something bad."""

from __future__ import annotations

from typing import Final

from noxfile import python_of_cpu
from tests.engine.faults.box import signalled
from tests.engine.faults.fault import Fault
from tests.patience import CHECK, SHORT

PACKAGES: Final = f"/opt/venv/lib/python{python_of_cpu()}/site-packages"
PROBE: Final = "entrypoint.probe"
REAL: Final = {"ATTN_TIMEOUT": CHECK}

FAULTS: Final = (
    Fault(
        name="SIGKILL while it imports",
        behaviour="hang in import",
        during=signalled("KILL", "sdpa: import", child=PROBE),
        code=95,
        says=r"The check was killed in import: by SIGKILL, as for want of memory",
    ),
    Fault(
        name="SIGKILL while torch computes (the image's own check)",
        behaviour="",
        env=REAL,
        during=signalled("KILL", "sdpa: correctness", child=PROBE),
        code=95,
        says=r"The check was killed in (?P<any>.*): by SIGKILL",
    ),
    Fault(
        name="SIGTERM to it alone",
        behaviour="hang in performance",
        during=signalled("TERM", "sdpa: performance", child=PROBE),
        code=95,
        says=r"crashed with SIGTERM in performance",
    ),
    Fault(
        name="SIGSTOP, so that it stands still until the limit",
        behaviour="compute in correctness",
        env={"ATTN_TIMEOUT": "12"},  # so that it stands still for long enough to be seen
        during=signalled("STOP", "sdpa: correctness", child=PROBE),
        code=95,
        says=r"hung or waited in correctness \(causal-d64\)",
    ),
    Fault(
        name="it hangs beside a compiler that holds its pipes open",
        behaviour="hang in compile",
        env={"ATTN_TIMEOUT": SHORT},
        code=95,
        says=r"was not done after 6 s \(ATTN_TIMEOUT\) and hung or waited in compile",
    ),
    Fault(
        name="it computes without an end",
        behaviour="compute in performance",
        env={"ATTN_TIMEOUT": SHORT},
        code=91,
        says=r"after 6 s \(ATTN_TIMEOUT\) the check of sdpa was still computing in performance(?P<any>.*)",
    ),
    Fault(
        name="SIGSEGV in a kernel",
        behaviour="crash in correctness",
        code=95,
        says=r"crashed with SIGSEGV in correctness \(causal-d64\)",
    ),
    Fault(
        name="it ends without a word",
        behaviour="silent exit in observe",
        code=95,
        says=r"ended with code 0 and no result",
    ),
    Fault(
        name="it raises before it looks at the device",
        behaviour="raise in import",
        code=95,
        says=r"an illegal memory access was encountered",
    ),
    Fault(
        name="half a line of its results is lost",
        behaviour="garbled case",
        code=95,
        says=r"of the child's events case \(1\) cannot be read",
    ),
    Fault(
        name="it is done and does not exit",
        behaviour="linger",
        code=5,
        says=r"PASS: sdpa is right in 1 of 1 cases",
    ),
    Fault(name="wrong numbers", behaviour="wrong", code=92, says=r"sdpa computes wrong numbers"),
    Fault(name="another kernel runs", behaviour="other kernel", code=92, says=r"sdpa was asked for, and other ran"),
    Fault(name="a gradient is missing", behaviour="no gradient", code=92, says=r"sdpa gives no gradient dQ"),
    Fault(name="a kernel writes into its inputs", behaviour="mutated", code=92, says=r"sdpa writes into its input K"),
    Fault(
        name="a kernel gives other numbers each time",
        behaviour="not repeatable",
        code=92,
        says=r"other bits in a second run",
    ),
    Fault(
        name="all packages are gone from the image (its own check)",
        behaviour="",
        options=(f"--tmpfs={PACKAGES}",),
        code=90,
        says=r"cannot be loaded in this image",
    ),
    Fault(
        name="torch's library is cut off (its own check)",
        behaviour="",
        options=(f"--volume=/dev/null:{PACKAGES}/torch/lib/libtorch_cpu.so:ro",),
        code=90,
        says=r"cannot be loaded in this image: ImportError: (?P<any>.*)/torch/lib/libtorch_cpu.so: file too short",
    ),
    Fault(
        name="the check's own files are gone",
        behaviour="",
        options=("--tmpfs=/opt/attn/entrypoint/probe",),
        code=95,
        says=r"ended with code 1 and no result",
    ),
    Fault(
        name="PYTHONHOME leads nowhere",
        env={"PYTHONHOME": "/nowhere"},
        code=95,
        says=r"ended with code 1 and no result \(ModuleNotFoundError: No module named 'encodings'\)",
    ),
)
