"""The GPUs of one report beside each other: from figures of a recorded check, each a little different, one far off."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from attn_matrix import ROOT

from entrypoint.children.outcome import Outcome
from entrypoint.judge.finding import Code
from entrypoint.judge.siblings import beside_siblings
from entrypoint.judge.verdict import Judged, judge
from entrypoint.report.document import build
from entrypoint.settings import Settings
from entrypoint.spec import ImageSpec, from_json
from tests.unit import whole

RECORDED = json.loads((ROOT / "tests/data/reports/fa4-cu128.h200.json").read_text(encoding="utf-8"))
# Of one host: how far healthy GPUs are from each other, as a share.
HEALTHY = (0.0, 0.004, -0.006, 0.011, -0.009, 0.002, 0.007, -0.012)
WARN, FAIL = Settings(backend="fa4"), Settings(backend="fa4", slow="fail")


@pytest.fixture(scope="module")
def spec() -> ImageSpec:
    return from_json((ROOT / "docker/specs/fa4-cu128.json").read_text(encoding="utf-8"))


def outcome(index: int, factor: float, name: str = "NVIDIA H200", *, attention: float = 1.0) -> Outcome:
    """A GPU that reaches `factor` of what was recorded, and of its attention `attention` of that."""
    found = Outcome(device=f"cuda:{index}", backend="fa4", ending="done")
    ceiling = RECORDED["ceilings"][0]
    events: list[dict[str, Any]] = [
        {"event": "machine", "device": {"index": index, "name": name}},
        {"event": "phase"},
        {"event": "case"},
        {"event": "kernels", "asked": "fa4", "observed": "fa4"},
        {"event": "ceiling", "matmul_tflops": ceiling["matmul_tflops"] * factor},
        {"event": "bandwidth", "gigabytes_per_second": ceiling["copy"]["gigabytes_per_second"] * factor},
        *(
            {
                "event": "speed",
                "id": row["id"].partition("/")[0],
                "direction": row["id"].partition("/")[2],
                "tflops": row["tflops"] * factor * attention,
            }
            for row in RECORDED["performance"]
        ),
        {"event": "done"},
    ]
    for event in events:
        assert found.take(whole.line(event)) is not None
    return found


def judged(spec: ImageSpec, settings: Settings, outcomes: Sequence[Outcome]) -> list[Judged]:
    return beside_siblings(settings, [judge(spec, settings, each) for each in outcomes])


def host(**factors: float) -> list[Outcome]:
    """Eight healthy GPUs, but for those that are named: `gpu3=0.9`."""
    return [outcome(index, factors.get(f"gpu{index}", 1.0 + off)) for index, off in enumerate(HEALTHY)]


def named(found: Sequence[Judged]) -> list[str]:
    return [item.outcome.device for item in found if item.findings[0].verdict != "PASS"]


def test_healthy_siblings_are_not_named(spec: ImageSpec) -> None:
    assert RECORDED["performance"]
    assert named(judged(spec, FAIL, host())) == []


def test_a_slow_one_is_named_with_its_figures(spec: ImageSpec) -> None:
    """8 % is above every floor of this model, which leaves room; its siblings tell."""
    found = judged(spec, WARN, host(gpu5=0.92))
    (finding,) = found[5].findings

    assert named(found) == ["cuda:5"]
    assert (finding.verdict, finding.code) == ("DEGRADED", Code.PASS)
    assert finding.what.startswith("This NVIDIA H200 is slow beside its 7 siblings: ")
    assert "8% below their median of" in finding.what
    assert finding.what.endswith("(allowed: 5.0%).")


def test_it_stops_the_start_where_slow_fails(spec: ImageSpec) -> None:
    (finding,) = judged(spec, FAIL, host(gpu5=0.92))[5].findings
    assert (finding.verdict, finding.code) == ("FAIL", Code.SLOW)


def test_attention_alone_may_lag(spec: ImageSpec) -> None:
    """The call in which it is the furthest off is the one that is told."""
    for factor in (1.0, 0.93):
        outcomes = [*host()[:7], outcome(7, factor, attention=0.9 / factor)]
        (finding,) = judged(spec, WARN, outcomes)[7].findings
        assert re.search(r": (forward|backward) in \S+ reaches [\d,.]+ TFLOP/s, 1\d% below", finding.what)


@pytest.mark.parametrize(("factor", "off"), [(0.96, False), (0.94, True), (1.2, False)])
def test_five_percent_below_is_the_limit_where_they_agree(spec: ImageSpec, factor: float, off: bool) -> None:
    """A GPU that is faster is no trouble."""
    outcomes = [outcome(index, factor if index == 2 else 1.0) for index in range(4)]
    assert named(judged(spec, WARN, outcomes)) == (["cuda:2"] if off else [])


def test_three_deviations_are_the_limit_where_they_do_not(spec: ImageSpec) -> None:
    """Siblings that differ by 4 % each: 10 % below their median is among what they do, and 20 % is not."""
    spread = (0.92, 0.96, 1.0, 1.04, 1.08)
    for factor, off in ((0.9, False), (0.8, True)):
        outcomes = [outcome(index, each) for index, each in enumerate((*spread, factor))]
        assert ("cuda:5" in named(judged(spec, WARN, outcomes))) is off


def test_siblings_are_of_one_model_and_more_than_two(spec: ImageSpec) -> None:
    """Another model has other speeds, and of two nobody knows which one is off."""
    others = [outcome(index, 0.5, "NVIDIA Other") for index in range(3, 6)]
    assert named(judged(spec, WARN, [*(outcome(index, 1.0) for index in range(3)), *others])) == []
    assert named(judged(spec, WARN, [outcome(0, 1.0), outcome(1, 0.9)])) == []
    assert named(judged(spec, WARN, [outcome(0, 1.0), outcome(1, 0.9), outcome(2, 1.0)])) == ["cuda:1"]


def test_a_worse_reason_stands_alone(spec: ImageSpec) -> None:
    """One that crashed has no figures, is no sibling, and is not called slow."""
    crashed, other = outcome(0, 0.92), outcome(0, 1.0)
    for each in (crashed, other):
        each.ending, each.number = "killed", 11
    found = judged(spec, WARN, [crashed, *(outcome(index, 1.0) for index in range(1, 4))])
    assert named(found) == ["cuda:0"]
    assert [finding.code for finding in found[0].findings] == [Code.GPU_FAULT]
    assert named(judged(spec, WARN, [other, outcome(1, 1.0), outcome(2, 0.92)])) == ["cuda:0"]


def test_the_report_names_each(spec: ImageSpec) -> None:
    """Two that lag have a sentence each, and a verdict of their own; the headline is the report's worst."""
    report = build(spec, "fa4", judged(spec, WARN, host(gpu1=0.9, gpu6=0.92)), [], 1.0)
    assert report["verdict"] == "DEGRADED"
    assert [gpu["device"] for gpu in report["gpus"] if gpu["verdict"] == "DEGRADED"] == ["cuda:1", "cuda:6"]
    told = [reason.partition(" siblings")[0] for reason in report["reasons"]]
    assert told == [f"cuda:{index}: This NVIDIA H200 is slow beside its 7" for index in (1, 6)]
