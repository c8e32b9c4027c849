"""Write the events: one JSON object a line, flushed at once, to a descriptor that nothing else writes to."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from entrypoint.events import NAMES, DoneEvent, Event, Phase, PhaseEvent, encode


class Watch:
    """Seconds since it was started."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._started = now()

    def elapsed(self) -> float:
        return self._now() - self._started


class EventLog:
    """The stream of events, and the seconds spent in each phase so far."""

    def __init__(self, stream: TextIO, now: Callable[[], float] = time.perf_counter) -> None:
        self._stream = stream
        self._now = now
        self._written: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}

    @classmethod
    def take(cls, descriptor: int) -> EventLog:
        """Write to `descriptor`, and send everything else that this process prints on stdout to stderr.

        Libraries print where they like (compilers, profilers), and the parent's stdout belongs to the user's command.
        The duplicate is not inherited, so a compiler's worker cannot keep the parent's pipe open. Raises OSError when
        the descriptor is not open.
        """
        private = os.dup(descriptor)
        os.dup2(2, 1)
        return cls(os.fdopen(private, "w", encoding="utf-8"))

    def emit(self, event: Event) -> None:
        """Write one line, and count it for the last one, `done`, so that the parent knows what got lost."""
        self._stream.write(encode(event) + "\n")
        self._stream.flush()
        self._written[NAMES[type(event)]] += 1

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
