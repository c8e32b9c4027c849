"""What a child is at, for who waits: the steps of it as they begin."""

from __future__ import annotations

import time

from entrypoint.console import say


class Progress:
    """Shows each step once, with the seconds since `started` (time.monotonic) and whose it is."""

    def __init__(self, whose: str, started: float) -> None:
        self._whose, self._started, self._shown = whose, started, ""

    def show(self, step: str) -> None:
        if step != self._shown:
            self._shown = step
            say(f"[{time.monotonic() - self._started:5.1f} s] {self._whose}: {step}")
