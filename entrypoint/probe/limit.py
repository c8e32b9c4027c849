"""How long a check may take, and what it no longer begins when much of that is over."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Final, Literal

Step = Literal["compile", "correctness"]
# A step begins nothing more after this share of the seconds. What is left is for the call that is being made then, the
# profiler and the timings: a partial result before the end is worth more than a complete one after it.
SHARES: Final[Mapping[Step, float]] = {"compile": 0.4, "correctness": 0.7}


class Limit:
    """`seconds` from now on. Infinite: nothing is left out for want of time."""

    def __init__(self, seconds: float = math.inf, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._began = now()

    def allows(self, step: Step) -> bool:
        """Whether something that can be left out may still begin."""
        return self._now() - self._began < SHARES[step] * self._seconds
