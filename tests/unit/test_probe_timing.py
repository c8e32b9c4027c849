"""Timing, with clocks that tick as the test says."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from entrypoint.probe import performance, timing
from entrypoint.probe.cases import performance_case, startup_cases
from tests.unit.wrong_kernels import EVERYTHING


class Script:
    """A wall clock that only moves when told to."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def spend(self, seconds: Iterator[float]) -> Callable[[object], None]:
        def call(_: object) -> None:
            self.time += next(seconds)

        return call


def test_the_median_of_the_samples_after_the_warm_ups() -> None:
    """Slow first calls do not count, one outlier does not move the result, and every sample is kept in order."""
    script = Script()
    call = script.spend(iter([50.0, 9.0, 1.0, 3.0, 40.0, 2.0]))
    effort = timing.Effort(warmups=2, samples=4)
    timed = timing.steady(call, lambda: None, timing.WallClock(script.now), effort)
    assert timed.samples == pytest.approx((1.0, 3.0, 40.0, 2.0))
    assert timed.seconds == pytest.approx(2.5)


def test_a_short_call_is_sampled_more_often() -> None:
    """As many as fit into ENOUGH after the warm-ups, and never more than MOST_SAMPLES."""
    script = Script()
    for seconds, count in ((timing.ENOUGH / 25.5, 25), (timing.ENOUGH / 9000, timing.MOST_SAMPLES), (1.0, 10)):
        call = script.spend(itertools.repeat(seconds))
        assert len(timing.steady(call, lambda: None, timing.WallClock(script.now)).samples) == count


def test_preparation_is_not_timed() -> None:
    """A backward's own forward runs before its sample begins, and what it gives reaches the call."""
    script = Script()
    given: list[str] = []

    def prepare() -> str:
        script.time += 1000.0
        return "graph"

    def call(prepared: str) -> None:
        given.append(prepared)
        script.time += 2.0

    timed = timing.steady(call, prepare, timing.WallClock(script.now), timing.Effort(warmups=1, samples=3))
    assert timed.samples == pytest.approx((2.0, 2.0, 2.0))
    assert given == ["graph"] * 4


# Seconds of a call and of its preparation, and the samples that fit into 2 s, of 10 planned.
PACES = ((0.05, 0.05, 10), (0.1, 0.1, 7), (0.2, 0.0, 6), (0.1, 0.4, 2), (0.9, 0.0, 1), (1.5, 0.0, 1), (60.0, 5.0, 1))


@pytest.mark.parametrize(("seconds", "before", "count"), PACES)
def test_slow_calls_get_fewer_samples(seconds: float, before: float, count: int) -> None:
    """As many as fit into the budget after the warm-ups, and at least one call; the ten that were planned are told."""
    script = Script()
    clock, effort = timing.WallClock(script.now), timing.Effort(seconds=2.0)
    began = script.time

    def prepare() -> None:
        script.time += before

    timed = timing.steady(script.spend(itertools.repeat(seconds)), prepare, clock, effort)

    assert timed.samples == pytest.approx([seconds] * count)
    assert timed.planned == 10
    assert script.time - began <= 2.0 + seconds + before


def test_calls_that_become_slower_end_at_the_budget() -> None:
    """A neighbour that wakes up during the samples: those that are there count."""
    script = Script()
    call = script.spend(itertools.chain([0.01] * 4, itertools.repeat(1.0)))
    began = script.time

    timed = timing.steady(call, lambda: None, timing.WallClock(script.now), timing.Effort(seconds=2.0))

    assert timed.samples == pytest.approx((0.01, 1.0, 1.0))
    assert script.time - began <= 2.0 + 1.0


def test_a_budget_is_shared_by_the_timings_that_are_left() -> None:
    """What one does not use goes to the others; when all is spent, a timing is one call."""
    script = Script()
    budget = timing.Budget(3.0, 3, script.now)
    assert budget.share().seconds == pytest.approx(1.0)
    script.time += 0.5
    assert budget.share().seconds == pytest.approx(1.25)
    script.time += 9.0
    spent = budget.share()
    timed = timing.steady(script.spend(itertools.repeat(4.0)), lambda: None, timing.WallClock(script.now), spent)
    assert timed.samples == pytest.approx((4.0,))


