"""The lines between the child and its parent: what was written is read, and anything else is no event."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from entrypoint.children.outcome import Outcome
from entrypoint.events import CaseEvent, DoneEvent, Event, Garbled, HealthEvent, TensorErrors, decode, encode
from tests.unit.whole import HEALTHY, NUMBERS, line, whole

CASE = CaseEvent(
    id="cudnn:causal-d64",
    dtype="float16",
    inputs="x3",
    seconds=0.25,
    tensors={"out": NUMBERS, "dq": None},
    no_gradient="no gradient reaches q",
    mutated=("k", "v"),
    repeatable=False,
    relative_error=0.012,
)


@pytest.mark.parametrize("event", [CASE, HealthEvent(xids=(31,), throttle=("sw_power_cap",), power_watts=650.5)])
def test_what_is_written_is_read(event: Event) -> None:
    """Each field in its own type, tuples and nested values too."""
    assert decode(encode(event).encode()) == event


@pytest.mark.parametrize("kind", HEALTHY)
def test_each_kind_is_read(kind: str) -> None:
    """The reader forgets none."""
    assert json.loads(encode(decode(line({"event": kind})))) == whole({"event": kind})


def test_a_number_that_is_not_finite_is_null() -> None:
    """NaN and infinity are not JSON, and a strict reader would lose the line that matters most."""
    errors = TensorErrors(
        error=math.nan, baseline=math.inf, relative=-math.inf, baseline_relative=0.5, scale=1.5, finite=False
    )
    text = encode(CaseEvent(id="a", dtype="bfloat16", inputs="normal", seconds=0.1, tensors={"out": errors}))
    out = json.loads(text, parse_constant=pytest.fail)["tensors"]["out"]
    assert (out["error"], out["baseline"], out["relative"], out["scale"]) == (None, None, None, 1.5)


@pytest.mark.parametrize("kind", HEALTHY)
def test_a_line_that_lacks_a_field_is_garbled(kind: str) -> None:
    """Whichever it is, one with a default too; and one that nobody knows is as bad."""
    event = whole({"event": kind})
    for name in event.keys() - {"event"}:
        with pytest.raises(Garbled, match=name):
            decode(json.dumps({key: value for key, value in event.items() if key != name}).encode())
    with pytest.raises(Garbled, match="surplus"):
        decode(json.dumps({**event, "surplus": 1}).encode())


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("case", {"seconds": "0.1"}),
        ("case", {"seconds": None}),
        ("case", {"seconds": True}),
        ("case", {"dtype": "float8"}),
        ("case", {"mutated": "k"}),
        ("case", {"mutated": [1]}),
        ("case", {"tensors": []}),
        ("case", {"tensors": {"outt": None}}),
        ("case", {"tensors": {"out": {"error": 1.0}}}),
        ("case", {"tensors": {"out": {**vars(NUMBERS), "finite": None}}}),
        ("case", {"repeatable": 1}),
        ("machine", {"device": None}),
        ("machine", {"packages": {"torch": 2}}),
        ("phase", {"name": "lunch"}),
        ("health", {"temperature": 61.5}),
        ("health", {"xids": [None]}),
        ("speed", {"tflops": None}),
        ("speed", {"direction": "sideways"}),
        ("kernels", {"recorded": -0.5}),
        ("done", {"written": {"case": "1"}}),
    ],
)
def test_a_field_of_another_kind_is_garbled(kind: str, wrong: dict[str, Any]) -> None:
    """So that nothing of the judge's falls over it later."""
    event = whole({"event": kind}) | wrong
    with pytest.raises(Garbled):
        decode(json.dumps(event).encode())


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"x", b"1", b"null", b"[]", b"{}", b"\xff\xfe", b'{"event": []}', b'{"event": "verdict"}'),
        encode(CASE)[:-20].encode(),
        encode(CASE).replace("0.25", "NaN").encode(),
        encode(CASE).replace("0.25", "9" * 400).encode(),
        encode(CASE).replace("0.25", "9" * 5000).encode(),
        b"[" * 100_000,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_no_event_is_garbled(text: bytes) -> None:
    """Output of a library, half a line, a number that JSON does not have."""
    outcome = Outcome(device="cpu", backend="sdpa")
    assert outcome.take(text) is None
    assert (outcome.garbled, outcome.cases) == (1, [])


def test_a_whole_number_is_a_number() -> None:
    """JSON of another writer has 2 for 2.0."""
    assert repr(decode(line({"event": "first_call", "seconds": 2}))) == "FirstCallEvent(id='causal-d64', seconds=2.0)"


def test_what_got_lost_is_known() -> None:
    """By the count of the child's last line; before it nothing can be said."""
    outcome = Outcome(device="cpu", backend="sdpa")
    outcome.take(line({"event": "case"}))
    assert outcome.lost == {}
    outcome.take(encode(DoneEvent(seconds={}, left_out=(), written={"case": 3, "phase": 0, "kernels": 1})).encode())
    assert outcome.lost == {"case": 2, "kernels": 1}
