"""The texts that people read, to the letter: tests/data/texts holds one for a healthy run and for each failing one.

The outcomes are made here from the events of a healthy run, as recorded on an H200. After a change of wording:
`python -m tests.unit.test_report` writes them anew; read the difference before you commit it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from entrypoint.children.outcome import Ending, Outcome
from entrypoint.events import CaseEvent
from entrypoint.judge import verdict
from entrypoint.judge.budgets import Weighed, weigh_case
from entrypoint.judge.finding import Code
from entrypoint.judge.verdict import judge
from entrypoint.report.document import build
from entrypoint.report.text import SUMMARY_BYTES, Report, devices, summary, to_text
from entrypoint.settings import Settings
from entrypoint.spec import ImageSpec, from_json
from tests.unit.whole import line

ROOT: Final = Path(__file__).resolve().parents[2]
TEXTS: Final = ROOT / "tests/data/texts"
# (What is wrong with some other package is a note of every report; these texts are about the run.)
SPEC: Final = replace(from_json((ROOT / "docker/specs/fa4-cu128.json").read_text()), limitations=())
FORWARD: Final = "kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90FlashAttentionForwardSm90"
BACKWARD: Final = "kernel_cutlass_kernel_flash_attncuteflash_bwd_sm90FlashAttentionBackwardSm90"
IDS: Final = ("causal-d64", "full-d64", "causal-d128", "full-d128")

Event = dict[str, Any]


def case(name: str, error: float = 1.0, **changes: Any) -> Event:
    """A case at `error` times a healthy kernel's."""
    numbers = {"error": 0.007 * error, "baseline": 0.01, "relative": 0.0024 * error, "baseline_relative": 0.004}
    tensors = {tensor: {**numbers, "scale": 2.5, "finite": True} for tensor in ("out", "dq", "dk", "dv")}
    return {"event": "case", "id": name, "seconds": 0.02, "tensors": tensors, **changes}


def health(**changes: Any) -> Event:
    sensors = {"temperature": 47, "power_watts": 651.0, "power_limit_watts": 700.0, "throttle": ["sw_power_cap"]}
    clocks = {"sm_megahertz": 1755, "sm_megahertz_max": 1980}
    counters = {"ecc_uncorrected": 0, "row_remap_pending": False, "row_remap_failed": False, "xids": []}
    return {"event": "health", **sensors, **clocks, **counters, "other_processes": None, "reason": None, **changes}


def speed(name: str, direction: str, tflops: float) -> Event:
    return {"event": "speed", "id": name, "direction": direction, "tflops": tflops, "seconds": 1e-3, "samples": [1e-3]}


def phase(name: str, detail: str = "") -> Event:
    return {"event": "phase", "name": name, "detail": detail}


def healthy(index: int = 0) -> list[Event]:
    """The events of a run in which nothing is wrong."""
    facts = {"index": index, "name": "NVIDIA H200", "uuid": f"GPU-{index}", "capability": "9.0"}
    facts |= {"driver": "580.159.04", "memory_total": 150109880320, "memory_free": 149458911232}
    packages = {"flash-attn": "2.8.3.post2", "flash-attn-4": "4.0.0b36"}
    return [
        {"event": "machine", "python": "3.11.2", "torch": "2.10.0+cu128", "packages": packages, "device": facts},
        phase("correctness", "causal-d64"),
        {"event": "first_call", "id": "causal-d64", "seconds": 0.04},
        *(case(name) for name in IDS),
        {"event": "kernels", "names": [FORWARD, BACKWARD], "observed": "fa4", "recorded": 9, "reason": None},
        health(),
        {"event": "ceiling", "matmul_tflops": 797.0, "seconds": 1.4e-3, "samples": []},
        {"event": "bandwidth", "gigabytes_per_second": 4150.0, "seconds": 5e-4, "samples": []},
        speed("causal-s8192-d128", "forward", 675.0),
        speed("causal-s8192-d128", "backward", 588.0),
        speed("causal-s2048-d64", "forward", 311.0),
        speed("causal-s2048-d64", "backward", 274.0),
    ]


SECONDS: Final = {"import": 8.6, "machine": 0.3, "compile": 0.1, "correctness": 0.4, "observe": 0.0, "performance": 0.3}
DONE: Final[Event] = {"event": "done", "seconds": SECONDS}


def outcome(*events: Event, ending: Ending = "done", number: int = 0, log: str = "", device: str = "cuda:0") -> Outcome:
    result = Outcome(device=device, backend="fa4", ending=ending, number=number, log=log)
    for event in events:
        assert result.take(line(event)) is not None, event
    return result


