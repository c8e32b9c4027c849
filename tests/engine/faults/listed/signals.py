"""The container is told to stop, in each phase; it does, and no command begins."""

from __future__ import annotations

from typing import Final

from tests.engine.faults.box import Box, docker, signalled
from tests.engine.faults.fault import Fault
from tests.engine.faults.listed.request import TRAINING
from tests.patience import CHECK

TRAPS: Final = "trap 'exit 33' TERM; echo ran >>/data/ran; echo ready >&2; while :; do sleep 0.1; done"


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


def twice(box: Box) -> None:
    """As an impatient person presses Ctrl-C, five times in a row."""
    box.reaches("sdpa: correctness")
    script = "import os, signal\nfor _ in range(5): os.kill(1, signal.SIGINT)"
    docker("exec", box.name, "/opt/venv/bin/python", "-I", "-S", "-c", script)


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
        code=33,
        warn=33,
        says=r"PASS: sdpa is right in 1 of 1 cases",
    ),
    Fault(
        name="SIGINT five times in a row",
        behaviour="hang in correctness",
        during=twice,
        code=130,
        warn=130,
        says=r"SIGINT during the check: stopped\.",
    ),
)
