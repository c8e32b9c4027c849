"""From what a child left behind to what is said of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from entrypoint.devices import Devices
from entrypoint.errors import ConfigError, MismatchError
from entrypoint.outcome import Outcome
from entrypoint.settings import Settings
from entrypoint.spec import BackendSpec, Floor, ImageSpec, Sibling
from entrypoint.verdict import Code, judge, refuse_early

NUMBERS: dict[str, Any] = {
    **dict.fromkeys(("error", "baseline", "relative", "baseline_relative"), 0.002),
    "scale": 1.0,
    "finite": True,
}
HEALTHY = dict.fromkeys(("out", "dq", "dk", "dv"), NUMBERS)
SETTINGS = Settings(backend="fa4")
FLOOR = Floor(gpu="H200", backend="fa4", forward=0.5, backward=0.4, source="test")


def backend(name: str, *architectures: str, gradients: bool = True) -> BackendSpec:
    return BackendSpec(name=name, packages=(), architectures=architectures, gradients=gradients)


SPEC = ImageSpec(
    id="fa4-cu128",
    version="0.1.0",
    platform="cu128",
    device="cuda",
    driver="525.60.13",
    backends=(backend("fa4", "hopper"), backend("sdpa", "hopper", "ada")),
    packages={"torch": "2.10.0"},
    architectures={"hopper": ("9.0",), "ada": ("8.9",)},
    supported=("hopper",),
    floors=(FLOOR,),
    siblings=(Sibling(id="sdpa-cpu", platform="cpu", architectures=()),),
)


def devices(count: int = 1, driver: str | None = "580.1") -> Devices:
    return Devices(driver=driver, listed=(), count=count, usable=())


def outcome(*changes: dict[str, Any], ending: str = "done", number: int = 0) -> Outcome:
    """A healthy run on an H200, then `changes`: further events."""
    result = Outcome(device="cuda:0", backend="fa4", ending=ending, number=number)  # type: ignore[arg-type]
    device = {"index": 0, "name": "NVIDIA H200", "capability": "9.0"}
    events: list[dict[str, Any]] = [
        {"event": "machine", "device": device},
        {"event": "phase", "name": "correctness", "detail": "causal-d64"},
        {"event": "case", "id": "causal-d64", "tensors": HEALTHY},
        {"event": "kernels", "names": ["k"], "observed": "fa4"},
        {"event": "ceiling", "matmul_tflops": 700.0},
        {"event": "speed", "id": "s8192", "direction": "forward", "tflops": 600.0, "seconds": 1e-3},
        {"event": "done", "seconds": {}},
    ]
    for event in [*events, *changes]:
        assert result.take(json.dumps(event).encode()) is not None
    return result


def said(result: Outcome, settings: Settings = SETTINGS) -> tuple[str, Code]:
    finding = judge(SPEC, settings, result)[0]
    return finding.verdict, finding.code


def test_a_healthy_outcome_passes() -> None:
    """PASS, and the sentence has the throughput."""
    (finding,) = judge(SPEC, SETTINGS, outcome())

    assert (finding.verdict, finding.code) == ("PASS", Code.PASS)
    assert "600 TFLOP/s" in finding.what


@pytest.mark.parametrize("tensor", ["out", "dq", "dk", "dv"])
def test_each_tensor_is_judged(tensor: str) -> None:
    """One wrong gradient in one case is enough."""
    tensors = HEALTHY | {tensor: NUMBERS | {"error": 9.0}}
    event = {"event": "case", "id": "full-d128", "tensors": tensors}

    finding = judge(SPEC, SETTINGS, outcome(event))[0]

    assert (finding.verdict, finding.code) == ("FAIL", Code.WRONG)
    assert "full-d128 (1 of 2 cases wrong)" in finding.what


def test_a_missing_gradient_names_its_reason() -> None:
    """The adapter's own words reach the user."""
    tensors = {"out": NUMBERS, "dq": None, "dk": None, "dv": None}
    event = {"event": "case", "id": "x", "tensors": tensors, "no_gradient": "no backward exists"}

    finding = judge(SPEC, SETTINGS, outcome(event))[0]

    assert finding.code is Code.WRONG
    assert "gives no gradient dQ in x: no backward exists" in finding.what


def test_a_case_that_raises_is_wrong() -> None:
    """A backend that refuses what it should run."""
    assert said(outcome({"event": "case_error", "id": "x", "reason": "ValueError: no"})) == ("FAIL", Code.WRONG)


def test_a_full_gpu_is_not_a_wrong_kernel() -> None:
    """Out of memory: nothing is said about the kernel."""
    event = {"event": "case_error", "id": "x", "reason": "OutOfMemoryError: 2 GiB", "out_of_memory": True}

    assert said(outcome(event)) == ("NOT_CHECKED", Code.INTERNAL)