def changed(*changes: Event, index: int = 0) -> Outcome:
    """A whole run in which an event of the same kind and id replaces the healthy one."""

    def key(event: Event) -> tuple[Any, ...]:
        return (
            event["event"].removesuffix("_error"),
            event.get("id"),
            event.get("direction"),
            event.get("name"),
            event.get("asked", "fa4"),
        )

    last = {key(event): event for event in (*healthy(index), *changes, DONE)}
    return outcome(*last.values(), device=f"cuda:{index}")


def stopped(*events: Event, ending: Ending, number: int = 0, log: str = "") -> Outcome:
    """A run that ended early."""
    return outcome(healthy()[0], *events, ending=ending, number=number, log=log)


STUB: Final = (
    "ImportError: flash_attn.cute is not as flash-attn-4 installed it: "
    "/opt/venv/lib/python3.11/site-packages/flash_attn/cute/interface.py is not the file that was installed"
)
SLOW: Final = [
    speed("causal-s8192-d128", "forward", 41.0),
    speed("causal-s8192-d128", "backward", 33.0),
]
THROTTLED: Final = health(temperature=88, sm_megahertz=1095, throttle=["hw_slowdown", "hw_thermal_slowdown"])
SLOW_GPU: Final[list[Event]] = [
    THROTTLED,
    {"event": "ceiling", "matmul_tflops": 441.0, "seconds": 2e-3, "samples": []},
    speed("causal-s8192-d128", "forward", 372.0),
    speed("causal-s8192-d128", "backward", 325.0),
    speed("causal-s2048-d64", "forward", 171.0),
    speed("causal-s2048-d64", "backward", 152.0),
]
ACCESS: Final = "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"
MEMORY: Final[Event] = {
    "event": "case_error",
    "id": "causal-d64",
    "out_of_memory": True,
    "reason": "OutOfMemoryError: CUDA out of memory. Tried to allocate 128.00 MiB, of 139.80 GiB 91.50 MiB is free.",
}
NONE: Final = {"dq": None, "dk": None, "dv": None}

SCENES: dict[str, Callable[[], Sequence[Outcome]]] = {
    "healthy": lambda: [changed()],
    "healthy-8-gpus": lambda: [changed(index=index) for index in range(8)],
    "one-slow-of-8-gpus": lambda: [changed(*(SLOW_GPU if index == 3 else ()), index=index) for index in range(8)],
    "wrong-on-8-gpus": lambda: [changed(case("full-d128", 50.0 + index), index=index) for index in range(8)],
    "wrong-numbers": lambda: [changed(case("full-d64", 50.0), case("full-d128", 70.0))],
    "other-kernel": lambda: [
        changed({"event": "kernels", "names": ["flash_fwd_kernel"], "observed": "fa2", "recorded": 3, "reason": None})
    ],
    "no-kernel": lambda: [
        changed({"event": "kernels", "names": ["quant_int8"], "observed": None, "recorded": 3, "reason": None})
    ],
    "profiler-blind": lambda: [
        changed({"event": "kernels", "names": [], "observed": None, "recorded": 0, "reason": "CUPTI is in use"})
    ],
    "no-gradient": lambda: [
        changed(
            *(
                case(name, tensors=case(name)["tensors"] | NONE, no_gradient="no gradient reaches q, k, v")
                for name in IDS
            )
        )
    ],
    "slow-gpu": lambda: [changed(*SLOW_GPU)],
    "slow-kernel": lambda: [changed(*SLOW)],
    "impossible-speed": lambda: [changed(speed("causal-s8192-d128", "forward", 2427.0))],
    "crash": lambda: [
        stopped(
            phase("correctness", "full-d64"),
            health(xids=[31]),
            ending="exited",
            number=1,
            log=f"Traceback\n{ACCESS}",
        )
    ],
    "hang": lambda: [stopped(phase("performance", "causal-s8192-d128"), ending="timeout")],
    "kernels-forced": lambda: [
        changed(
            {"event": "kernels", "asked": "fa4", "names": [FORWARD, BACKWARD], "observed": "fa4", "recorded": 9},
            {"event": "kernels", "asked": "fa4-deterministic", "names": [FORWARD], "observed": "fa4-deterministic"},
        )
    ],
    "no-memory": lambda: [changed(MEMORY, health(other_processes=1))],
    "ecc": lambda: [changed(health(ecc_uncorrected=3))],
    "mutated-input": lambda: [changed(*(case(name, mutated=["k"]) for name in IDS))],
    "not-repeatable": lambda: [changed(case("causal-d128", repeatable=False))],
    "stub-in-place-of-fa4": lambda: [
        stopped({"event": "unusable", "subject": "backend", "reason": STUB}, ending="done")
    ],
}


