"""A check's seconds, from events with known dates."""

from __future__ import annotations

import sys

from attn_matrix.commands import timeline
from attn_matrix.commands.timeline import Span, dated, rows, spans

EVENTS: list[timeline.Dated] = [
    (0.5, {"event": "phase", "name": "import", "detail": "torch"}),
    (2.0, {"event": "phase", "name": "compile", "detail": "causal-d64"}),
    (2.5, {"event": "first_call", "id": "causal-d64", "seconds": 0.5}),
    (3.0, {"event": "phase", "name": "compile", "detail": "full-d64"}),
    (3.25, {"event": "done", "seconds": {}}),
]


def test_a_step_lasts_until_the_next_begins() -> None:
    """Events that begin no phase belong to the one that has begun; the interpreter's own start comes first."""
    assert list(spans(EVENTS)) == [
        Span(phase="start", detail="", seconds=0.5),
        Span(phase="import", detail="torch", seconds=1.5),
        Span(phase="compile", detail="causal-d64", seconds=1.0),
        Span(phase="compile", detail="full-d64", seconds=0.25),
    ]


def test_phases_are_summed_and_the_longest_steps_named() -> None:
    """The longest first, as many as asked for."""
    assert rows("flex", list(spans(EVENTS)), top=2) == [
        "flex: 3.2 s = start 0.5 + import 1.5 + compile 1.2",
        "    1.500 s  import: torch",
        "    1.000 s  compile: causal-d64",
    ]


def test_a_command_is_ended_when_it_is_done() -> None:
    """torch's compiler workers would keep it for seconds."""
    code = 'import time; print(\'{"event": "done"}\', flush=True); time.sleep(600)'
    ((at, event),) = dated([sys.executable, "-c", code], {})
    assert event == {"event": "done"}
    assert at < 60.0
