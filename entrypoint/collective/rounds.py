"""Rounds of one collective, timed one by one. On a GPU nothing waits for it between them, as in a training run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from entrypoint.collective.events import State

if TYPE_CHECKING:
    import torch

    from entrypoint.collective.operations import Collective

# As nccl-tests: by default it makes 5 rounds without the clock, and 20 with it.
WARM_UP, TIMED = 5, 20
ROUNDS: Final = WARM_UP + TIMED


class Stopwatch:
    """The times at which a device comes to a round's call and has its result; `held` is the host's, of the call."""

    def __init__(self, device: torch.device, rounds: int = ROUNDS) -> None:
        self._device = device
        self._marks: list[list[torch.cuda.Event | float]] = [[] for _ in range(rounds)]
        self._rounds = rounds

    def mark(self, number: int) -> None:
        """Note that the device gets here: first before the call of a round, and then after it."""
        if self._device.type == "cpu":
            self._marks[number].append(time.perf_counter())
            return
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._marks[number].append(event)

    def seconds(self) -> list[float]:
        """Of each round, once the device has done them all."""
        return [_between(*marks) for marks in self._marks]

    def position(self) -> tuple[int, State]:
        """The round that the device is in. It asks without waiting, so another thread can do so while a rank hangs."""
        for number, marks in enumerate(self._marks):
            reached = sum(isinstance(mark, float) or mark.query() for mark in marks)
            if reached < 2:
                return number, "inside" if reached else "late"
        return self._rounds, "done"


def _between(begun: torch.cuda.Event | float, ended: torch.cuda.Event | float) -> float:
    if isinstance(begun, float) or isinstance(ended, float):
        assert isinstance(begun, float)
        assert isinstance(ended, float)
        return ended - begun
    return float(begun.elapsed_time(ended)) / 1000.0


class Rounds:
    """All rounds of one collective: samples without the warm-up's, seconds held by calls, and the wrong elements."""

    def __init__(self, collective: Collective, device: torch.device) -> None:
        self._collective = collective
        self._device = device
        self.watch = Stopwatch(device)
        self.samples: tuple[float, ...] = ()
        self.held: tuple[float, ...] = ()
        self.wrong: list[int] = []

    def run(self, at: Callable[[int, State], None]) -> None:
        """`at` is told of each round before its call, and after it."""
        import torch

        counts, held = [], []
        for number in range(ROUNDS):
            at(number, "late")
            self._collective.prepare()
            self.watch.mark(number)
            began = time.perf_counter()
            work = self._collective.call()
            held.append(time.perf_counter() - began)
            at(number, "inside")
            work.wait()
            self.watch.mark(number)
            counts.append(self._collective.wrong())
        self.wrong = torch.stack(counts).sum(dim=0).reshape(-1).tolist()  # it waits for the device
        self.samples, self.held = tuple(self.watch.seconds()[WARM_UP:]), tuple(held[WARM_UP:])
