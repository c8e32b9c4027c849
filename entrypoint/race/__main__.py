"""The child's one run: each contestant is tried and compared with float64, then all take turns at being timed."""

from __future__ import annotations

import argparse
import gc
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Final

from entrypoint import shape as shapes
from entrypoint.events import CaseEvent, Direction, SpeedEvent, UnusableEvent
from entrypoint.probe import calls, device, facts
from entrypoint.probe.eventlog import EventLog
from entrypoint.probe.timing import Clock, clock_for
from entrypoint.probe.trouble import Unusable, case_error_if_it_raises, unusable_if_it_raises
from entrypoint.race import batch as batches
from entrypoint.race import contestant as contestants
from entrypoint.race import rows
from entrypoint.race.batch import Batch
from entrypoint.race.contestant import Contestant
from entrypoint.race.layer import Inputs, Kind, Layer, Problem, inputs_of, kinds_of, preferred
from entrypoint.shape import Shape

if TYPE_CHECKING:
    import torch

# Products of float32 may be TF32's, with 11 significant bits: an error by design.
BY_DESIGN: Final = {"float32": 2.0**-11}
# Seconds of timing for each contestant, of which one that is far behind needs little.
SECONDS: Final = {"cuda": 1.5, "cpu": 2.0}
# The share of the child's time after which no round begins.
LAST_ROUND: Final = 0.8
ROUNDS: Final = (3, 12)  # at least and at most
THOROUGH: Final = (5, 40)
TURN: Final = 0.02  # seconds of calls in a turn, of at most MOST calls
MOST: Final = 8
# After this many rounds a contestant that takes so many times the fastest's time gets no more turns.
SETTLED: Final = 2
FAR_BEHIND: Final = 1.3


