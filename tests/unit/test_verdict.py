"""From what a child left behind to what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from entrypoint.children.outcome import Outcome, Overrun
from entrypoint.choice import chosen, fallback, refuse_early
from entrypoint.errors import ConfigError, MismatchError
from entrypoint.judge import speed, verdict
from entrypoint.judge.finding import Code, Finding
from entrypoint.judge.verdict import notes_of
from entrypoint.machine.devices import Devices
from entrypoint.settings import Settings
from entrypoint.spec import BackendSpec, Floor, GpuSpec, ImageSpec, Limitation, Sibling
from tests.unit import whole

NUMBERS: dict[str, Any] = vars(whole.NUMBERS)
HEALTHY = dict.fromkeys(("out", "dq", "dk", "dv"), NUMBERS)
SETTINGS = Settings(backend="fa4")
FLOOR = Floor(gpu="NVIDIA H200", backend="fa4", case="s8192", forward=0.5, backward=0.4, source="test")


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
    gpus=(GpuSpec(name="NVIDIA H200", matmul=628, bandwidth=3708, peak=989, peak_eight_bit=1979, source="test"),),
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
        assert result.take(whole.line(event)) is not None, event
    return result


def judge(spec: ImageSpec, settings: Settings, result: Outcome) -> tuple[Finding, ...]:
    return verdict.judge(spec, settings, result).findings


def ceiling(tflops: float) -> dict[str, Any]:
    return {"event": "ceiling", "matmul_tflops": tflops}


def copy(gigabytes_per_second: float) -> dict[str, Any]:
    return {"event": "bandwidth", "gigabytes_per_second": gigabytes_per_second}


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


def test_a_wrong_cudnn_kernel_has_a_way_out() -> None:
    """torch has others for the same call, and a variable that prefers them."""
    wrong = {"event": "case", "id": "full-d64-low", "tensors": HEALTHY | {"dq": NUMBERS | {"finite": False}}}
    names = ["cudnn_generated_fort_native_sdpa_sm90"]
    kernels = {"event": "kernels", "asked": "sdpa", "names": names, "observed": "sdpa"}
    ran = outcome(wrong, kernels)
    ran.backend = "sdpa"

    finding = judge(SPEC, Settings(backend="sdpa"), ran)[0]

    assert finding.code is Code.WRONG
    assert "TORCH_CUDNN_SDPA_DEPRIORITIZED=1" in finding.advice


def test_the_cudnn_kernel_that_was_asked_for_has_another_way_out() -> None:
    """Not the variable, which changes only torch's own choice: sdpa without it. And the report says what it proves."""
    wrong = {"event": "case", "id": "full-d64-low", "tensors": HEALTHY | {"dq": NUMBERS | {"finite": False}}}
    names = ["cudnn_generated_fort_native_sdpa_sm90"]
    kernels = {"event": "kernels", "asked": "sdpa-cudnn", "names": names, "observed": "sdpa-cudnn"}
    ran = outcome(wrong, kernels)
    ran.backend = "sdpa-cudnn"
    kernel = BackendSpec(name="sdpa-cudnn", packages=(), architectures=("hopper",), gradients=True)
    spec = replace(SPEC, kernels=(kernel,))

    finding = judge(spec, Settings(backend="sdpa-cudnn"), ran)[0]

    assert finding.code is Code.WRONG
    assert finding.advice == "It is cuDNN's kernel: set ATTN_BACKEND=sdpa, and torch takes its FlashAttention kernel."
    assert any("sdpa-cudnn is forced here and only preferred in the command" in note for note in notes_of(spec, ran))
    assert not any("preferred" in note for note in notes_of(SPEC, ran))


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


@pytest.mark.parametrize("name", ["matmul", "copy"])
def test_a_ceiling_that_raises_is_not_attentions_fault(name: str) -> None:
    """What is timed beside attention says nothing about it."""
    assert said(outcome({"event": "case_error", "id": name, "reason": "RuntimeError: no"})) == (
        "NOT_CHECKED",
        Code.INTERNAL,
    )


def test_a_full_gpu_is_not_a_wrong_kernel() -> None:
    """Out of memory: nothing is said about the kernel."""
    event = {"event": "case_error", "id": "x", "reason": "OutOfMemoryError: 2 GiB", "out_of_memory": True}

    assert said(outcome(event)) == ("NOT_CHECKED", Code.INTERNAL)


