"""A backend beside torch's other kernels: who takes part, in turns, and what is told of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from entrypoint.probe import backends, cases, reference, rivals, timing  # noqa: E402 - after the skip
from tests.unit.wrong_kernels import backend, kernel  # noqa: E402

CPU = torch.device("cpu")
CASE = replace(cases.CAUSAL_64, seqlen=40, head_dim=16)


class Counted:
    """A clock of which each call takes the milliseconds that are next, and that is at second 0 for so many looks."""

    def __init__(self, *milliseconds: float, looks: int = 100) -> None:
        self.taken, self.looks = iter(milliseconds), looks
        self.threads: list[int] = []

    def now(self) -> float:
        self.looks -= 1
        return 0.0 if self.looks > 0 else math.inf

    def sample(
        self, call: Callable[[timing.T], object], prepare: Callable[[], timing.T], count: int, until: float = math.inf
    ) -> list[float]:
        call(prepare())
        self.threads.append(torch.get_num_threads())
        return [next(self.taken) / 1000.0]


def compared(attention: backends.Attention, clock: Any, case: cases.Case = CASE) -> list[Any]:
    return [*rivals.compare(backend(attention), case, CPU, clock)]


def test_they_take_turns_and_the_least_time_of_each_counts() -> None:
    """One that was disturbed once is not slow."""
    clock = Counted(9.0, 5.0, 3.0, 8.0, 4.0, 50.0, 4.0, 6.0, 70.0, 7.0)
    (event,) = compared(kernel(), clock)
    assert (event.id, event.direction, event.own, event.others) == ("causal-d64", "forward", 0.003, {"plain": 0.005})


def test_a_rival_that_is_far_behind_gets_one_turn() -> None:
    """Of the two only the backend has four turns more."""
    clock = Counted(2.0, 9.0, 1.5, 1.0, 1.5, 2.0)
    (event,) = compared(kernel(), clock)
    assert (event.own, event.others, len(clock.threads)) == (0.001, {"plain": 0.009}, 6)


def test_on_a_cpu_one_thread_computes() -> None:
    """Threads that wait for each other would be measured on a busy machine. Afterwards they are as many as before."""
    before, clock = torch.get_num_threads(), Counted(*[1.0] * 10)
    compared(kernel(), clock)
    assert set(clock.threads) == {1}
    assert torch.get_num_threads() == before


def test_no_round_begins_when_the_time_is_over() -> None:
    """A slow machine gives fewer; one of each there is always."""
    clock = Counted(3.0, 2.0, looks=2)
    (event,) = compared(kernel(), clock)
    assert (event.own, event.others) == (0.003, {"plain": 0.002})


def test_a_backend_that_cannot_do_the_call_is_not_compared() -> None:
    """Its case says so; here is nothing to measure."""

    def refuses(_: backends.Arguments) -> Any:
        raise NotImplementedError

    assert compared(refuses, Counted()) == []


def test_a_rival_that_cannot_do_the_call_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Want of memory for plain torch's scores says nothing of the backend."""

    def refuses(_: backends.Arguments) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(reference, "reordered", refuses)
    assert compared(kernel(), Counted()) == []


def test_plain_torch_gets_a_part_that_has_room_and_its_time_is_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here one kv head of two, with its four query heads, of one batch entry of two."""
    monkeypatch.setattr(rivals, "PLAIN_SCORES", 40 * 40 * 4)
    (event,) = compared(kernel(), Counted(3.0, 2.0, looks=2))
    assert event.others == {"plain": pytest.approx(4 * 0.002)}


def test_only_calls_that_torchs_fused_kernels_have_are_compared() -> None:
    """A window or packed documents go to them as a mask, which is another kernel."""
    assert rivals.is_comparable(CASE)
    for change in ({"window": (10, 0)}, {"softcap": 5.0}, {"cu_seqlens": (0, 40)}, {"shifted_group": 10}):
        assert not rivals.is_comparable(replace(CASE, **change))


def test_a_real_comparison_on_this_machine_gives_numbers() -> None:
    """By the processor's own clock."""
    (event,) = rivals.compare(backends.load("sdpa", CPU), CASE, CPU)
    assert event.own > 0.0
    assert event.others["plain"] > 0.0
