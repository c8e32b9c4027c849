"""The report: one JSON document (contract: schema 1), and the screenful of text that a person reads. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from entrypoint.budgets import Measured, weigh
from entrypoint.console import NAME
from entrypoint.outcome import Outcome
from entrypoint.spec import ImageSpec
from entrypoint.verdict import Code, Finding, floor_of, of_matmul, rank, worst_of

REPORT_SCHEMA: Final = 1
SUMMARY_BYTES: Final = 4096
SHOWN: Final = 6  # failing cases in the text; the JSON has them all

Report = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One device's outcome with what the verdict says of it, the most serious finding first."""

    outcome: Outcome
    findings: Sequence[Finding]


def build(spec: ImageSpec, requested: str, judged: Sequence[Judged], extra: Sequence[Finding], total: float) -> Report:
    """The report of a run. `extra` holds findings of no device (such as a missing GPU); `total` is in seconds."""
    findings = sorted([*extra, *(finding for item in judged for finding in item.findings)], key=rank)
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
        "cases": [row for item in judged for row in _cases(item.outcome)],
        "performance": [row for item in judged for row in _performance(spec, item.outcome)],
        "ceilings": [_numbers(item.outcome.ceiling) for item in judged if item.outcome.ceiling],
        "machine": _machine(spec, lead),
        "seconds": _seconds(judged, total),
        "cached": False,
        "notes": [],
        "logs": [item.outcome.log for item in judged if item.outcome.log and item.findings[0].code is not Code.PASS],
    }


def _image(spec: ImageSpec, outcome: Outcome | None) -> dict[str, Any]:
    """Versions are those found installed; before the child looked, those that the image was built to hold."""
    machine = (outcome.machine or {}) if outcome else {}
    installed = machine.get("packages", {}) | ({"torch": machine["torch"]} if "torch" in machine else {})
    names = ["torch", *(name for backend in spec.backends for name in backend.packages)]
    versions = {name: installed.get(name, spec.packages.get(name)) for name in names}
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
    facts = _without(gpu, *known)
    arch = spec.architecture_of(str(gpu.get("capability")))
    return {**known, "device": item.outcome.device, "arch": arch, "facts": facts, "verdict": item.findings[0].verdict}


def _backend(requested: str, judged: Sequence[Judged]) -> dict[str, Any]:
    seen = [item.outcome.kernels for item in judged if item.outcome.kernels]
    observed = list(dict.fromkeys(kernels["observed"] for kernels in seen if kernels.get("observed")))
    names = list(dict.fromkeys(name for kernels in seen for name in kernels["names"]))
    return {
        "requested": requested,
        "checked": judged[0].outcome.backend if judged else None,
        "observed": observed[0] if len(observed) == 1 else observed or None,
        "kernels": names,
    }


def _cases(outcome: Outcome) -> list[dict[str, Any]]:
    rows = []
    for case in outcome.cases:
        worst = worst_of(case)
        tensors = {name: _weighed(name, numbers) for name, numbers in case["tensors"].items()}
        rows.append(
            {
                "id": case["id"],
                "device": outcome.device,
                "status": "pass" if worst.within else "fail",
                "error": _finite(worst.error),
                "budget": worst.budget,
                "worst": {"tensor": worst.tensor, "rule": worst.rule, "ratio": _finite(worst.ratio)},
                "tensors": tensors,
                "seconds": case.get("seconds"),
            }
        )
    for error in outcome.case_errors:
        row = {"id": error["id"], "device": outcome.device, "status": "error", "error": None, "budget": None}
        rows.append({**row, "reason": error["reason"]})
    return rows


def _weighed(name: str, numbers: dict[str, Any] | None) -> dict[str, Any] | None:
    if numbers is None:
        return None
    measured: Measured = weigh(name, numbers)
    return {**_numbers(numbers), "budget": measured.budget, "rule": measured.rule, "within": measured.within}


def _performance(spec: ImageSpec, outcome: Outcome) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{speed['id']}/{speed['direction']}",
            "device": outcome.device,
            "tflops": speed["tflops"],
            "of_matmul": of_matmul(speed, outcome),
            "floor": floor_of(spec, outcome, speed["direction"]),
            "seconds": speed["seconds"],
            "samples": speed.get("samples", []),
        }
        for speed in outcome.speeds
    ]


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


