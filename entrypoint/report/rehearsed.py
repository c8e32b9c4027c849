"""The report's part `rehearsal`, and the report of a check with it. Pure."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Final

from entrypoint.judge.finding import Finding
from entrypoint.judge.rehearsal_budgets import Weight, weights
from entrypoint.rehearsal.outcome import Rehearsal

WORST: Final = 8  # numbers, those nearest to their limit or past it


def rehearsal_part(action: str, outcome: Rehearsal | None, finding: Finding) -> dict[str, Any]:
    """The report's part `rehearsal`; without an outcome there was none, for the reason in `finding`."""
    verdict = "PASS" if finding.verdict == "DEGRADED" else finding.verdict
    known = outcome or Rehearsal(device="", backend="")
    ordered = sorted(weights(known), key=lambda weight: -weight.ratio)
    leak, kernels, end = known.leak, known.kernels, known.end
    return {
        "verdict": verdict,
        "reason": None if finding.kind == "rehearsed" else finding.what,
        "action": action,
        "model": asdict(known.shrunk) if known.shrunk else None,
        "batch": asdict(known.batch) if known.batch else None,
        "reduced": [*(known.shrunk.reduced if known.shrunk else ()), *known.reduced],
        "losses": {name: _losses(known, part) for name, part in (("runs", "run"), ("reference", "reference"))},
        "differences": [_difference(weight) for weight in ordered[:WORST]],
        "packed": {"documents": leak.documents if leak else None, "leak": leak.run if leak else None},
        "kernels": list(kernels.names) if kernels else [],
        "observed": kernels.observed if kernels else None,
        "hub": [asdict(asked) for asked in known.asked],
        "compiled": known.compiled,
        "memory_peak": end.peak if end else None,
        "seconds": _by_stage(known),
        "log": known.log if verdict != "PASS" else "",
    }


def _losses(outcome: Rehearsal, part: str) -> list[float | None]:
    return list(outcome.steps[part].losses) if part in outcome.steps else []


def _difference(weight: Weight) -> dict[str, Any]:
    """What is not finite is null: JSON has no infinity."""
    numbers = {"error": weight.error, "budget": weight.budget, "ratio": weight.ratio}
    return {
        "what": weight.what,
        **{name: number if math.isfinite(number) else None for name, number in numbers.items()},
    }


def _by_stage(outcome: Rehearsal) -> dict[str, float]:
    """What the child counted, and as `total` what the start waited for it: of a child that has begun beside the check,
    less than its stages took."""
    stages = dict(outcome.end.seconds) if outcome.end else {}
    total = outcome.lasted if "wait" in stages else sum(stages.values())
    return {**{name: round(seconds, 3) for name, seconds in stages.items()}, "total": round(total, 3)}
