"""Write the probe's events, and count the seconds of its phases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from entrypoint.events import NAMES, DoneEvent, Phase, PhaseEvent
from entrypoint.lines import Lines


class Watch:
    """Seconds since it was started."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._started = now()

    def elapsed(self) -> float:
        return self._now() - self._started


class EventLog(Lines):
    """The stream of events, and the seconds spent in each phase so far."""

    NAMES = NAMES

    def __init__(self, stream: TextIO, now: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(stream)
        self._now = now
        self.seconds: dict[str, float] = {}

    def done(self, left_out: Sequence[str], deeper: Sequence[str] = ()) -> None:
        """Write the last line; `left_out` are the ids of cases that were not run, `deeper` of those never meant to."""
        written = dict(self._written)
        self.emit(DoneEvent(seconds=self.seconds, left_out=tuple(left_out), written=written, deeper=tuple(deeper)))

    @contextmanager
    def phase(self, name: Phase, detail: str = "") -> Iterator[Watch]:
        """Say what is about to be done, and count its seconds to the phase `name` whether or not it succeeds."""
        self.emit(PhaseEvent(name=name, detail=detail))
        watch = Watch(self._now)
        try:
            yield watch
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + watch.elapsed()
