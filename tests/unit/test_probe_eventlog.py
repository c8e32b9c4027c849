"""The lines: valid JSON whatever the numbers, and seconds counted by phase."""

from __future__ import annotations

import io
import json
import math

import pytest

from entrypoint.probe.eventlog import EventLog


def test_numbers_that_are_not_finite_become_null() -> None:
    """NaN and infinity are not JSON, and a strict reader would lose the line that matters most."""
    stream = io.StringIO()
    EventLog(stream).emit("case", id="a", tensors={"out": {"error": math.nan, "scale": 1.5}}, samples=(math.inf, 2))
    assert json.loads(stream.getvalue()) == {
        "event": "case",
        "id": "a",
        "tensors": {"out": {"error": None, "scale": 1.5}},
        "samples": [None, 2],
    }


def test_each_event_is_one_flushed_line() -> None:
    """What was measured before a crash is not lost, and a message of many lines stays one event."""

    class Stream(io.StringIO):
        flushed = ""

        def flush(self) -> None:
            self.flushed = self.getvalue()

    stream = Stream()
    EventLog(stream).emit("unusable", reason="first line\nsecond line")
    assert stream.flushed.count("\n") == 1
    assert stream.flushed.endswith("\n")


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
