"""The child that times backends: its batches, how it finds the right answer of some rows, and who gets turns."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from entrypoint.events import CaseEvent
from entrypoint.judge.budgets import weigh_case, worst_of
from entrypoint.probe.eventlog import EventLog
from entrypoint.race import __main__ as child
from entrypoint.race import layer, rows
from entrypoint.race.batch import Batch, batch_of, sampled
from entrypoint.race.contestant import Contestant
from entrypoint.race.layer import Inputs, Problem, inputs_of, kinds_of, positions_of
from entrypoint.shape import Shape

CPU = torch.device("cpu")
SHAPE = Shape(heads=4, kv_heads=2, head_dim=16, value_dim=16, scale=0.25, rows=2, length=128, dtype="bfloat16")
PACKED = replace(SHAPE, packed=True)


# --- batches ------------------------------------------------------------------------------------------------------


def test_packed_rows_are_full_of_documents_and_one_row_holds_the_same() -> None:
    rows_, one = batch_of(PACKED, one_row=False), batch_of(PACKED, one_row=True)

    assert [sum(row) for row in rows_.documents] == [128, 128]
    assert one.documents == (rows_.documents[0] + rows_.documents[1],)
    assert (rows_.length, one.length, one.rows) == (128, 256, 1)
    assert all(len(row) > 1 and min(row) >= 16 for row in rows_.documents)
    assert batch_of(PACKED, one_row=True) == one


def test_padded_rows_have_one_document_and_padding() -> None:
    """Of every length, so that no kernel finds a batch without padding."""
    for length in (1, 2, 64, 2048):
        batch = batch_of(replace(SHAPE, length=length, rows=3), one_row=False)
        assert all(len(row) == 1 and 1 <= row[0] <= length for row in batch.documents)
        assert length < 32 or max(row[0] for row in batch.documents) < length


def test_positions_count_from_0_in_each_document() -> None:
    batch = Batch(length=5, documents=((2, 3), (5,)), packed=True)
    assert positions_of(batch, CPU).tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 3, 4]]
    assert list(batch.spans(0)) == [(0, 2), (2, 5)]


@pytest.mark.parametrize("shape", [SHAPE, PACKED, replace(PACKED, length=4096, rows=1)])
def test_first_last_and_documents_edges_are_among_the_rows_that_are_looked_at(shape: Shape) -> None:
    """And none of the padding."""
    batch = batch_of(shape, one_row=False)
    for row, positions in enumerate(sampled(batch, None)):
        spans = list(batch.spans(row))
        edges = {edge for start, _ in spans[1:] for edge in (start - 1, start)}
        assert {0, spans[-1][1] - 1} <= {*positions}
        assert max(positions) == spans[-1][1] - 1
        assert {*positions} & edges or len(spans) == 1


# --- the right answer ---------------------------------------------------------------------------------------------


def attention(shape: Shape, batch: Batch, window: int | None = None, **wrong: Any) -> Callable[[Inputs], Tensor]:
    """The whole square in float32, as a healthy kernel has it, but for what is `wrong`."""
    rounds = getattr(torch, shape.dtype)
    group = shape.heads // shape.kv_heads
    at = torch.arange(batch.length)
    seen = torch.zeros(batch.rows, batch.length, batch.length, dtype=torch.bool)
    for row in range(batch.rows):
        for start, end in batch.spans(row) if not wrong.get("leak") else [(0, batch.length)]:
            seen[row, start:end, start:end] = True
        seen[row].fill_diagonal_(fill_value=True)  # padding sees itself
    seen &= (at[None, :] <= at[:, None])[None]
    if window is not None:
        seen &= (at[None, :] > at[:, None] - window)[None]

    def call(inputs: Inputs) -> Tensor:
        q, k, v = (tensor.float() for tensor in (inputs.q, inputs.k, inputs.v))
        k, v = (tensor.repeat_interleave(group, dim=2) for tensor in (k, v))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) * wrong.get("scale", shape.scale)
        cap = wrong.get("softcap", shape.softcap)
        scores = cap * (scores / cap).tanh() if cap else scores
        scores = scores.masked_fill(~seen[:, None], -math.inf)
        if inputs.sinks is not None and not wrong.get("no_sinks"):
            column = inputs.sinks.float()[None, :, None, None].expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, column], dim=-1)
        weights = torch.softmax(scores, dim=-1)[..., : batch.length]
        weights = weights.detach() if wrong.get("cut") else weights
        out = torch.einsum("bhij,bjhd->bihd", weights, v)
        return out.to(rounds)

    return call


def judged(shape: Shape, *, one_row: bool = False, **wrong: Any) -> tuple[float, str]:
    """The largest share of a budget that a tensor takes, and its name; of a missing gradient infinity and why."""
    batch = batch_of(shape, one_row=one_row)
    problem = Problem(shape=shape, batch=batch, where=CPU)
    window = shape.window
    call = attention(shape, batch, **{"window": window, **wrong})
    tensors, missing = rows.measure(call, inputs_of(problem), problem, window)
    if missing:
        return math.inf, missing
    event = CaseEvent(
        id="x/full", dtype=shape.dtype, inputs="normal", seconds=0.0, tensors=tensors,
        relative_error=child.BY_DESIGN.get(shape.dtype),
    )  # fmt: skip
    worst = worst_of(weigh_case(event))
    return worst.ratio, worst.tensor


@pytest.mark.parametrize(
    "shape",
    [
        SHAPE,
        PACKED,
        replace(PACKED, window=20),
        replace(SHAPE, window=50, softcap=10.0),
        replace(PACKED, sinks=True, softcap=5.0),
        replace(SHAPE, dtype="float16"),
        replace(PACKED, dtype="float32"),
        replace(SHAPE, value_dim=8),
    ],
)
def test_a_right_attention_is_within_its_budgets(shape: Shape) -> None:
    """Where it packs, with rows as they are and as one."""
    for one_row in {False, shape.packed}:
        ratio, tensor = judged(shape, one_row=one_row)
        assert ratio < 1.0, tensor


@pytest.mark.parametrize(
    ("shape", "wrong"),
    [
        (PACKED, {"leak": True}),
        (SHAPE, {"scale": 0.26}),
        (SHAPE, {"window": 60}),
        (replace(SHAPE, window=50), {"window": 51}),
        (replace(SHAPE, window=50), {"window": None}),
        (replace(SHAPE, softcap=2.0), {"softcap": 0.0}),
        (replace(SHAPE, sinks=True), {"no_sinks": True}),
        (replace(PACKED, dtype="float32"), {"leak": True}),
    ],
)
def test_a_wrong_one_is_not(shape: Shape, wrong: dict[str, Any]) -> None:
    """Documents that see each other, and what a kernel may drop without a word."""
    assert judged(shape, **wrong)[0] > 1.0


def test_a_gradient_that_is_cut_is_missing() -> None:
    assert judged(SHAPE, cut=True) == (math.inf, "no gradient reaches q, k")


def test_a_gradient_of_a_query_that_has_none_is_an_error() -> None:
    """Only sampled queries have one coming in; what a backward adds to another's dq shows."""
    batch = batch_of(SHAPE, one_row=False)
    problem, positions = Problem(shape=SHAPE, batch=batch, where=CPU), sampled(batch, None)
    right = attention(SHAPE, batch)
    other = next(at for at in range(SHAPE.length) if at not in positions[0])

    def leaking(given: Inputs) -> Tensor:
        given.q.register_hook(lambda grad: grad.index_fill(1, torch.tensor([other]), 1.0))
        return right(given)

    tensors, _ = rows.measure(leaking, inputs_of(problem), problem, None)
    dq = tensors["dq"]
    assert dq is not None
    assert dq.error == 1.0