def report_of(outcomes: Sequence[Outcome], spec: ImageSpec = SPEC) -> Report:
    settings = Settings(backend="fa4")
    return build(spec, "fa4", [judge(spec, settings, item) for item in outcomes], [], 9.9)


@pytest.mark.parametrize("scene", SCENES)
def test_the_text_of_each_verdict(scene: str) -> None:
    """Word for word as kept."""
    assert to_text(report_of(SCENES[scene]())) == (TEXTS / f"{scene}.txt").read_text()


@pytest.mark.parametrize("scene", SCENES)
def test_a_text_is_one_screen_and_says_what_to_do(scene: str) -> None:
    """At most 24 lines; the first is the verdict and what is so; the second, unless all is well, what to do."""
    report = report_of(SCENES[scene]())
    first, second, *_ = lines = to_text(report).splitlines()

    assert len(lines) <= 24
    assert first.startswith(f"axolotl-attn fa4-cu128: {report['verdict']}")
    assert second.startswith("  what to do: ") == (report["verdict"] != "PASS")


EXPECTED: Final = {
    **dict.fromkeys(("healthy", "healthy-8-gpus", "profiler-blind", "kernels-forced"), Code.PASS),
    **dict.fromkeys(("slow-gpu", "slow-kernel", "one-slow-of-8-gpus"), Code.PASS),
    **dict.fromkeys(("crash", "hang", "ecc"), Code.GPU_FAULT),
    "no-memory": Code.INTERNAL,
    "stub-in-place-of-fa4": Code.CONFIG,
}


@pytest.mark.parametrize("scene", SCENES)
def test_the_code_of_each_verdict(scene: str) -> None:
    """WRONG unless the list above says otherwise."""
    assert report_of(SCENES[scene]())["code"]["name"] == EXPECTED.get(scene, Code.WRONG).name


def test_there_is_no_text_without_a_scene() -> None:
    """A renamed scene leaves no file behind."""
    assert {path.stem for path in TEXTS.iterdir()} == set(SCENES)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["cuda:0"], "cuda:0"),
        (["cuda:2", "cuda:0", "cuda:1", "cuda:5"], "cuda:0-2,5"),
        (["cuda:0", "cuda:1"], "cuda:0-1"),
        (["cpu"], "cpu"),
    ],
)
def test_names_of_several_devices(names: list[str], short: str) -> None:
    """Runs of neighbours are joined."""
    assert devices(names) == short


CPU: Final = replace(SPEC, device="cpu", platform="cpu")
SLOW_CALL: Final[Event] = speed("causal-s333-d64", "backward", 0.01) | {
    "seconds": 0.8,
    "samples": [0.7, 0.9],
    "planned": 10,
    "call": "causal, 2 x 333 positions",
}


def test_a_cpus_speed_is_milliseconds_of_a_named_shape() -> None:
    """A CPU has no ceiling and no share of it, and of a slow call the text says how few samples there are."""
    machine = healthy()[0]
    cpu = outcome(machine, *(case(name) for name in IDS), SLOW_CALL, DONE, device="cpu")
    report = report_of([cpu], CPU)

    row = report["performance"][0]
    assert (row["of_matmul"], row["floor"], row["planned"], len(row["samples"])) == (None, None, 10, 2)
    assert report["ceilings"] == []
    assert "causal-s333-d64 (causal, 2 x 333 positions): backward 800 ms (slow: 2 of 10 samples)" in to_text(report)
    assert report["headline"]["what"].endswith("backward 800 ms.")
    assert "FLOP" not in to_text(report)


def test_a_summary_fits_a_termination_message() -> None:
    """4096 bytes, the first line first, even of a reason that is very long."""
    text = summary(report_of([changed({**MEMORY, "out_of_memory": False, "reason": "é" * 9000})]))

    assert len(text.encode()) <= SUMMARY_BYTES
    assert text.startswith("axolotl-attn fa4-cu128: FAIL (92 WRONG)")


PAGES: Final = (ROOT / "tests/data/exceptions/inductor.txt").read_text()


