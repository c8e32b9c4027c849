"""How far a rehearsed run may be from plain attention: every numeric tolerance of a rehearsal stands here. Pure.

A loss or gradient of the whole model is off by what rounding in attention becomes on its way through all layers. How
much that is, the baseline measures in the same model: plain attention in the run's own precision, in another order. So
a budget is a multiple of the baseline's error, as FlashAttention's rule has it (budgets.py), plus roundings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from entrypoint.judge.budgets import FLOAT32, ROUNDOFF
from entrypoint.rehearsal.events import Difference
from entrypoint.rehearsal.outcome import Rehearsal

MULTIPLE: Final = 4.0
ROUNDINGS: Final = 4.0
# A loss is summed and returned in float32, in which one of 6.7 has neighbours 7e-8 away: a baseline that meets the very
# same one says nothing of the next.
SUMMED: Final = 64.0
# A gradient far smaller than the largest one is mostly rounding of what it is a part of: its budget has this share of
# a rounding at the scale of the largest.
SMALL: Final = 0.01
# Losses of later steps, over the reference's, beside the baseline's multiple: the weights differ by then, by rounding
# alone, but Adam's first steps are of one size whatever the gradient's. In float32 a healthy run was off by 1e-7.
STEP: Final = {"bfloat16": 5.0e-3, "float16": 2.0e-3}
STEP_FLOAT32: Final = 2.0e-4
# What one document may change in the losses of another: nothing. A rounding of it comes from another order of sums.
LEAK: Final = 1.0e-4
LEAK_MULTIPLE: Final = 4.0
# A gradient of less than this share of the reference's norm is cut, not wrong.
CUT: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A loss or gradient against its budget, both as shares of the reference's."""

    what: str
    error: float
    budget: float
    kind: Literal["loss", "gradient", "step"]
    missing: bool = False

    @property
    def ratio(self) -> float:
        return self.error / self.budget

    @property
    def within(self) -> bool:
        return self.ratio <= 1.0  # NaN is not


def weights(outcome: Rehearsal) -> tuple[Weight, ...]:
    """Every number of the comparison against its budget."""
    return (*_losses(outcome), *_gradients(outcome), *_steps(outcome))


def roundoff(outcome: Rehearsal) -> float:
    """Of the run's own precision."""
    return ROUNDOFF.get(outcome.batch.dtype, FLOAT32) if outcome.batch else FLOAT32


def _losses(outcome: Rehearsal) -> Iterable[Weight]:
    compared = outcome.compared
    if compared is None or not compared.reference:
        return
    error, own = (_apart(loss, compared.reference) for loss in (compared.run, compared.baseline))
    budget = MULTIPLE * (own if math.isfinite(own) else 0.0) + ROUNDINGS * roundoff(outcome) + SUMMED * FLOAT32
    yield Weight(what="loss", error=error, budget=budget, kind="loss")


def _gradients(outcome: Rehearsal) -> Iterable[Weight]:
    compared = outcome.compared
    known = [row for row in compared.gradients if row.norm and row.baseline is not None] if compared else []
    if not known:
        return
    # One parameter's baseline can be small by luck: that of all parameters in the middle stands in for it.
    usual = sorted(row.baseline or 0.0 for row in known)[len(known) // 2]
    largest = max(row.norm or 0.0 for row in known)
    for row in known:
        yield _gradient(row, usual, largest, roundoff(outcome))


def _gradient(row: Difference, usual: float, largest: float, unit: float) -> Weight:
    scale = 1.0 + SMALL * largest / (row.norm or largest)
    cut = row.missing or row.ratio is not None and row.ratio < CUT
    return Weight(
        what=row.what,
        error=math.inf if row.error is None and not row.missing else 1.0 if row.missing else row.error or 0.0,
        budget=MULTIPLE * max(row.baseline or 0.0, usual) + ROUNDINGS * unit * scale,
        kind="gradient",
        missing=cut,
    )


def _steps(outcome: Rehearsal) -> Iterable[Weight]:
    parts = [outcome.steps.get(part) for part in ("run", "reference", "baseline")]
    if any(part is None for part in parts):
        return
    extra = STEP.get(outcome.batch.dtype, STEP_FLOAT32) if outcome.batch else STEP_FLOAT32
    for number, (run, plain, base) in enumerate(zip(*(part.losses for part in parts if part), strict=False), start=1):
        if plain:
            own = _apart(base, plain)
            budget = MULTIPLE * (own if math.isfinite(own) else 0.0) + extra
            if outcome.batch and outcome.batch.dropout and run is not None:
                continue  # plain attention drops nothing, so all that can be asked is a finite loss
            yield Weight(what=f"step {number}", error=_apart(run, plain), budget=budget, kind="step")


def _apart(loss: float | None, plain: float) -> float:
    return math.inf if loss is None else abs(loss - plain) / abs(plain)


def leak_budget(outcome: Rehearsal) -> float:
    """What one document may change in another's loss; more where plain attention's own documents do, so that it is
    another layer than attention."""
    leak = outcome.leak
    own = max(leak.noise or 0.0, leak.reference or 0.0) if leak else 0.0
    return LEAK_MULTIPLE * own + max(LEAK, ROUNDINGS * roundoff(outcome))