def test_no_attention_among_what_was_recorded_is_wrong() -> None:
    """SageAttention 2.2.0 on an H200: its quantisation kernels are there, and attention's is not."""
    event = {"event": "kernels", "names": ["quantise"], "observed": None, "recorded": 4}

    finding = judge(SPEC, SETTINGS, outcome(event))[0]

    assert finding.code is Code.WRONG
    assert "No attention kernel of fa4 ran: the profiler saw quantise alone" in finding.what


def test_a_profiler_that_saw_nothing_proves_nothing() -> None:
    """No failure, and no silence either: a note with the reason."""
    nothing = outcome({"event": "kernels", "names": [], "observed": None, "recorded": 0, "reason": "CUPTI: busy"})

    assert said(nothing) == ("PASS", Code.PASS)
    (note,) = notes_of(SPEC, nothing)
    assert note == "Which kernel ran for fa4 is not proved: the profiler recorded none (CUPTI: busy)."


def test_what_is_wrong_beyond_the_cases_is_a_note_of_every_report() -> None:
    """A version that fails where no case comes passes the check, and nobody is left to think that it is right there."""
    known = Limitation(package="flash-attn", version="2.8.3", what="wrong beyond 2^31", source="https://example.org/1")
    spec = ImageSpec(**{**vars(SPEC), "limitations": (known,)})

    assert notes_of(spec, outcome()) == ["flash-attn 2.8.3: wrong beyond 2^31 (https://example.org/1)."]
    assert judge(spec, SETTINGS, outcome())[0].code is judge(SPEC, SETTINGS, outcome())[0].code


def test_a_forced_kernel_must_be_the_one_that_ran() -> None:
    """Each in its own words, beside the backend's own."""
    forced = {"event": "kernels", "asked": "fa4-two", "names": ["k"], "observed": "fa4-one", "recorded": 1}

    finding = judge(SPEC, SETTINGS, outcome(forced))[0]

    assert (finding.code, finding.what) == (Code.WRONG, "fa4-two was asked for, and fa4-one ran (k).")


@pytest.mark.parametrize(
    ("conduct", "says"),
    [
        ({"mutated": ["k"]}, "writes into its input K: in full-d64 (1 of 2 cases)"),
        ({"repeatable": False}, "gives other bits in a second run, where it claims to repeat them"),
    ],
)
def test_right_numbers_are_not_enough(conduct: dict[str, Any], says: str) -> None:
    """Inputs stay as they are, and what is claimed to repeat repeats."""
    finding = judge(SPEC, SETTINGS, outcome({"event": "case", "id": "full-d64", "tensors": HEALTHY, **conduct}))[0]

    assert finding.code is Code.WRONG
    assert says in finding.what


def test_unknown_repeatability_is_no_finding() -> None:
    """Null where nothing is claimed."""
    event: dict[str, Any] = {"event": "case", "id": "x", "tensors": HEALTHY, "mutated": [], "repeatable": None}

    assert said(outcome(event)) == ("PASS", Code.PASS)


def test_a_wrong_logsumexp_is_wrong() -> None:
    """It is a tensor as the others are."""
    event = {"event": "case", "id": "x", "tensors": HEALTHY | {"lse": NUMBERS | {"error": 1.0}}}

    assert "logsumexp" in judge(SPEC, SETTINGS, outcome(event))[0].what


def test_a_throughput_under_its_floor_degrades_or_fails() -> None:
    """By ATTN_SLOW; the direction's own floor counts."""
    slow = {"event": "speed", "id": "s8192", "direction": "backward", "tflops": 279.0, "seconds": 1e-3}

    assert said(outcome(slow)) == ("DEGRADED", Code.PASS)
    assert said(outcome(slow), Settings(backend="fa4", slow="fail")) == ("FAIL", Code.SLOW)


@pytest.mark.parametrize("name", ["NVIDIA L4", "NVIDIA H200 NVL", "NVIDIA H200 MIG 1g.18gb"])
def test_a_gpu_without_a_floor_is_never_slow(name: str) -> None:
    """Unknown never fails, and a name that begins like a known one is another card, or a slice of it."""
    machine = {"event": "machine", "device": {"name": name, "capability": "9.0"}}
    slow = {"event": "speed", "id": "s8192", "direction": "backward", "tflops": 1.0, "seconds": 1e-3}

    assert said(outcome(machine, ceiling(500.0), copy(400.0), slow)) == ("PASS", Code.PASS)


