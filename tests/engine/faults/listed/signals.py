"""The container is told to stop, in each phase; it does, and no command begins."""

from __future__ import annotations

import subprocess
from typing import Final

from tests.engine.faults.box import Box, signalled
from tests.engine.faults.fault import RAN, TRAPPED, Fault
from tests.engine.faults.listed.request import TRAINING
from tests.patience import CHECK

TRAPS: Final = f"trap 'exit {TRAPPED}' TERM; {RAN}; echo ready >&2; while :; do sleep 0.1; done"


def term(phase: str) -> Fault:
    """SIGTERM in a phase of the check, by a child that waits there."""
    return Fault(
        name=f"SIGTERM in {phase}",
        behaviour=f"hang in {phase}",
        during=signalled("TERM", f"sdpa: {phase}"),
        code=143,
        warn=143,
        says=r"SIGTERM during the check: stopped\.",
    )


def insistent(box: Box) -> None:
    """As an impatient person holds Ctrl-C down: again and again, until the container is gone."""
    box.reaches("sdpa: correctness")
    script = "import os, signal\nwhile True: os.kill(1, signal.SIGINT)"
    subprocess.run(["docker", "exec", box.name, "python", "-I", "-S", "-c", script], capture_output=True, check=False)


FAULTS: Final = (
    *map(term, ("import", "compile", "correctness", "observe", "performance")),
    Fault(
        name="SIGTERM while torch computes (the image's own check)",
        behaviour="",
        env={"ATTN_TIMEOUT": CHECK},
        during=signalled("TERM", "sdpa: correctness"),
        code=143,
        warn=143,
        says=r"SIGTERM during the check: stopped\.",
    ),
    Fault(
        name="SIGTERM in the rehearsal",
        behaviour="rehearsal hang",
        **TRAINING,
        during=signalled("TERM", "rehearsal: compare"),
        code=143,
        warn=143,
        says=r"SIGTERM during the check: stopped\.",
    ),
    Fault(
        name="SIGTERM to the command",
        command=("sh", "-c", TRAPS),
        during=signalled("TERM", "ready"),
        code=TRAPPED,
        warn=TRAPPED,
        says=r"PASS: sdpa is right in 1 of 1 cases",
    ),
    Fault(
        name="SIGINT without a pause, until it is gone",
        behaviour="hang in correctness",
        during=insistent,
        code=130,
        warn=130,
        says=r"SIGINT during the check: stopped\.",
    ),
)
