"""Steady-state time of a call: warm-ups first, then every sample kept, and their median."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
ENOUGH = 0.02  # seconds of timed calls
MOST_SAMPLES = 50
# Written between samples so that no input is still in the GPU's last-level cache: larger than any chip's (H200: 50 MB,
# B200: 126 MB), and the size that triton.testing.do_bench clears.
CACHE_BYTES = 256 * 1024 * 1024
# What the fastest GPU needs for that, in seconds (8 TB/s), and how often it is done at most ahead of a call.
CLEARING = 3e-5
MOST_CLEARED = 40


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one call: the median of `samples`, which are all the timed calls in order, of `planned` ones."""

    seconds: float
    samples: tuple[float, ...]
    planned: int


class Clock(Protocol):
    def now(self) -> float:
        """Seconds on the wall, from any zero."""
        ...

    def sample(
        self, call: Callable[[T], object], prepare: Callable[[], T], count: int, until: float = math.inf
    ) -> list[float]:
        """Seconds of each of `count` times `call(prepare())`, the preparation not counted.

        Fewer where `now()` passes `until` on the way, but at least one.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What one timing may take: about `seconds` on the wall; `warmups` that do not count, and at least `samples`."""

    seconds: float = math.inf
    warmups: int = 3
    samples: int = 10


USUAL = Effort()


def steady(call: Callable[[T], object], prepare: Callable[[], T], clock: Clock, effort: Effort = USUAL) -> Timing:
    """Time `call` once it has settled, preparations within the seconds but not within the samples.

    The warm-ups (compilation, allocation, clocks) end after a quarter of the seconds, but not before the second. Of a
    short call as many samples are planned as fit into ENOUGH, since a median of ten moves by percents with the GPU's
    clock. As many are taken as the seconds have room for. Where they have none, the last call made is the only sample.
    """
    until = clock.now() + effort.seconds
    settled, left, each = 0.0, effort.seconds, 0.0
    for index in range(effort.warmups):
        before = clock.now()
        (settled,) = clock.sample(call, prepare, 1)
        each, left = clock.now() - before, until - clock.now()
        if left < each:
            return _timing([settled], effort.samples)
        if index and left < 0.75 * effort.seconds:
            break
    planned = max(effort.samples, min(MOST_SAMPLES, int(ENOUGH / max(settled, 1e-6))))
    fitting = planned if left == math.inf else min(planned, int(left / max(each, 1e-6)))
    return _timing(clock.sample(call, prepare, fitting, until), planned)


def _timing(taken: Sequence[float], planned: int) -> Timing:
    return Timing(seconds=median(taken), samples=tuple(taken), planned=planned)


class Budget:
    """Seconds for a known number of timings. Each may use an even share of what those before it have left."""

    def __init__(self, seconds: float, timings: int, now: Callable[[], float]) -> None:
        self._until = now() + seconds
        self._timings = timings
        self._now = now

    def share(self) -> Effort:
        """For the next timing: no seconds when none are left, and then it is one call."""
        left = max(0.0, self._until - self._now())
        self._timings -= 1
        return Effort(seconds=left / (self._timings + 1))


class WallClock:
    """For a CPU, where a call has finished when it returns."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now

    def sample(
        self, call: Callable[[T], object], prepare: Callable[[], T], count: int, until: float = math.inf
    ) -> list[float]:
        seconds: list[float] = []
        while len(seconds) < count and (not seconds or self.now() < until):
            prepared = prepare()
            start = self.now()
            call(prepared)
            seconds.append(self.now() - start)
        return seconds


class EventClock:
    """For a GPU: events recorded in the stream around each call, read when all of them have run.

    The host does not wait between calls, so its own launch time hides behind the work already queued, and nobody knows
    before the end how long the calls take: all of them are made. `meanwhile` is called while that work runs, to look at
    the GPU under load.

    A call that the GPU does sooner than Python launches it would be timed with the GPU's waiting, which a training's
    queue hides: on an H200 one call of FlexAttention took 0.28 and 0.50 ms in two processes. So the cache is cleared
    for as long as the launch of the call before it lasted.
    """

    def __init__(
        self,
        event: Callable[[], Any],
        synchronize: Callable[[], object],
        clear_cache: Callable[[], object],
        meanwhile: Callable[[], object] = lambda: None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.now = now
        self._launching = 0.0  # seconds of the last call on the host
        self._event = event
        self._synchronize = synchronize
        self._clear_cache = clear_cache
        self._meanwhile = meanwhile

    def sample(
        self, call: Callable[[T], object], prepare: Callable[[], T], count: int, until: float = math.inf
    ) -> list[float]:
        pairs = [self._pair(call, prepare) for _ in range(count)]
        self._meanwhile()
        self._synchronize()
        return [start.elapsed_time(end) / 1000.0 for start, end in pairs]  # CUDA events count milliseconds

    def _pair(self, call: Callable[[T], object], prepare: Callable[[], T]) -> tuple[Any, Any]:
        start, end = self._event(), self._event()
        prepared = prepare()
        for _ in range(max(1, min(MOST_CLEARED, math.ceil(self._launching / CLEARING)))):
            self._clear_cache()
        start.record()
        began = self.now()
        call(prepared)
        self._launching = self.now() - began
        end.record()
        return start, end


def clock_for(where: torch.device, meanwhile: Callable[[], object] = lambda: None) -> Clock:
    """CUDA events on a GPU, perf_counter on a CPU."""
    if where.type != "cuda":
        return WallClock()
    import torch

    cache = torch.empty(CACHE_BYTES, dtype=torch.int8, device=where)
    return EventClock(
        event=partial(torch.cuda.Event, enable_timing=True),
        synchronize=lambda: torch.cuda.synchronize(where),
        clear_cache=cache.zero_,
        meanwhile=meanwhile,
    )