def comparison(own: float, other: str, seconds: float, direction: str = "forward") -> dict[str, Any]:
    return {"event": "comparison", "id": "s8192", "direction": direction, "own": own, "others": {other: seconds}}


@pytest.mark.parametrize(
    ("name", "capability", "other", "ratio", "slow"),
    [
        ("fa4", "9.0", "plain", 0.99, True),
        ("fa4", "9.0", "plain", 1.01, False),
        ("fa4", "9.0", "flash", 0.85, True),  # healthy: 1.27 and more
        ("fa4", "9.0", "flash", 0.95, False),
        ("fa4", "12.0", "flash", 0.7, False),  # not known there to be faster
        ("flex", "9.0", "flash", 0.35, True),
        ("flex", "9.0", "flash", 0.66, False),  # healthy, backward
        ("xformers", "8.9", "efficient", 0.33, True),
        ("sdpa", None, "plain", 0.9, True),  # made three times slower on a CPU
        ("sdpa", None, "plain", 2.6, False),
        ("flex", None, "plain", 1.1, False),
    ],
)
def test_a_kernel_is_slow_beside_torchs_without_any_floor(
    name: str, capability: str | None, other: str, ratio: float, *, slow: bool
) -> None:
    """`ratio`: how many times as fast as that kernel of torch's it was."""
    gpu = {"event": "machine", "device": {"name": "a new GPU", "capability": capability}}
    result = replace(outcome(gpu, comparison(1e-2, other, ratio * 1e-2)), backend=name)
    judged = speed.judge_speed(SPEC, Settings(backend=name), result)

    assert [finding.kind for finding in judged] == (["slow-beside-torch"] if slow else [])


def test_a_call_that_is_over_sooner_than_it_is_launched_measures_nothing() -> None:
    """Recorded on an H200: a healthy FlashAttention 4 at 2 x 2048 positions and 8 heads."""
    assert said(outcome(comparison(0.35e-3, "flash", 0.255e-3))) == ("PASS", Code.PASS)


def test_slow_beside_torch_says_how_slow_and_degrades_or_fails() -> None:
    """The worst of them, by ATTN_SLOW."""
    late = outcome(comparison(2e-3, "flash", 1e-3), comparison(4e-3, "plain", 1e-3, "backward"))

    assert said(late) == ("DEGRADED", Code.PASS)
    assert said(late, Settings(backend="fa4", slow="fail")) == ("FAIL", Code.SLOW)
    assert judge(SPEC, SETTINGS, late)[0].what == (
        "fa4 is slow on NVIDIA H200: backward in s8192 takes 4 ms, 0.25 times as fast as attention written out in "
        "plain torch beside it, and should be at least 1 times."
    )


def test_a_kernel_under_its_floor_is_called_slow_once() -> None:
    """The floor of its own GPU says more than a comparison."""
    slow = {"event": "speed", "id": "s8192", "direction": "backward", "tflops": 279.0, "seconds": 1e-3}
    findings = judge(SPEC, SETTINGS, outcome(slow, comparison(4e-3, "plain", 1e-3)))

    assert [finding.kind for finding in findings] == ["slow-kernel"]


def test_a_case_without_a_floor_is_never_slow() -> None:
    """A floor is of one shape."""
    slow = {"event": "speed", "id": "s512", "direction": "backward", "tflops": 1.0, "seconds": 1e-3}

    assert said(outcome(slow)) == ("PASS", Code.PASS)


@pytest.mark.parametrize(
    ("low", "says"),
    [
        ({"event": "ceiling", "matmul_tflops": 627.0}, "a bf16 matmul reaches 627 TFLOP/s, and should reach 628"),
        ({"event": "bandwidth", "gigabytes_per_second": 3000.0}, "a copy reaches 3,000 GB/s, and should reach 3,708"),
    ],
)
def test_a_slow_gpu_is_told_from_a_slow_kernel(low: dict[str, Any], says: str) -> None:
    """By its own model's floor, with its sensors; slow attention on it is no finding of its own."""
    slow = {"event": "speed", "id": "s8192", "direction": "backward", "tflops": 1.0, "seconds": 1e-3}
    hot = {"event": "health", "temperature": 91, "throttle": ["hw_thermal_slowdown"]}

    (finding,) = judge(SPEC, SETTINGS, outcome(low, slow, hot))

    assert (finding.verdict, finding.code) == ("DEGRADED", Code.PASS)
    assert says in finding.what
    assert "91 °C, clocks held back by hw_thermal_slowdown" in finding.what
    assert judge(SPEC, Settings(backend="fa4", slow="fail"), outcome(low))[0].code is Code.SLOW