@dataclass(kw_only=True)
class Runner:
    """One contestant's layers, one of each kind, and the seconds of its calls so far."""

    contestant: Contestant
    problem: Problem
    inputs: Inputs
    layers: dict[Kind, Layer]
    samples: dict[tuple[Kind, Direction], list[float]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of a forward and a backward of each kind of layer; infinite before the first."""
        return sum(median(taken) for taken in self.samples.values()) if self.samples else math.inf

    def turn(self, clock: Clock) -> None:
        """Time each kind of layer, forward and back."""
        with preferred(self.contestant):
            for kind, layer in self.layers.items():
                self._timed(kind, layer, clock)

    def _timed(self, kind: Kind, layer: Layer, clock: Clock) -> None:
        inputs = self.inputs
        leaves = (inputs.q, inputs.k, inputs.v)

        def back(loss: torch.Tensor) -> object:
            import torch

            return torch.autograd.grad(loss, leaves)

        last = self.samples.get((kind, "forward")), self.samples.get((kind, "backward"))
        each = sum(median(taken) for taken in last if taken) or TURN
        count = max(1, min(MOST, int(TURN / each)))
        # Not timed: transformers looks its flash functions up again when another contestant has had a turn.
        layer(inputs)
        forward = clock.sample(lambda _: layer(inputs), lambda: None, count)
        backward = clock.sample(back, lambda: calls.loss_of(layer(inputs), inputs.dout), count)
        for direction, taken in (("forward", forward), ("backward", backward)):
            key: tuple[Kind, Direction] = (kind, direction)  # type: ignore[assignment]
            self.samples.setdefault(key, []).extend(taken)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 whenever the events tell the whole story; a traceback and 1 when the device is beyond use."""
    options = parse(argv)
    log = EventLog.take(options.events)
    # Inductor's pool of compilers takes longer to start than the two kernels of a layer take to compile.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    try:
        race(contestants.from_json(options.contestants), shapes.from_json(options.shape), options, log)
    except Unusable as refusal:
        log.emit(UnusableEvent(subject=refusal.subject, reason=str(refusal)))
    return 0


def race(entered: Sequence[Contestant], shape: Shape, options: argparse.Namespace, log: EventLog) -> None:
    """Events of every contestant. Raises Unusable, or the device's own error when no later call can succeed."""
    with log.phase("import", "torch"), unusable_if_it_raises("torch"):
        import torch
    with log.phase("machine", options.device), unusable_if_it_raises("device"):
        where = device.open_device(options.device)
        log.emit(facts.machine(where))
    with log.phase("import", "transformers"), unusable_if_it_raises("backend"):
        import transformers.masking_utils
        import transformers.modeling_utils  # noqa: F401
    clock = clock_for(where)
    ends = clock.now() + LAST_ROUND * options.seconds
    thorough: bool = options.thorough
    _settle_order(where)
    shared: dict[bool, Inputs] = {}
    runners = []
    # FlexAttention compiles for longest: whoever ends this process then has the times of the others.
    for contestant in sorted(entered, key=lambda item: item.attention == "flex_attention"):
        name = contestant.backend
        with log.phase("correctness", name), case_error_if_it_raises(name, where, log):
            runner = _tried(contestant, shape, shared, where, log)
            runner.turn(clock)
            _tell(runner, log)
            runners.append(runner)
        gc.collect()
        if where.type == "cuda":
            torch.cuda.empty_cache()
    until = ends if thorough else min(ends, clock.now() + SECONDS[where.type] * len(runners))
    pace = Pace(until=until, rounds=THOROUGH if thorough else ROUNDS, drops=not thorough)
    _take_turns(runners, clock, pace, log)
    log.done([])


def _settle_order(where: torch.device) -> None:
    """SDPA changes the order of its kernels at its first call, where it prefers another than the built-in one."""
    import torch

    q = torch.zeros(1, 1, 16, 64, dtype=torch.float16, device=where)
    torch.nn.functional.scaled_dot_product_attention(q, q, q)


def _tried(
    contestant: Contestant, shape: Shape, shared: dict[bool, Inputs], where: torch.device, log: EventLog
) -> Runner:
    """The contestant's layers, each called once and compared with float64 (an event). Inputs are shared by layout."""
    batch = batches.batch_of(shape, one_row=contestant.one_row)
    problem = Problem(shape=shape, batch=batch, where=where)
    if contestant.one_row not in shared:
        shared[contestant.one_row] = inputs_of(problem)
    inputs, layers = shared[contestant.one_row], {}
    with preferred(contestant):
        for kind in kinds_of(shape):
            started = time.perf_counter()
            layer = layers[kind] = Layer(contestant, kind, problem)
            tensors, missing = rows.measure(layer, inputs, problem, problem.window(kind))
            event = CaseEvent(
                id=f"{contestant.backend}/{kind}",
                dtype=shape.dtype,
                inputs="normal",
                seconds=time.perf_counter() - started,
                tensors=tensors,
                no_gradient=missing,
                relative_error=BY_DESIGN.get(shape.dtype),
            )
            log.emit(event)
            if missing:
                raise RuntimeError(missing)
    return Runner(contestant=contestant, problem=problem, inputs=inputs, layers=layers)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Rounds at least and at most, none of which begins after `until` on the clock but the least; `drops`: whether one
    that is far behind gets no more turns."""

    until: float
    rounds: tuple[int, int]
    drops: bool


def _take_turns(runners: Sequence[Runner], clock: Clock, pace: Pace, log: EventLog) -> None:
    """Rounds in which each has one turn, so that a clock that drifts or a neighbour's load meets all alike.

    What was timed before is forgotten: packages do things at their first calls that they never do again.
    """
    for runner in runners:
        runner.samples.clear()
    least, most = pace.rounds
    running = list(runners)
    for number in range(most):
        for runner in list(running):
            name = runner.contestant.backend
            running.remove(runner)
            with log.phase("performance", name), case_error_if_it_raises(name, runner.problem.where, log):
                runner.turn(clock)
                running.append(runner)
                _tell(runner, log)
        fastest = min((runner.seconds for runner in running), default=math.inf)
        if pace.drops and number + 1 >= SETTLED:
            running = [runner for runner in running if runner.seconds <= FAR_BEHIND * fastest]
        if number + 1 >= least and (clock.now() > pace.until or len(running) < 2):
            break


def _tell(runner: Runner, log: EventLog) -> None:
    """The medians so far; the last event of an id counts."""
    shape, batch = runner.problem.shape, runner.problem.batch
    pairs = _pairs(batch, shape)
    for (kind, direction), taken in runner.samples.items():
        flops = 2.0 * pairs[kind] * shape.heads * (shape.head_dim + shape.value_dim)
        seconds = median(taken)
        log.emit(
            SpeedEvent(
                id=f"{runner.contestant.backend}/{kind}",
                direction=direction,
                call=f"{batch.rows} x {batch.length} positions",
                tflops=flops * (2.5 if direction == "backward" else 1.0) / seconds / 1e12,
                seconds=seconds,
                samples=tuple(taken),
                planned=len(taken),
            )
        )


def _pairs(batch: Batch, shape: Shape) -> dict[Kind, int]:
    """Pairs of a query and a key that it sees, in the whole batch."""
    lengths = [length for row in batch.documents for length in row]
    window = shape.window or 0
    return {
        "full": sum(length * (length + 1) // 2 for length in lengths),
        "window": sum(_within(length, min(window, length)) for length in lengths),
    }


def _within(length: int, window: int) -> int:
    return window * (window + 1) // 2 + (length - window) * window


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -P -m entrypoint.race",
        description="Time attention forward and backward through the functions that transformers calls, compare it "
        "with float64 at some rows, and write what was measured as JSON lines (see entrypoint/events.py): a case and "
        "speeds for each BACKEND/KIND, the last of an id counting. It never judges.",
    )
    parser.add_argument("--contestants", required=True, help="as entrypoint/race/contestant.py writes them")
    parser.add_argument("--shape", required=True, help="as entrypoint/shape.py writes it")
    parser.add_argument("--device", required=True, help="torch's name for the device: cuda:0, cpu")
    parser.add_argument("--events", default=1, type=int, metavar="FD", help="file descriptor of the lines (default: 1)")
    parser.add_argument("--thorough", action="store_true", help="every one to the end, to measure a race by")
    parser.add_argument("--seconds", default=math.inf, type=float, metavar="S", help="until this process is ended")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
