"""Steady-state time of a call: warm-ups first, then every sample kept, and their median."""

from __future__ import annotations

import time
from collections.abc import Callable
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


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one call: the median of `samples`, which are all the timed calls in order."""

    seconds: float
    samples: tuple[float, ...]


class Clock(Protocol):
    def sample(self, call: Callable[[T], object], prepare: Callable[[], T], count: int) -> list[float]:
        """Seconds of each of `count` times `call(prepare())`, the preparation not counted."""
        ...


def steady(
    call: Callable[[T], object], prepare: Callable[[], T], clock: Clock, *, warmups: int = 3, samples: int = 10
) -> Timing:
    """Time `call` once it has settled. The first `warmups` calls (compilation, allocation, clocks) are not counted.

    At least `samples` are taken; of a short call as many as fit into ENOUGH, since a median of ten moves by percents
    with the GPU's clock.
    """
    settled = clock.sample(call, prepare, warmups)[-1]
    taken = clock.sample(call, prepare, max(samples, min(MOST_SAMPLES, int(ENOUGH / max(settled, 1e-6)))))
    return Timing(seconds=median(taken), samples=tuple(taken))


class WallClock:
    """For a CPU, where a call has finished when it returns."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now

    def sample(self, call: Callable[[T], object], prepare: Callable[[], T], count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            prepared = prepare()
            start = self._now()
            call(prepared)
            seconds.append(self._now() - start)
        return seconds


class EventClock:
    """For a GPU: events recorded in the stream around each call, read when all of them have run.

    The host does not wait between calls, so its own launch time hides behind the work already queued; `meanwhile` is
    called while that work runs, to look at the GPU under load.
    """

    def __init__(
        self,
        event: Callable[[], Any],
        synchronize: Callable[[], object],
        clear_cache: Callable[[], object],
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        self._event = event
        self._synchronize = synchronize
        self._clear_cache = clear_cache
        self._meanwhile = meanwhile

    def sample(self, call: Callable[[T], object], prepare: Callable[[], T], count: int) -> list[float]:
        pairs = [self._pair(call, prepare) for _ in range(count)]
        self._meanwhile()
        self._synchronize()
        return [start.elapsed_time(end) / 1000.0 for start, end in pairs]  # CUDA events count milliseconds

    def _pair(self, call: Callable[[T], object], prepare: Callable[[], T]) -> tuple[Any, Any]:
        start, end = self._event(), self._event()
        prepared = prepare()
        self._clear_cache()
        start.record()
        call(prepared)
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