@pytest.mark.parametrize(
    ("tflops", "matmul", "eight_bit", "expected"),
    [
        (988.0, 700.0, False, Code.PASS),
        (990.0, 700.0, False, Code.WRONG),
        (990.0, 800.0, False, Code.PASS),
        (1900.0, 700.0, True, Code.PASS),
        (2427.0, 700.0, True, Code.WRONG),
    ],
)
def test_a_speed_above_the_peak_is_wrong(tflops: float, matmul: float, eight_bit: bool, expected: Code) -> None:
    """Above both 1.25 times the matmul and the data sheet's peak: the 2,427 TFLOP/s of a kernel that never ran."""
    first = BackendSpec(**{**vars(SPEC.backends[0]), "eight_bit": eight_bit})
    spec = ImageSpec(**{**vars(SPEC), "backends": (first, *SPEC.backends[1:])})
    fast = {"event": "speed", "id": "s8192", "direction": "forward", "tflops": tflops, "seconds": 1e-6}

    finding = judge(spec, SETTINGS, outcome(ceiling(matmul), fast))[0]

    assert finding.code is expected
    assert ("cannot have run" in finding.what) == (expected is Code.WRONG)


def test_an_unknown_gpus_peak_is_a_multiple_of_its_matmul() -> None:
    """8-bit products may be four times as fast as bf16's."""
    machine = {"event": "machine", "device": {"name": "NVIDIA L4", "capability": "8.9"}}
    fast = {"event": "speed", "id": "s8192", "direction": "forward", "tflops": 626.0, "seconds": 1e-6}
    eight_bit = (BackendSpec(**{**vars(SPEC.backends[0]), "eight_bit": True}),)

    assert said(outcome(machine, ceiling(501.0), fast)) == ("PASS", Code.PASS)
    assert said(outcome(machine, ceiling(500.0), fast)) == ("FAIL", Code.WRONG)
    spec = ImageSpec(**{**vars(SPEC), "backends": eight_bit})
    assert judge(spec, SETTINGS, outcome(machine, ceiling(500.0), fast))[0].code is Code.PASS


def test_emulated_bf16_says_nothing_of_a_peak() -> None:
    """Before Ampere a bf16 product is slower than attention in another type."""
    machine = {"event": "machine", "device": {"name": "Tesla T4", "capability": "7.5"}}

    assert said(outcome(machine, ceiling(2.0))) == ("PASS", Code.PASS)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"ecc_uncorrected": 0, "row_remap_failed": False, "row_remap_pending": False, "xids": []}, Code.PASS),
        ({"ecc_uncorrected": None, "row_remap_failed": None, "row_remap_pending": None, "xids": None}, Code.PASS),
        ({"ecc_uncorrected": 2}, Code.GPU_FAULT),
        ({"row_remap_failed": True}, Code.GPU_FAULT),
        ({"xids": [79]}, Code.GPU_FAULT),
        ({"xids": [13, 31]}, Code.PASS),
    ],
)
def test_a_gpu_with_a_fault_fails_though_its_numbers_are_right(facts: dict[str, Any], expected: Code) -> None:
    """Uncorrected memory errors, a failed remap, an Xid of the hardware's; unknown says nothing."""
    assert judge(SPEC, SETTINGS, outcome({"event": "health", **facts}))[0].code is expected


def test_a_pending_remap_degrades() -> None:
    """It computes as before."""
    assert said(outcome({"event": "health", "row_remap_pending": True})) == ("DEGRADED", Code.PASS)


def test_a_crash_names_its_xid() -> None:
    """What the driver said of it."""
    crashed = outcome({"event": "health", "xids": [31]}, ending="exited", number=1)

    assert "the driver reported Xid 31" in judge(SPEC, SETTINGS, crashed)[0].what


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


OVERRUN = Overrun(lasted=41.6, computing=True, processor="Old CPU", processors=2)


