"""How far from their median a healthy device of several may be. Pure; for one report's GPUs, ranks, and many nodes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

# Off by more than so many median absolute deviations, unscaled, and by more than that share of the median: the
# deviations alone are next to nothing where devices agree to a thousandth.
DEVIATIONS: Final = 3.0
SHARE: Final = 0.05
# Of two devices nobody can say which one is off.
FEWEST: Final = 3


def allowed(values: Sequence[float], share: float = SHARE) -> float:
    """The distance from the median of `values` that is allowed, in their unit: max(3 MAD, share)."""
    middle = median(values)
    return max(DEVIATIONS * median(abs(value - middle) for value in values), share * middle)