def test_an_unknown_kernel_does_not_fail() -> None:
    """Unknown stays unknown: a kernel with a new name is no proof of a fallback."""
    assert said(outcome({"event": "kernels", "names": ["new"], "observed": None})) == ("PASS", Code.PASS)


def test_a_throughput_under_its_floor_degrades_or_fails() -> None:
    """By ATTN_SLOW; the direction's own floor counts."""
    slow = {"event": "speed", "id": "s8192", "direction": "backward", "tflops": 279.0, "seconds": 1e-3}

    assert said(outcome(slow)) == ("DEGRADED", Code.PASS)
    assert said(outcome(slow), Settings(backend="fa4", slow="fail")) == ("FAIL", Code.SLOW)


def test_a_gpu_without_a_floor_is_never_slow() -> None:
    """Unknown never fails."""
    machine = {"event": "machine", "device": {"name": "NVIDIA L4", "capability": "9.0"}}
    slow = {"event": "speed", "id": "s8192", "direction": "backward", "tflops": 1.0, "seconds": 1e-3}

    assert said(outcome(machine, slow)) == ("PASS", Code.PASS)


@pytest.mark.parametrize(
    ("ending", "number", "phase", "expected"),
    [
        ("killed", 11, "correctness", ("FAIL", Code.GPU_FAULT)),
        ("killed", 11, "import", ("NOT_CHECKED", Code.INTERNAL)),
        ("killed", 9, "correctness", ("NOT_CHECKED", Code.INTERNAL)),
        ("timeout", 0, "performance", ("FAIL", Code.GPU_FAULT)),
        ("timeout", 0, "import", ("NOT_CHECKED", Code.INTERNAL)),
        ("exited", 1, "compile", ("FAIL", Code.GPU_FAULT)),
        ("exited", 1, "machine", ("NOT_CHECKED", Code.INTERNAL)),
        ("exited", 0, "observe", ("FAIL", Code.GPU_FAULT)),
    ],
)
def test_an_early_end_is_blamed_on_where_it_was(
    ending: str, number: int, phase: str, expected: tuple[str, Code]
) -> None:
    """Kernels that crash or hang are the GPU's; an import that does is ours; SIGKILL is want of memory."""
    event = {"event": "phase", "name": phase}

    assert said(outcome(event, ending=ending, number=number)) == expected


def test_the_worst_finding_leads() -> None:
    """A crash explains wrong numbers, not the other way round."""
    wrong = {"event": "case", "id": "x", "tensors": HEALTHY | {"out": NUMBERS | {"finite": False}}}
    crashed = outcome(wrong, {"event": "phase", "name": "observe"}, ending="killed", number=11)

    codes = [finding.code for finding in judge(SPEC, SETTINGS, crashed)]

    assert codes[0] is Code.GPU_FAULT
    assert Code.WRONG in codes


def test_an_end_without_a_case_is_not_a_pass() -> None:
    """Nothing was measured: NOT_CHECKED."""
    empty = Outcome(device="cuda:0", backend="fa4", ending="done", finished=True)

    assert said(empty) == ("NOT_CHECKED", Code.INTERNAL)


def test_no_gpu_is_refused_before_torch() -> None:
    """With or without a driver on the host, and each time with another advice."""
    with pytest.raises(MismatchError, match=r"No NVIDIA GPU is in reach.*sdpa-cpu"):
        refuse_early(SPEC, SETTINGS, devices(count=0, driver=None))
    with pytest.raises(MismatchError, match=r"the container was given no GPU.*--gpus all"):
        refuse_early(SPEC, SETTINGS, devices(count=0))


def test_an_old_driver_is_refused_before_torch() -> None:
    """Both versions are named."""
    with pytest.raises(MismatchError, match=r"driver here is 470\.82\.01; cu128 needs 525\.60\.13"):
        refuse_early(SPEC, SETTINGS, devices(driver="470.82.01"))


def test_a_healthy_machine_is_not_refused() -> None:
    """Nothing raised."""
    refuse_early(SPEC, SETTINGS, devices())


def test_no_gradients_are_refused_unless_accepted() -> None:
    """The limitation must be named."""
    spec = ImageSpec(**{**vars(SPEC), "backends": (backend("fa4", "hopper", gradients=False),)})

    with pytest.raises(ConfigError, match="learn nothing"):
        refuse_early(spec, SETTINGS, devices())
    refuse_early(spec, Settings(backend="fa4", allow=frozenset({"forward-only"})), devices())
