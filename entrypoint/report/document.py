"""The report: one JSON document (contract: schema 1). Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from entrypoint.children.outcome import Outcome
from entrypoint.choice import architecture_of
from entrypoint.events import CeilingEvent, Depth
from entrypoint.judge.finding import Code, Finding, rank
from entrypoint.judge.speed import floor_of, gpu_of, of_matmul
from entrypoint.judge.verdict import Judged, JudgedCase, notes_of
from entrypoint.report.text import Report, devices
from entrypoint.spec import ImageSpec

REPORT_SCHEMA: Final = 1


def build(  # noqa: PLR0913 - the parts of a report
    spec: ImageSpec,
    requested: str,
    judged: Sequence[Judged],
    extra: Sequence[Finding],
    total: float,
    *,
    depth: Depth = "start",
) -> Report:
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
        "cases": [row for item in judged for row in _cases(item)],
        "performance": [row for item in judged for row in _performance(spec, item.outcome)],
        "first_calls": [
            {"id": call.id, "device": item.outcome.device, "seconds": call.seconds}
            for item in judged
            for call in item.outcome.first_calls
        ],
        "comparisons": [
            {"device": item.outcome.device, **asdict(comparison)}
            for item in judged
            for comparison in item.outcome.comparisons
        ],
        "ceilings": [_ceiling(spec, item.outcome, ceiling) for item in judged if (ceiling := item.outcome.ceiling)],
        "machine": _machine(spec, lead),
        "seconds": _seconds(judged, total),
        "rehearsal": None,
        "depth": depth,
        "left_out": _left_out(judged),
        "cached": False,
        "notes": list(dict.fromkeys(note for item in judged for note in notes_of(spec, item.outcome))),
        "logs": _logs(judged, findings),
    }


def _left_out(judged: Sequence[Judged]) -> list[str]:
    """The ids of what only a deeper check runs, and of what no time was left for; the notes tell these from those."""
    done = [item.outcome.done for item in judged if item.outcome.done]
    return list(dict.fromkeys(name for event in done for name in (*event.deeper, *event.left_out)))


def _logs(judged: Sequence[Judged], findings: Sequence[Finding]) -> list[str]:
    """The end of what each child that failed printed, then the whole exceptions whose causes the findings name."""
    ends = [item.outcome.log for item in judged if item.findings[0].code is not Code.PASS]
    return list(dict.fromkeys(filter(None, [*ends, *(finding.log for finding in findings)])))


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


def _image(spec: ImageSpec, outcome: Outcome | None) -> dict[str, Any]:
    """Versions are those found installed; before the child looked, those that the image was built to hold."""
    machine = outcome.machine if outcome else None
    installed = {**machine.packages, "torch": machine.torch} if machine else {}
    names = ["torch", *(name for backend in spec.backends for name in backend.packages)]
    # What was measured, not what was meant: a package that is not there has no version (null).
    versions = {name: installed.get(name) if installed else spec.packages.get(name) for name in names}
    facts = {"id": spec.id, "version": spec.version, "platform": spec.platform, "versions": versions}
    return {**facts, "mends": [asdict(mend) for mend in spec.mends]}


def _machine(spec: ImageSpec, outcome: Outcome | None) -> dict[str, Any]:
    """What is no GPU's: Python, installed packages, and on a CPU image the processor."""
    if outcome is None or outcome.machine is None:
        return {}
    facts = asdict(outcome.machine)
    processor = facts.pop("device") if spec.device == "cpu" else {}
    facts.pop("device", None)
    return {**facts, **{key: value for key, value in processor.items() if value}}


def _gpu(spec: ImageSpec, item: Judged) -> dict[str, Any]:
    gpu, health = item.outcome.gpu, item.outcome.health
    facts = asdict(gpu) if gpu else {}
    known = {key: facts.pop(key, None) for key in ("index", "name", "uuid", "driver", "capability")}
    facts["health"] = asdict(health) if health else None
    arch = architecture_of(spec, gpu)
    return {**known, "device": item.outcome.device, "arch": arch, "facts": facts, "verdict": item.findings[0].verdict}