class Stream:
    """A GPU's stream with events in milliseconds, and a log of what happened in which order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.milliseconds = 0.0

    def event(self) -> Stream.Event:
        return Stream.Event(self)

    class Event:
        def __init__(self, stream: Stream) -> None:
            self._stream = stream
            self._at: float | None = None

        def record(self) -> None:
            self._stream.log.append("record")
            self._at = self._stream.milliseconds

        def elapsed_time(self, end: Stream.Event) -> float:
            assert self._stream.log[-1] == "synchronize", "events are read before they have happened"
            assert self._at is not None
            assert end._at is not None
            return end._at - self._at


def test_events_surround_the_call_alone_and_are_read_after_synchronizing() -> None:
    """Prepare, clear the cache, record, call, record, for each sample; look at the GPU; wait once, and read seconds."""
    stream = Stream()

    def call(_: None) -> None:
        stream.log.append("call")
        stream.milliseconds += 5.0

    clock = timing.EventClock(
        event=stream.event,
        synchronize=lambda: stream.log.append("synchronize"),
        clear_cache=lambda: stream.log.append("clear"),
        meanwhile=lambda: stream.log.append("look"),
    )
    assert clock.sample(call, lambda: stream.log.append("prepare"), 2) == pytest.approx([0.005, 0.005])
    assert stream.log == ["prepare", "clear", "record", "call", "record"] * 2 + ["look", "synchronize"]


@pytest.mark.parametrize(("launching", "cleared"), [(0.0, 1), (2.5 * timing.CLEARING, 3), (9.0, timing.MOST_CLEARED)])
def test_a_call_waits_behind_work_for_as_long_as_it_is_launched(launching: float, cleared: int) -> None:
    """The first has nothing to go by; after it the GPU is busy until Python has launched the call."""
    script, stream, clears = Script(), Stream(), [0]

    def clear() -> None:
        clears[0] += 1

    wait = partial(stream.log.append, "synchronize")
    clock = timing.EventClock(event=stream.event, synchronize=wait, clear_cache=clear, now=script.now)
    clock.sample(script.spend(itertools.repeat(launching)), lambda: None, 2)
    assert clears[0] == 1 + cleared


def test_the_flops_of_the_convention() -> None:
    """2 x 8192 x 16 heads x 128, causal: 4 B S^2 H D / 2 forward, 2.5 times that backward."""
    case = performance_case("cuda")
    assert performance.attention_flops(case, "forward") == 4 * 2 * 8192**2 * 16 * 128 / 2
    assert performance.attention_flops(case, "backward") == 2.5 * performance.attention_flops(case, "forward")


def test_full_attention_counts_twice_the_flops_of_causal() -> None:
    """Causal attention needs half of the scores."""
    case = performance_case("cuda")
    full = performance.attention_flops(dataclasses.replace(case, causal=False), "forward")
    assert full == 2 * performance.attention_flops(case, "forward")


def test_what_no_query_sees_is_not_counted() -> None:
    """Windows, packed documents and both; a window longer than a document is none."""
    case = dataclasses.replace(performance_case("cuda"), batch=1)
    plain = performance.attention_flops(case, "forward")
    windowed = dataclasses.replace(case, window=(1023, 0))
    packed = dataclasses.replace(case, cu_seqlens=(0, 4096, 8192))
    assert performance.attention_flops(windowed, "forward") == plain * 2 * 1024 / 8192
    assert performance.attention_flops(packed, "forward") == plain / 2
    assert performance.attention_flops(dataclasses.replace(packed, window=(8000, 0)), "forward") == plain / 2
    assert "causal, packed, window of 1024, softcap 50, " in performance.in_words(
        dataclasses.replace(packed, window=(1023, 0), softcap=50.0)
    )


class Fixed:
    """A clock that runs each call once and says that it took a quarter of a second."""

    def now(self) -> float:
        return 0.0

    def sample(
        self,
        call: Callable[[timing.T], object],
        prepare: Callable[[], timing.T],
        count: int,
        until: float = math.inf,
    ) -> list[float]:
        call(prepare())
        return [0.25] * count


def test_the_ceiling_is_two_n_cubed_over_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a product of small matrices."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(performance, "MATMUL_SIZE", 16)
    ceiling = performance.matmul_ceiling(torch.device("cpu"), Fixed())
    assert ceiling.seconds == 0.25
    assert ceiling.matmul_tflops == pytest.approx(2 * 16**3 / 0.25 / 1e12)
    assert len(ceiling.samples) == ceiling.planned == 10


def test_a_copy_reads_and_writes_each_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bytes of traffic for each byte of the buffer, in 10^9 bytes a second."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(performance, "COPY_BYTES", 1 << 20)
    bandwidth = performance.copy_bandwidth(torch.device("cpu"), Fixed())
    assert bandwidth.gigabytes_per_second == pytest.approx(2 * (1 << 20) / 0.25 / 1e9)


def test_the_timed_shapes() -> None:
    """Both head dims and both lengths of the field's benchmarks, at 16384 tokens and a hidden size of 2048."""
    cases = performance.timed_cases("cuda")
    assert [(case.head_dim, case.seqlen) for case in cases] == [(128, 8192), (64, 2048)]
    assert {(case.batch * case.seqlen, case.heads * case.head_dim) for case in cases} == {(16384, 2048)}
    assert len(performance.timed_cases("cpu")) == 1
    turing = dataclasses.replace(EVERYTHING, dtypes=("float16",))
    assert {case.dtype for case in performance.timed_cases("cuda", turing)} == {"float16"}