@pytest.mark.parametrize(
    ("device", "phase", "computing", "expected"),
    [
        ("cpu", "compile", True, ("NOT_CHECKED", Code.MISMATCH)),
        ("cpu", "import", True, ("NOT_CHECKED", Code.MISMATCH)),
        ("cpu", "compile", False, ("NOT_CHECKED", Code.INTERNAL)),
        ("cuda", "import", True, ("NOT_CHECKED", Code.MISMATCH)),
        ("cuda", "import", False, ("NOT_CHECKED", Code.INTERNAL)),
        ("cuda", "compile", True, ("FAIL", Code.GPU_FAULT)),
    ],
)
def test_a_slow_machine_is_told_from_a_hang(
    device: str, phase: str, computing: bool, expected: tuple[str, Code]
) -> None:
    """Who still computes at the limit needs more time or another machine; a kernel on a GPU stays the GPU's matter."""
    late = outcome({"event": "phase", "name": phase}, ending="timeout")
    late.overrun = replace(OVERRUN, computing=computing)
    finding = judge(replace(SPEC, device=device), SETTINGS, late)[0]

    assert (finding.verdict, finding.code) == expected


def test_a_slow_machine_is_told_what_was_slow_and_what_to_set() -> None:
    """The step and how long it had lasted, the machine, and a limit that is three times as long."""
    late = outcome({"event": "phase", "name": "compile", "detail": "full-d64"}, ending="timeout")
    late.overrun = OVERRUN
    finding = judge(replace(SPEC, device="cpu"), SETTINGS, late)[0]

    assert "still computing in compile (full-d64), for 42 s so far, on 2 processors of Old CPU." in finding.what
    assert "ATTN_TIMEOUT=360" in finding.advice


def test_wrong_numbers_lead_before_a_limit_that_was_reached() -> None:
    """What was measured before time ran out is so all the same."""
    wrong = {"event": "case", "id": "x", "tensors": HEALTHY | {"out": NUMBERS | {"finite": False}}}
    late = outcome(wrong, ending="timeout")
    late.overrun = OVERRUN
    findings = judge(replace(SPEC, device="cpu"), SETTINGS, late)

    assert [finding.code for finding in findings[:2]] == [Code.WRONG, Code.MISMATCH]


def test_the_worst_finding_leads() -> None:
    """A crash explains wrong numbers, not the other way round."""
    wrong = {"event": "case", "id": "x", "tensors": HEALTHY | {"out": NUMBERS | {"finite": False}}}
    crashed = outcome(wrong, {"event": "phase", "name": "observe"}, ending="killed", number=11)

    codes = [finding.code for finding in judge(SPEC, SETTINGS, crashed)]

    assert codes[0] is Code.GPU_FAULT
    assert Code.WRONG in codes


def test_an_end_without_a_case_is_not_a_pass() -> None:
    """Nothing was measured: NOT_CHECKED."""
    empty = Outcome(device="cuda:0", backend="fa4", ending="done")

    assert said(empty) == ("NOT_CHECKED", Code.INTERNAL)


def test_a_case_that_got_lost_is_not_a_pass() -> None:
    """The line that cannot be read might have been the case that fails."""
    done = {"event": "done", "written": {"case": 2, "machine": 1, "health": 1}}
    finding, *_ = judge(SPEC, SETTINGS, outcome(done))

    assert (finding.verdict, finding.code) == ("NOT_CHECKED", Code.INTERNAL)
    assert "of the child's events case (1), health (1) cannot be read" in finding.what


def test_cases_that_time_left_out_are_named() -> None:
    """They do not fail, and nobody can take them for right: a count in the verdict's sentence, the ids in a note."""
    hurried = outcome({"event": "done", "left_out": ["varlen-d64", "window-d64"]})
    finding = judge(SPEC, SETTINGS, hurried)[0]

    assert finding.what.startswith("fa4 is right in 1 of 1 cases, 2 left out; forward 600 TFLOP/s")
    assert notes_of(SPEC, hurried)[0].startswith("Not run, for want of time: varlen-d64, window-d64. More CPUs,")


def test_a_line_that_is_no_event_is_a_note() -> None:
    """Where everything that was written has arrived, it was a library's."""
    noisy = outcome()
    noisy.take(b"not an event")

    assert said(noisy) == ("PASS", Code.PASS)
    assert notes_of(SPEC, noisy) == ["1 line of the child of cuda:0 cannot be read, and what it says is not known."]


