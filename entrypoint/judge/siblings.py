"""Judge the GPUs of one report beside each other: one that is far slower than its siblings is named. Pure.

No floor of the model is needed: siblings ran the same calls at the same time, on one host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from entrypoint.children.outcome import Outcome
from entrypoint.judge.finding import Finding, rank, slow
from entrypoint.judge.spread import FEWEST, allowed
from entrypoint.judge.verdict import Judged
from entrypoint.settings import Settings

KIND: Final = "slow-sibling"


@dataclass(frozen=True, kw_only=True)
class Lag:
    """How far a figure of a device is below its siblings' median; `allowed` is the limit of that, in the same unit."""

    what: str
    unit: str
    value: float
    median: float
    allowed: float

    @property
    def below(self) -> float:
        """As a share of the median."""
        return 1.0 - self.value / self.median

    @property
    def is_off(self) -> bool:
        return self.median - self.value > self.allowed


def beside_siblings(settings: Settings, judged: Sequence[Judged]) -> list[Judged]:
    """The same devices; one that is slow beside those of its model and backend has a finding more, SLOW or DEGRADED.

    A device that is called slow already has its reason, and one that is wrong or broken has a worse one.
    """
    return [item if _explained(item) else _with(settings, item, _siblings(item, judged)) for item in judged]


def _explained(item: Judged) -> bool:
    return any(finding.verdict != "PASS" and finding.kind != "fallback" for finding in item.findings)


def _siblings(item: Judged, judged: Sequence[Judged]) -> list[Outcome]:
    """The other devices of its model on which the same backend was measured to the end."""
    wanted = (item.outcome.name, item.outcome.backend, "done")
    others = (other.outcome for other in judged if other is not item)
    return [other for other in others if (other.name, other.backend, other.ending) == wanted]


def _with(settings: Settings, item: Judged, siblings: Sequence[Outcome]) -> Judged:
    if len(siblings) + 1 < FEWEST:
        return item
    off = [lag for lag in lags(item.outcome, siblings) if lag.is_off]
    if not off:
        return item
    worst = max(off, key=lambda lag: lag.below)
    findings = [finding for finding in item.findings if finding.verdict != "PASS"]
    findings.append(_finding(settings, item.outcome, worst, len(siblings)))
    return replace(item, findings=tuple(sorted(findings, key=rank)))


def _finding(settings: Settings, outcome: Outcome, lag: Lag, count: int) -> Finding:
    what = f"This {outcome.name} is slow beside its {count} siblings: {lag.what} reaches"
    what += f" {lag.value:,.4g} {lag.unit}, {lag.below:.0%} below their median of {lag.median:,.4g}"
    what += f" (allowed: {lag.allowed / lag.median:.1%})."
    advice = "Every step of a training waits for it: start the job on another node, and compare this GPU's clocks,"
    advice += " power and cooling with a sibling's (nvidia-smi -q)."
    # The device is part of the kind: each one that lags has figures of its own, and the report tells them apart.
    return slow(f"{KIND} {outcome.device}", what, advice, fails=settings.slow == "fail")


def lags(outcome: Outcome, siblings: Sequence[Outcome]) -> Iterator[Lag]:
    """Every figure that the device and all of its siblings have, beside their median."""
    others = [figures(sibling) for sibling in siblings]
    for (what, unit), value in figures(outcome).items():
        values = [each[what, unit] for each in others if (what, unit) in each]
        if len(values) < len(siblings):
            continue
        yield Lag(what=what, unit=unit, value=value, median=median(values), allowed=allowed(values))


def figures(outcome: Outcome) -> dict[tuple[str, str], float]:
    """What was timed on a device, by what it was and its unit; more is faster."""
    found: dict[tuple[str, str], float] = {}
    if outcome.ceiling:
        found["a bf16 matmul", "TFLOP/s"] = outcome.ceiling.matmul_tflops
    if outcome.bandwidth:
        found["a copy", "GB/s"] = outcome.bandwidth.gigabytes_per_second
    for speed in outcome.speeds:
        found[f"{speed.direction} in {speed.id}", "TFLOP/s"] = speed.tflops
    return {name: value for name, value in found.items() if value > 0}
