"""How far attention may be from the float64 reference: every numeric tolerance of the verdict stands here.

A tensor passes when both hold, since either alone lets wrong kernels through (a sharp softmax makes the first one
slack, a small output the second):

1. FlashAttention's rule (tests/test_flash_attn.py): the largest error is at most a small multiple of the error that
   plain torch makes in the same dtype, plus the rounding of the dtype at the tensor's scale.
2. The error's L2 norm is at most a fixed share of the reference's.

The margin: in 210 sweeps with fresh seeds on an H200 (7,143 cases of SDPA's four kernels, FlexAttention and
FlashAttention 4) healthy kernels used at most 0.70 of a budget; tests/data/margins/h200.json has each case's worst.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from entrypoint.events import CaseEvent, Dtype, TensorErrors, TensorName

# The least that rounding to nearest takes of a number just under a power of two: half of the last of the 8 significant
# bits of bfloat16, of 11 of float16, of 24 of float32.
FLOAT32: Final = 2.0**-25
ROUNDOFF: Final = {"bfloat16": 2.0**-9, "float16": 2.0**-12, "float32": FLOAT32}

MULTIPLE: Final = {"out": 2.0, "dq": 3.0, "dk": 3.0, "dv": 3.0}
# Roundings at the tensor's scale. Twice is what FlashAttention 3 measures as `2 * max|ref + .3 - .3 - ref|`. dK and dV
# of grouped heads are sums over the group, and healthy backends round each of its parts (torch on a CPU: 7 roundoffs
# for a group of 4).
ROUNDINGS: Final = {"out": 2.0, "dq": 2.0, "dk": 8.0, "dv": 8.0}
# The norm's share, 1 % in bfloat16. Healthy bf16 kernels are 2.0e-3 to 2.9e-3 off on an H200, and up to 6.7e-3 on a
# CPU (summed groups).
RELATIVE: Final = 5.12
# How many times that share where sums cancel: dS has rows that sum to zero, so what is rounded in it comes back in dq
# (and dk) times what k (and q) have in common, their mean or their massive channel. With "overflow" scores are 8712 in
# float32 before their maximum is taken off, and each weight is off by that rounding.
SLACK: Final[dict[str, dict[str, float]]] = {
    "uniform": {"dq": 10.0},
    "massive": {"dq": 4.0},
    "low": {"dq": 4.0},
    "documents": {"dq": 4.0},
    "overflow": {"out": 16.0, "dq": 80.0, "dk": 16.0, "dv": 16.0},
}
# logsumexp is computed and returned in float32: its error is absolute, and grows only with the scores themselves.
LSE: Final = 1.0e-3
LSE_ROUNDINGS: Final = 128.0
# How many times the L2 error that a backend has by its design its errors may be.
DESIGNED: Final = 3.0


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """One tensor's error against its budget, by the rule that is nearer to its limit.

    `rule` is max or l2, finite where the tensor holds a NaN or an infinity, missing where there is no tensor at all.
    `error` and `budget` are in the rule's unit: the tensor's own for max, a share of the reference's norm for l2. An
    error that is not a number is infinite.
    """

    tensor: TensorName
    rule: Literal["max", "l2", "finite", "missing"]
    error: float
    budget: float

    @property
    def ratio(self) -> float:
        return self.error / self.budget

    @property
    def within(self) -> bool:
        # NaN compares false, so a ratio that is not a number is never within its budget.
        return self.ratio <= 1.0


def weigh(
    tensor: TensorName,
    numbers: TensorErrors,
    dtype: Dtype = "bfloat16",
    inputs: str = "normal",
    relative_error: float | None = None,
) -> Weighed:
    """Judge one tensor's numbers in a case of this dtype and input family.

    `relative_error` is the L2 error that the backend has by its design, where that is more than its dtype's.

    What null (not finite) means depends on the number. An error is then never within its budget: `error` or `relative`
    of a finite tensor is null where the reference itself is not finite, or is zero everywhere. A `scale` that is null
    leaves no budget, so nothing is within it. A `baseline` that is null, because plain torch overflows where the
    backend does not, excuses nothing: it adds 0 to the budget.
    """
    if not numbers.finite:
        return Weighed(tensor=tensor, rule="finite", error=math.inf, budget=1.0)
    error, relative = _or_infinite(numbers.error), _or_infinite(numbers.relative)
    if numbers.scale is None or not math.isfinite(numbers.scale):
        return Weighed(tensor=tensor, rule="max", error=math.inf, budget=1.0)
    designed = DESIGNED * (relative_error or 0.0)
    if tensor == "lse":
        budget = LSE + (LSE_ROUNDINGS * FLOAT32 + designed) * numbers.scale
        return Weighed(tensor=tensor, rule="max", error=error, budget=budget)
    baseline = _or_infinite(numbers.baseline)
    baseline = baseline if math.isfinite(baseline) else 0.0
    budget = MULTIPLE[tensor] * baseline + (ROUNDINGS[tensor] * ROUNDOFF[dtype] + designed) * numbers.scale
    largest = Weighed(tensor=tensor, rule="max", error=error, budget=max(budget, 1e-30))
    share = max(RELATIVE * ROUNDOFF[dtype] * SLACK.get(inputs, {}).get(tensor, 1.0), designed)
    norm = Weighed(tensor=tensor, rule="l2", error=relative, budget=share)
    return largest if not largest.within or largest.ratio >= norm.ratio and norm.within else norm


def _or_infinite(number: float | None) -> float:
    """A number that is not finite, which an event has as null, as infinity: it compares as the worst of all."""
    return number if number is not None and math.isfinite(number) else math.inf


def weigh_case(case: CaseEvent) -> tuple[Weighed, ...]:
    """Judge every tensor that a case has; a gradient that does not exist has no error."""
    return tuple(
        weigh(name, numbers, case.dtype, case.inputs, case.relative_error)
        for name, numbers in case.tensors.items()
        if numbers is not None
    )


def worst_of(weighed: Iterable[Weighed]) -> Weighed:
    """The tensor that is nearest to its budget, or farthest past it. A case without any tensor is past it, too."""
    nothing = Weighed(tensor="out", rule="missing", error=math.inf, budget=1.0)
    return max(weighed, key=lambda one: (not one.within, one.ratio), default=nothing)
