"""Which candidate is taken, from what the race measured. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from entrypoint.auto.candidates import Candidate
from entrypoint.events import CaseEvent, SpeedEvent
from entrypoint.judge.budgets import weigh_case, worst_of

# Within this share of the fastest, the image's order decides: two runs of one kernel differ by as much.
TIE: Final = 0.02

Failed = Literal["wrong", "broken", "memory", "unstarted"]


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What the race says of one candidate: milliseconds of a layer, or the `reason` why it is out. `failed`: it is
    wrong, it raised, crashed or hung (broken), it had no memory, or its child failed before it (unstarted); None where
    there was only no time for it."""

    backend: str
    forward: float | None = None
    backward: float | None = None
    reason: str | None = None
    failed: Failed | None = None

    @property
    def total(self) -> float | None:
        return None if self.forward is None or self.backward is None else self.forward + self.backward


def weigh(backend: str, cases: Iterable[CaseEvent], speeds: Iterable[SpeedEvent]) -> Timed:
    """The candidate's own events: right in every kind of layer, and then its time, the mean of those kinds."""
    mine = [case for case in cases if case.id.partition("/")[0] == backend]
    for case in mine:
        worst = worst_of(weigh_case(case))
        if case.no_gradient or not worst.within:
            kind = case.id.partition("/")[2]
            off = case.no_gradient or (
                f"{worst.tensor} is off by {worst.error:.3g} where {worst.budget:.3g} is allowed ({worst.rule})"
            )
            return Timed(backend=backend, reason=f"wrong for these shapes: {off}, in {kind} layers", failed="wrong")
    # The last event of an id counts.
    last = {(speed.id, speed.direction): speed.seconds for speed in speeds if speed.id.partition("/")[0] == backend}
    means = {
        direction: 1000.0 * sum(taken) / len(taken)
        for direction in ("forward", "backward")
        if (taken := [seconds for (_, of), seconds in last.items() if of == direction]) and len(taken) == len(mine)
    }
    reason = None if len(means) == 2 else "it was not timed"
    return Timed(backend=backend, forward=means.get("forward"), backward=means.get("backward"), reason=reason)


def pick(timed: Sequence[Timed]) -> Timed | None:
    """The fastest of those that are right, forward and backward together; `timed` is in the image's order.

    Where there was time for none, the first that has not failed; None where all have.
    """
    right = [(item.total, item) for item in timed if item.reason is None and item.total is not None]
    if not right:
        return next((item for item in timed if not item.failed), None)
    fastest = min(total for total, _ in right)
    return next(item for total, item in right if total <= fastest * (1 + TIE))


def rows(candidates: Sequence[Candidate], timed: Sequence[Timed], taken: str | None) -> list[dict[str, Any]]:
    """The report's `candidates`, as JSON."""
    found = {item.backend: item for item in timed}
    return [_row(candidate, found.get(candidate.backend), taken) for candidate in candidates]


def _row(candidate: Candidate, timed: Timed | None, taken: str | None) -> dict[str, Any]:
    measured = timed is not None and timed.total is not None
    return {
        "backend": candidate.backend,
        "milliseconds": {"forward": timed.forward, "backward": timed.backward} if timed and measured else None,
        "reason": (candidate.reason or (timed.reason if timed else None) or "").rstrip(".") or None,
        "taken": candidate.backend == taken,
        "overlay": dict(candidate.change),
        "contestant": asdict(candidate.contestant) if candidate.contestant else None,
    }
