"""The lines: valid JSON whatever the numbers, and seconds counted by phase."""

from __future__ import annotations

import io
import json

import pytest

from entrypoint.events import FirstCallEvent, UnusableEvent
from entrypoint.probe.eventlog import EventLog


def test_each_event_is_one_flushed_line() -> None:
    """What was measured before a crash is not lost, and a message of many lines stays one event."""

    class Stream(io.StringIO):
        flushed = ""

        def flush(self) -> None:
            self.flushed = self.getvalue()

    stream = Stream()
    EventLog(stream).emit(UnusableEvent(subject="torch", reason="first line\nsecond line"))
    assert stream.flushed.count("\n") == 1
    assert stream.flushed.endswith("\n")


def test_the_last_line_counts_those_before_it() -> None:
    """So that a reader knows when one got lost."""
    stream = io.StringIO()
    log = EventLog(stream)
    for name in ("a", "b"):
        log.emit(FirstCallEvent(id=name, seconds=1.0))
    with log.phase("observe"):
        pass
    log.done(["c"])
    last = json.loads(stream.getvalue().splitlines()[-1])
    assert last["written"] == {"first_call": 2, "phase": 1}
    assert last["left_out"] == ["c"]


def test_the_seconds_of_a_phase_add_up_even_when_it_fails() -> None:
    """A phase is announced before it begins; each visit counts, the failed one too."""
    ticks = iter([0.0, 2.0, 10.0, 13.5])
    stream = io.StringIO()
    log = EventLog(stream, now=lambda: next(ticks))
    with log.phase("import", "torch"):
        pass
    with pytest.raises(ImportError), log.phase("import", "fa4"):
        raise ImportError
    assert log.seconds == {"import": 5.5}
    assert [json.loads(line)["detail"] for line in stream.getvalue().splitlines()] == ["torch", "fa4"]
