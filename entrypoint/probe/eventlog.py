"""Writing the events: one JSON object a line, flushed at once, on a descriptor that nothing else writes to."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from entrypoint.events import Phase


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

    def emit(self, event: str, **fields: object) -> None:
        self._stream.write(json.dumps({"event": event, **_plain(fields)}, allow_nan=False) + "\n")
        self._stream.flush()

    @contextmanager
    def phase(self, name: Phase, detail: str = "") -> Iterator[Watch]:
        """Say what is about to be done, and count its seconds to the phase `name` whether or not it succeeds."""
        self.emit("phase", name=name, detail=detail)
        watch = Watch(self._now)
        try:
            yield watch
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + watch.elapsed()


def _plain(value: object) -> Any:
    """JSON has no NaN or infinity: a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