# --- text -------------------------------------------------------------------------------------------------------


def to_text(report: Report) -> str:
    """The report on one screen: what is so, what to do, then the facts."""
    lines = _headline(report)
    lines += [f"  also      {reason}" for reason in report["reasons"][1:]]
    if report["cases"] or report["performance"]:
        lines += [*_text_image(report), *_text_gpus(report), *_text_backend(report)]
        lines += [*_text_cases(report), *_text_performance(report), *_text_seconds(report)]
    lines += [f"  note      {note}" for note in report["notes"]]
    return "\n".join(lines) + "\n"


def _headline(report: Report) -> list[str]:
    code = report["code"]
    label = report["verdict"] + (f" ({code['number']} {code['name']})" if code["number"] else "")
    cached = " (from the verdict cache)" if report["cached"] else ""
    lines = [f"{NAME} {report['image']['id']}: {label}{cached}: {report['headline']['what']}"]
    if report["headline"]["advice"]:
        lines.append(f"  what to do: {report['headline']['advice']}")
    return lines


def summary(report: Report) -> str:
    """The first lines of the text, at most SUMMARY_BYTES of UTF-8: for Kubernetes' termination message."""
    text = "\n".join(_headline(report) + [f"also: {reason}" for reason in report["reasons"][1:]])
    return text.encode()[:SUMMARY_BYTES].decode(errors="ignore")


def _text_image(report: Report) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in report["image"]["versions"].items())
    return [f"  image     {report['image']['id']} {report['image']['version']}: {versions}"]


def _text_gpus(report: Report) -> list[str]:
    if not report["gpus"]:
        return [f"  cpu       {report['machine'].get('name')}: {report['verdict']}"]
    lines = []
    for gpu in report["gpus"]:
        memory = gpu["facts"].get("memory_total")
        size = f", {memory / 2**30:.0f} GiB" if memory else ""
        name = f"{gpu['name']} ({gpu['arch'] or gpu['capability']}), driver {gpu['driver']}{size}"
        lines.append(f"  {gpu['device']:<9} {name}: {gpu['verdict']}")
    return lines


def _text_backend(report: Report) -> list[str]:
    backend = report["backend"]
    kernels = ", ".join(name[:48] for name in backend["kernels"][:2]) or "none seen"
    return [f"  backend   {backend['requested']} asked for, {backend['observed'] or 'unknown'} observed: {kernels}"]


def _text_cases(report: Report) -> list[str]:
    cases = [case for case in report["cases"] if case.get("worst")]
    lines = [
        f"  {'error' if case['status'] == 'error' else 'wrong':<9} {_case_line(case)}" for case in _bad(report)[:6]
    ]
    if cases:
        passed = sum(case["status"] == "pass" for case in cases)
        tight = max(cases, key=lambda case: case["worst"]["ratio"] or math.inf)
        lines.insert(
            0, f"  correct   {passed} of {len(report['cases'])} cases; nearest to its limit: {_case_line(tight)}"
        )
    return lines


def _bad(report: Report) -> list[dict[str, Any]]:
    return [case for case in report["cases"] if case["status"] != "pass"]


def _case_line(case: dict[str, Any]) -> str:
    if case["status"] == "error":
        return f"{case['id']}: {case['reason']}"
    worst = case["worst"]
    ratio = "not finite" if worst["ratio"] is None else f"{worst['ratio']:.2f} of its budget"
    return f"{case['id']} {worst['tensor']} ({worst['rule']}) at {ratio}"


def _text_performance(report: Report) -> list[str]:
    lines = []
    for row in report["performance"]:
        share = f", {row['of_matmul']:.0%} of matmul" if row["of_matmul"] is not None else ""
        floor = f" (floor {row['floor']:.0%})" if row["floor"] is not None else " (no floor known)"
        lines.append(f"  speed     {row['id']}: {row['tflops']:.3g} TFLOP/s{share}{floor}")
    return lines


def _text_seconds(report: Report) -> list[str]:
    seconds = report["seconds"]
    phases = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if name != "total")
    return [f"  time      {seconds['total']:.1f} s: {phases}"]
