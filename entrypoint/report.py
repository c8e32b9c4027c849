"""The report: one JSON document (contract: schema 1). Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from entrypoint.judge.budgets import weigh_case
from entrypoint.judge.finding import Code, Finding, rank
from entrypoint.judge.speed import floor_of, gpu_of, of_matmul
from entrypoint.judge.verdict import conduct_of, lacks_gradient, notes_of, worst_of
from entrypoint.outcome import Outcome
from entrypoint.spec import ImageSpec

REPORT_SCHEMA: Final = 1

Report = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One device's outcome with what the verdict says of it, the most serious finding first."""

    outcome: Outcome
    findings: Sequence[Finding]


def build(spec: ImageSpec, requested: str, judged: Sequence[Judged], extra: Sequence[Finding], total: float) -> Report:
    """The report of a run. `extra` holds findings of no device (such as a missing GPU); `total` is in seconds."""
    findings = sorted([*extra, *_merged(judged)], key=rank)
    worst = findings[0]
    shown = [f for f in findings if f.verdict != "PASS"] or [worst]
    lead = judged[0].outcome if judged else None
    return {
        "schema": REPORT_SCHEMA,
        "verdict": worst.verdict,
        "code": {"name": worst.code.name, "number": worst.code.value},
        "reasons": list(dict.fromkeys(finding.sentence for finding in shown)),
        "headline": {"what": worst.what, "advice": worst.advice},
        "image": _image(spec, lead),
        "gpus": [_gpu(spec, item) for item in judged if spec.device != "cpu"],
        "backend": _backend(requested, judged),
        "cases": [row for item in judged for row in _cases(spec, item.outcome)],
        "performance": [row for item in judged for row in _performance(spec, item.outcome)],
        "first_calls": [
            {"id": call["id"], "device": item.outcome.device, "seconds": call["seconds"]}
            for item in judged
            for call in item.outcome.first_calls
        ],
        "ceilings": [_ceiling(spec, item.outcome) for item in judged if item.outcome.ceiling],
        "machine": _machine(spec, lead),
        "seconds": _seconds(judged, total),
        "cached": False,
        "notes": list(dict.fromkeys(note for item in judged for note in notes_of(spec, item.outcome))),
        "logs": [item.outcome.log for item in judged if item.outcome.log and item.findings[0].code is not Code.PASS],
    }


def _merged(judged: Sequence[Judged]) -> list[Finding]:
    """Each kind of trouble once, in the words of the first GPU that has it, and before them all of those GPUs."""
    by_kind: dict[tuple[Code, str], list[tuple[str, Finding]]] = {}
    for item in judged:
        for finding in item.findings:
            by_kind.setdefault((finding.code, finding.kind), []).append((item.outcome.device, finding))
    if len(judged) == 1:
        return list(judged[0].findings)
    merged = []
    for group in by_kind.values():
        names = devices(list(dict.fromkeys(device for device, _ in group)))
        merged.append(replace(group[0][1], what=f"{names}: {group[0][1].what}"))
    return merged


def devices(names: Sequence[str]) -> str:
    """Several of torch's device names in short: "cuda:0-2,5"."""
    kind, colon, _ = names[0].partition(":")
    runs: list[list[int]] = []
    for index in sorted(int(name.partition(":")[2] or 0) for name in names):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    short = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"{kind}:{short}" if colon else kind


def _image(spec: ImageSpec, outcome: Outcome | None) -> dict[str, Any]:
    """Versions are those found installed; before the child looked, those that the image was built to hold."""
    machine = (outcome.machine or {}) if outcome else {}
    installed = machine.get("packages", {}) | ({"torch": machine["torch"]} if "torch" in machine else {})
    names = ["torch", *(name for backend in spec.backends for name in backend.packages)]
    # What was measured, not what was meant: a package that is not there has no version (null).
    versions = {name: installed.get(name) if installed else spec.packages.get(name) for name in names}
    return {"id": spec.id, "version": spec.version, "platform": spec.platform, "versions": versions}


def _machine(spec: ImageSpec, outcome: Outcome | None) -> dict[str, Any]:
    """What is no GPU's: Python, installed packages, and on a CPU image the processor."""
    if outcome is None or outcome.machine is None:
        return {}
    processor = outcome.gpu if spec.device == "cpu" else {}
    known = {key: value for key, value in processor.items() if value}
    return {**_without(outcome.machine, "event", "device"), **known}