@pytest.mark.parametrize(
    "outcomes",
    [
        [stopped({"event": "unusable", "subject": "backend", "reason": PAGES}, ending="done")],
        [changed(*({"event": "case_error", "id": name, "reason": PAGES} for name in IDS))],
        [stopped(phase("compile", "causal-d64"), ending="exited", number=1, log=f"{STUB}\n{PAGES}")],
        [changed({"event": "unusable", "subject": "device", "reason": PAGES}, index=index) for index in range(8)],
    ],
)
def test_pages_of_an_exception_are_one_line_of_the_text(outcomes: list[Outcome]) -> None:
    """In the headline, the summary and each case's line; the report has every line of it."""
    report = report_of(outcomes)
    text = to_text(report)

    assert "InductorError: LoweringException: AssertionError: target: flex_attention" in text.splitlines()[0]
    assert "InputBuffer" not in text + summary(report) + "".join(report["reasons"])
    assert len(text.splitlines()) <= 24
    assert PAGES in report["logs"][-1]


def forced(asked: str, observed: str | None) -> Event:
    return {"event": "kernels", "asked": asked, "names": ["k"], "observed": observed, "recorded": 1}


def test_forced_kernels_of_several_gpus_are_told_apart_where_they_differ() -> None:
    """One answer where all agree; else each GPU's, in the report and in the text."""
    ran = ["fa4-two", "fa4-one", "fa4-two", "fa4-two"]
    kernels = [(forced("fa4-one", "fa4-one"), forced("fa4-two", observed)) for observed in ran]
    report = report_of([changed(*events, index=index) for index, events in enumerate(kernels)])

    two = {"cuda:0": "fa4-two", "cuda:1": "fa4-one", "cuda:2": "fa4-two", "cuda:3": "fa4-two"}
    assert report["backend"]["forced"] == {"fa4-one": "fa4-one", "fa4-two": two}
    assert "forced one by one, each of them ran: fa4-one" in to_text(report)
    assert "fa4-two asked for; fa4-two on cuda:0,2-3, fa4-one on cuda:1" in to_text(report)
    assert report["reasons"][0].startswith("cuda:1: fa4-two was asked for, and fa4-one ran")


def test_a_forced_kernel_that_one_gpu_did_not_reach_is_told_by_gpu() -> None:
    """What was not seen everywhere is not said of all."""
    report = report_of([changed(forced("fa4-one", "fa4-one")), changed(index=1)])

    assert report["backend"]["forced"] == {"fa4-one": {"cuda:0": "fa4-one"}}


def test_each_case_is_weighed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is judged; the report and the text take that result."""
    weighed: list[str] = []

    def counted(case: CaseEvent) -> tuple[Weighed, ...]:
        weighed.append(case.id)
        return weigh_case(case)

    monkeypatch.setattr(verdict, "weigh_case", counted)
    to_text(report_of([changed()]))

    assert weighed == list(IDS)


def test_a_report_is_json() -> None:
    """Numbers that are not finite are null, and the facts of health, copy and first calls are in it."""
    wrong = case("full-d64")
    wrong["tensors"]["dq"] = {**wrong["tensors"]["dq"], "finite": False, "error": None}
    report = json.loads(json.dumps(report_of([changed(wrong)]), allow_nan=False))

    assert report["cases"][1]["error"] is None
    assert report["gpus"][0]["facts"]["health"]["temperature"] == 47
    assert report["ceilings"][0]["copy"]["floor"] == 3708.0
    assert report["first_calls"] == [{"id": "causal-d64", "device": "cuda:0", "seconds": 0.04}]


def test_a_package_that_is_not_there_has_no_version() -> None:
    """The pin of one that is missing would say what nobody found; before the child looked, pins are all there is."""
    machine = {**healthy()[0], "packages": {"einops": "0.8.2"}}
    report = report_of([changed(machine)])

    assert report["image"]["versions"] == {"torch": "2.10.0+cu128", "flash-attn-4": None}
    assert "flash-attn-4 missing" in to_text(report)
    assert report_of([outcome(ending="timeout")])["image"]["versions"]["flash-attn-4"] == SPEC.packages["flash-attn-4"]


def test_the_image_names_its_mends() -> None:
    """What of it is not as its packages' authors wrote it, whatever the verdict is."""
    mends = report_of([outcome(ending="timeout")])["image"]["mends"]
    assert [mend["name"] for mend in mends] == [mend.name for mend in SPEC.mends]
    assert {"package": "flash-attn-4", "version": SPEC.packages["flash-attn-4"]}.items() < mends[0].items()


if __name__ == "__main__":
    for name, scene in SCENES.items():
        (TEXTS / f"{name}.txt").write_text(to_text(report_of(scene())))