def test_an_output_of_another_shape_is_an_error() -> None:
    problem = Problem(shape=SHAPE, batch=batch_of(SHAPE, one_row=False), where=CPU)
    with pytest.raises(ValueError, match="the output has shape"):
        rows.measure(lambda given: given.q[:, :1], inputs_of(problem), problem, None)


# --- turns --------------------------------------------------------------------------------------------------------


class FakeClock:
    """Each contestant's calls take the seconds that its name says; `now` is their sum."""

    def __init__(self) -> None:
        self.seconds, self.took = 0.0, 0.0

    def now(self) -> float:
        return self.seconds

    def sample(
        self, call: Callable[[Any], object], prepare: Callable[[], Any], count: int, until: float = 0.0
    ) -> list[float]:
        call(prepare())
        self.seconds += count * self.took
        return [self.took] * count


class FakeLayer:
    """Sets the clock's pace; raises where `fails` says."""

    def __init__(self, clock: FakeClock, seconds: float, *, fails: bool = False) -> None:
        self.clock, self.seconds, self.fails = clock, seconds, fails

    def __call__(self, inputs: Inputs) -> Tensor:
        if self.fails:
            raise RuntimeError("it fails")
        self.clock.took = self.seconds
        return inputs.q * 1.0 + inputs.k.sum() + inputs.v.sum()