def _gpu(spec: ImageSpec, item: Judged) -> dict[str, Any]:
    gpu = item.outcome.gpu
    known = {key: gpu.get(key) for key in ("index", "name", "uuid", "driver", "capability")}
    facts = {**_without(gpu, *known), "health": _without(item.outcome.health or {}, "event") or None}
    arch = spec.architecture_of(str(gpu.get("capability")))
    return {**known, "device": item.outcome.device, "arch": arch, "facts": facts, "verdict": item.findings[0].verdict}


def _backend(requested: str, judged: Sequence[Judged]) -> dict[str, Any]:
    """What was asked for and what ran; kernels of the backend that were forced one by one are `forced`."""
    checked = judged[0].outcome.backend if judged else None
    seen = [kernels for item in judged if (kernels := item.outcome.kernels.get(item.outcome.backend))]
    observed = list(dict.fromkeys(kernels["observed"] for kernels in seen if kernels.get("observed")))
    names = list(dict.fromkeys(name for kernels in seen for name in kernels["names"]))
    forced = {asked: k["observed"] for item in judged for asked, k in item.outcome.kernels.items() if asked != checked}
    return {
        "requested": requested,
        "checked": checked,
        "observed": observed[0] if len(observed) == 1 else observed or None,
        "kernels": names,
        "forced": forced,
    }


def _cases(spec: ImageSpec, outcome: Outcome) -> list[dict[str, Any]]:
    rows = []
    for case in outcome.cases:
        worst, conduct = worst_of(case), conduct_of(case)
        if missing := lacks_gradient(spec, outcome, case):
            conduct = f"gives no gradient {missing}"
        rows.append(
            {
                "id": case["id"],
                "device": outcome.device,
                "status": "pass" if worst.within and conduct is None else "fail",
                "error": _finite(worst.error),
                "budget": worst.budget,
                "worst": {"tensor": worst.tensor, "rule": worst.rule, "ratio": _finite(worst.ratio)},
                "conduct": conduct,
                "tensors": _tensors(case),
                "seconds": case.get("seconds"),
            }
        )
    for error in outcome.case_errors:
        row = {"id": error["id"], "device": outcome.device, "status": "error", "error": None, "budget": None}
        rows.append({**row, "reason": error["reason"]})
    return rows


def _tensors(case: dict[str, Any]) -> dict[str, dict[str, Any] | None]:
    """The measured numbers of each tensor with what they were weighed against; None for a missing gradient."""
    tensors: dict[str, dict[str, Any] | None] = dict.fromkeys(case["tensors"])
    for measured in weigh_case(case):
        judged = {"budget": measured.budget, "rule": measured.rule, "within": measured.within}
        tensors[measured.tensor] = {**_numbers(case["tensors"][measured.tensor]), **judged}
    return tensors


def _performance(spec: ImageSpec, outcome: Outcome) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{speed['id']}/{speed['direction']}",
            "device": outcome.device,
            "tflops": speed["tflops"],
            "of_matmul": of_matmul(speed, outcome),
            "floor": floor_of(spec, outcome, speed),
            "seconds": speed["seconds"],
            "call": speed.get("call"),
            "samples": speed.get("samples", []),
            "planned": speed.get("planned"),
        }
        for speed in outcome.speeds
    ]


def _ceiling(spec: ImageSpec, outcome: Outcome) -> dict[str, Any]:
    """What the GPU does without attention: a bf16 product and a copy, each with its model's floor if one is known."""
    gpu = gpu_of(spec, outcome)
    copy = _numbers(outcome.bandwidth) if outcome.bandwidth else None
    return {
        "device": outcome.device,
        **_numbers(outcome.ceiling),
        "matmul_floor": gpu.matmul if gpu else None,
        "copy": copy and {**copy, "floor": gpu.bandwidth if gpu else None},
    }


def _seconds(judged: Sequence[Judged], total: float) -> dict[str, float]:
    """The slowest device's seconds by phase: the devices are checked side by side."""
    phases: dict[str, float] = {"import": 0.0, "compile": 0.0, "correctness": 0.0, "performance": 0.0}
    for item in judged:
        for name, seconds in item.outcome.seconds.items():
            phases[name] = max(phases.get(name, 0.0), seconds)
    return {**{name: round(seconds, 3) for name, seconds in phases.items()}, "total": round(total, 3)}


def _without(document: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in keys}


def _numbers(document: dict[str, Any] | None) -> dict[str, Any]:
    plain = _without(document or {}, "event")
    return {key: _finite(value) if isinstance(value, float) else value for key, value in plain.items()}


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity: unknown stays unknown."""
    return value if math.isfinite(value) else None


def to_json(report: Report) -> str:
    return json.dumps(report, indent=2, default=str) + "\n"