def _backend(requested: str, judged: Sequence[Judged]) -> dict[str, Any]:
    """What was asked for and what ran; kernels of the backend that were forced one by one are `forced`."""
    checked = judged[0].outcome.backend if judged else None
    seen = [kernels for item in judged if (kernels := item.outcome.kernels.get(item.outcome.backend))]
    observed = list(dict.fromkeys(kernels.observed for kernels in seen if kernels.observed))
    return {
        "requested": requested,
        "checked": checked,
        "observed": observed[0] if len(observed) == 1 else observed or None,
        "kernels": list(dict.fromkeys(name for kernels in seen for name in kernels.names)),
        "forced": _forced(judged),
    }


def _forced(judged: Sequence[Judged]) -> dict[str, Any]:
    """For each forced kernel what ran: one answer where all devices agree, else one for each device by its name."""
    seen: dict[str, dict[str, str | None]] = {}
    for item in judged:
        for asked, kernels in item.outcome.kernels.items():
            if asked != item.outcome.backend:
                seen.setdefault(asked, {})[item.outcome.device] = kernels.observed
    agreed = {asked: set(observed.values()) for asked, observed in seen.items()}
    return {
        asked: agreed[asked].pop() if len(agreed[asked]) == 1 and len(observed) == len(judged) else observed
        for asked, observed in seen.items()
    }


def _cases(item: Judged) -> list[dict[str, Any]]:
    device = item.outcome.device
    rows = [_case(case, device) for case in item.cases]
    for error in item.outcome.case_errors:
        row = {"id": error.id, "device": device, "status": "error", "error": None, "budget": None}
        rows.append({**row, "reason": error.reason})
    return rows


def _case(case: JudgedCase, device: str) -> dict[str, Any]:
    worst = case.worst
    conduct = f"gives no gradient {case.missing}" if case.missing else case.conduct
    return {
        "id": case.event.id,
        "device": device,
        "status": "pass" if worst.within and conduct is None else "fail",
        "error": _finite(worst.error),
        "budget": worst.budget,
        "worst": {"tensor": worst.tensor, "rule": worst.rule, "ratio": _finite(worst.ratio)},
        "conduct": conduct,
        "tensors": _tensors(case),
        "seconds": case.event.seconds,
    }


def _tensors(case: JudgedCase) -> dict[str, dict[str, Any] | None]:
    """The measured numbers of each tensor with what they were weighed against; None for a missing gradient."""
    tensors: dict[str, dict[str, Any] | None] = dict.fromkeys(case.event.tensors)
    for weighed in case.weighed:
        numbers = case.event.tensors[weighed.tensor]
        judged = {"budget": weighed.budget, "rule": weighed.rule, "within": weighed.within}
        tensors[weighed.tensor] = {**(asdict(numbers) if numbers else {}), **judged}
    return tensors


def _performance(spec: ImageSpec, outcome: Outcome) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{speed.id}/{speed.direction}",
            "device": outcome.device,
            "tflops": speed.tflops,
            "of_matmul": of_matmul(speed, outcome),
            "floor": floor_of(spec, outcome, speed),
            "seconds": speed.seconds,
            "call": speed.call,
            "samples": speed.samples,
            "planned": speed.planned,
        }
        for speed in outcome.speeds
    ]


def _ceiling(spec: ImageSpec, outcome: Outcome, ceiling: CeilingEvent) -> dict[str, Any]:
    """What the GPU does without attention: a bf16 product and a copy, each with its model's floor if one is known."""
    gpu, copy = gpu_of(spec, outcome), outcome.bandwidth
    return {
        "device": outcome.device,
        **asdict(ceiling),
        "matmul_floor": gpu.matmul if gpu else None,
        "copy": {**asdict(copy), "floor": gpu.bandwidth if gpu else None} if copy else None,
    }


def _seconds(judged: Sequence[Judged], total: float) -> dict[str, float]:
    """The slowest device's seconds by phase: the devices are checked side by side."""
    phases: dict[str, float] = {"import": 0.0, "compile": 0.0, "correctness": 0.0, "performance": 0.0}
    for item in judged:
        for name, seconds in (item.outcome.done.seconds if item.outcome.done else {}).items():
            phases[name] = max(phases.get(name, 0.0), seconds)
    return {**{name: round(seconds, 3) for name, seconds in phases.items()}, "total": round(total, 3)}


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity: unknown stays unknown."""
    return value if math.isfinite(value) else None