def turns(
    seconds: dict[str, float], *, drops: bool = True, until: float = math.inf, fails: str = ""
) -> list[dict[str, Any]]:
    """The events of a race between contestants with these seconds a call."""
    clock, stream = FakeClock(), io.StringIO()
    shape = replace(SHAPE, length=8, rows=1)
    problem = Problem(shape=shape, batch=batch_of(shape, one_row=False), where=CPU)
    inputs = inputs_of(problem)
    runners = [
        child.Runner(
            contestant=Contestant(backend=name, attention=name),
            problem=problem,
            inputs=inputs,
            layers={"full": cast(layer.Layer, FakeLayer(clock, each, fails=name == fails))},
            samples={("full", "forward"): [9.0] * 99, ("full", "backward"): [9.0] * 99},  # first calls do not count
        )
        for name, each in seconds.items()
    ]
    pace = child.Pace(until=until, rounds=child.ROUNDS, drops=drops)
    child._take_turns(runners, clock, pace, EventLog(stream))
    return [json.loads(text) for text in stream.getvalue().splitlines()]


def turns_of(events: list[dict[str, Any]]) -> list[str]:
    return [event["detail"] for event in events if event["event"] == "phase"]


def test_they_take_turns_and_who_is_far_behind_gets_no_more() -> None:
    """The drift of a clock meets all alike; the slow one has its two turns."""
    events = turns({"fast": 0.01, "near": 0.012, "slow": 0.05})
    order = turns_of(events)

    assert order[:6] == ["fast", "near", "slow"] * 2
    assert order[6:] == ["fast", "near"] * (child.ROUNDS[1] - 2)
    told = {event["id"]: event["seconds"] for event in events if event["event"] == "speed"}
    assert told == {"fast/full": 0.01, "near/full": 0.012, "slow/full": 0.05}


def test_time_that_is_over_leaves_each_its_least_turns() -> None:
    assert turns_of(turns({"a": 0.01, "b": 0.011}, until=0.0)) == ["a", "b"] * child.ROUNDS[0]


def test_one_alone_needs_no_more_turns_than_the_least() -> None:
    assert turns_of(turns({"a": 0.01, "b": 0.5})) == ["a", "b", "a", "b", "a"]


def test_all_go_on_where_none_is_dropped() -> None:
    assert turns_of(turns({"a": 0.01, "b": 0.5}, drops=False)) == ["a", "b"] * child.ROUNDS[1]


def test_one_that_raises_in_its_turn_is_told_and_the_others_go_on() -> None:
    events = turns({"a": 0.01, "b": 0.01, "c": 0.01}, fails="b")
    assert turns_of(events)[:5] == ["a", "b", "c", "a", "c"]
    assert [event["id"] for event in events if event["event"] == "case_error"] == ["b"]


def test_kinds_of_layers_and_pairs() -> None:
    assert kinds_of(SHAPE) == ("full",)
    assert kinds_of(replace(SHAPE, window=8)) == ("window",)
    assert kinds_of(replace(SHAPE, window=8, mixed=True)) == ("full", "window")
    batch = Batch(length=8, documents=((3, 5),), packed=True)
    assert child._pairs(batch, replace(SHAPE, window=2)) == {"full": 6 + 15, "window": 5 + 9}