def test_what_speed_says_and_that_it_goes_on_after_an_error() -> None:
    """Each direction, on a CPU without ceilings; an attention that raises is left to `survive`."""
    torch = pytest.importorskip("torch")
    from entrypoint.probe import backends, reference
    from entrypoint.probe.eventlog import EventLog
    from entrypoint.probe.sensors import NoSensors

    stream, here, failed = io.StringIO(), torch.device("cpu"), []

    @contextlib.contextmanager
    def survive(name: str) -> Iterator[None]:
        try:
            yield
        except ZeroDivisionError:
            failed.append(name)

    def broken(_: object) -> object:
        raise ZeroDivisionError

    for attention in (reference.attention, broken):
        backend = backends.Backend(name="test", attention=attention, no_gradient="none")
        timed = performance.timed_cases("cpu")
        log, sensors = EventLog(stream), NoSensors("none")
        performance.measure_speed(backend, here, log, sensors, survive, timed=timed, compared=())
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    measured = [(event["event"], event.get("direction")) for event in events if event["event"] != "phase"]
    assert measured == [("speed", "forward")]
    assert events[1]["call"] == "causal, 2 x 333 positions, 8 heads (2 of k and v) of 64, bfloat16"
    assert failed == ["causal-s333-d64"]


def test_speeds_are_forward_then_backward() -> None:
    """Both at the convention's FLOPs over the same quarter of a second."""
    torch = pytest.importorskip("torch")
    from entrypoint.probe import backends

    here = torch.device("cpu")
    case = startup_cases()[0]
    speeds = list(performance.attention_speeds(backends.load("sdpa", here), case, here, Fixed()))
    assert [speed.direction for speed in speeds] == ["forward", "backward"]
    assert speeds[1].tflops == pytest.approx(2.5 * speeds[0].tflops)
    assert speeds[0].tflops == pytest.approx(4 * 2 * 333**2 * 8 * 64 / 2 / 0.25 / 1e12)


def test_a_backend_without_gradients_has_no_backward_speed() -> None:
    """What does not exist is not timed."""
    torch = pytest.importorskip("torch")
    from entrypoint.probe import backends, reference

    here = torch.device("cpu")
    backend = backends.Backend(name="test", attention=reference.attention, no_gradient="none")
    speeds = list(performance.attention_speeds(backend, startup_cases()[0], here, Fixed()))
    assert [speed.direction for speed in speeds] == ["forward"]