@pytest.mark.parametrize("field", ["error", "relative", "scale"])
def test_an_error_that_is_not_a_number_is_wrong(field: str) -> None:
    """The event has null there; nothing of it is compared with null."""
    event = {"event": "case", "id": "full-d64", "tensors": HEALTHY | {"dq": NUMBERS | {field: None}}}

    finding = judge(SPEC, SETTINGS, outcome(event))[0]

    assert finding.code is Code.WRONG
    assert "dQ has an error that is not a number in full-d64 (1 of 2 cases wrong)" in finding.what


PAGES = (Path(__file__).resolve().parents[1] / "data/exceptions/inductor.txt").read_text()


@pytest.mark.parametrize(
    "event",
    [
        {"event": "unusable", "subject": "backend", "reason": PAGES},
        {"event": "unusable", "subject": "device", "reason": PAGES},
        {"event": "case_error", "id": "full-d64", "reason": PAGES},
        {"event": "case_error", "id": "full-d64", "reason": PAGES, "out_of_memory": True},
        {"event": "case_error", "id": "matmul", "reason": PAGES},
        {"event": "case", "tensors": {"out": NUMBERS, "dq": None, "dk": None, "dv": None}, "no_gradient": PAGES},
    ],
)
def test_a_finding_has_the_cause_alone_and_keeps_the_pages(event: dict[str, Any]) -> None:
    """One line for the person, everything for whoever mends it."""
    finding = judge(SPEC, SETTINGS, outcome(event))[0]

    assert finding.code is not Code.PASS
    assert "InductorError: LoweringException: AssertionError: target: flex_attention" in finding.what
    assert len(finding.what.splitlines()) == 1
    assert finding.log == PAGES


def test_pages_of_a_profiler_are_one_line_of_a_note() -> None:
    """As in a finding."""
    (note,) = notes_of(
        SPEC, outcome({"event": "kernels", "names": [], "observed": None, "recorded": 0, "reason": PAGES})
    )

    assert len(note.splitlines()) == 1


FORWARD_ONLY = Settings(backend="auto", allow=frozenset({"forward-only"}))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(backend="auto"), "sdpa"),
        (FORWARD_ONLY, "fa4"),
        (Settings(backend="fa4"), "fa4"),
    ],
)
def test_auto_takes_the_first_backend_that_may_train(settings: Settings, expected: str) -> None:
    """One without gradients is passed over unless the user accepts it; a name is taken at its word."""
    backends = (backend("fa4", "hopper", gradients=False), backend("sdpa", "hopper", "ada"))

    assert chosen(replace(SPEC, backends=backends), settings).name == expected


def test_auto_refuses_an_image_in_which_nothing_trains() -> None:
    """With the reason of the image's own backend."""
    none = replace(SPEC, backends=(backend("fa4", "hopper", gradients=False),))

    with pytest.raises(ConfigError, match="fa4 has no gradients"):
        refuse_early(none, Settings(backend="auto"), devices())


def test_auto_falls_back_to_what_may_train_on_this_gpu() -> None:
    """Another that has no gradients is passed over here too, and an unknown GPU fits none."""
    ada = replace(whole.DEVICE, capability="8.9")
    spec = replace(SPEC, backends=(*SPEC.backends[:1], backend("sage", "ada", gradients=False), *SPEC.backends[1:]))

    names = [fallback(spec, settings, "fa4", ada) for settings in (Settings(backend="auto"), FORWARD_ONLY)]
    assert [name and name.name for name in names] == ["sdpa", "sage"]
    assert fallback(spec, Settings(backend="fa4"), "fa4", ada) is None
    assert fallback(spec, Settings(backend="auto"), "fa4", None) is None


def test_auto_says_why_another_backend_was_checked() -> None:
    """Because the image's own has no gradients, or does not run on this GPU."""
    ran = outcome({"event": "kernels", "asked": "sdpa", "observed": "sdpa"})
    ran.backend = "sdpa"
    without = replace(SPEC, backends=(backend("fa4", "hopper", gradients=False), SPEC.backends[1]))

    reasons = [judge(spec, Settings(backend="auto"), ran)[0].what for spec in (without, SPEC)]

    assert reasons[0] == "fa4 has no gradients on cu128; sdpa was checked in its place."
    assert reasons[1] == "fa4 does not run on hopper; sdpa was checked in its place."


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
