"""How far attention may be from the float64 reference: every numeric tolerance of the verdict stands here.

A tensor passes when both hold, since either alone lets wrong kernels through (a sharp softmax makes the first one
slack, a small output the second):

1. FlashAttention's rule (tests/test_flash_attn.py): the largest error is at most a small multiple of the error that
   plain torch makes in the same dtype, plus the rounding of the dtype at the tensor's scale.
2. The error's L2 norm is at most a fixed share of the reference's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

MULTIPLE: Final = {"out": 2.0, "dq": 3.0, "dk": 3.0, "dv": 3.0}
# Unit roundoff of bfloat16 (8 significant bits, rounded to nearest).
ROUNDOFF: Final = 2.0**-9
# Roundings at the tensor's scale. Twice is what FlashAttention 3 measures as `2 * max|ref + .3 - .3 - ref|`. dK and dV
# of grouped heads are sums over the group, and healthy backends round each of its parts (torch on a CPU: 7 roundoffs
# for a group of 4).
ROUNDINGS: Final = {"out": 2.0, "dq": 2.0, "dk": 8.0, "dv": 8.0}
# Healthy bf16 kernels are 2.0e-3 to 2.9e-3 off on an H200, and up to 6.6e-3 on a CPU (summed groups).
RELATIVE: Final = 1.0e-2


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One tensor's error against its budget, by the rule that is nearer to its limit (`rule`: max or l2)."""

    tensor: str
    rule: str
    error: float
    budget: float

    @property
    def ratio(self) -> float:
        return self.error / self.budget

    @property
    def within(self) -> bool:
        # NaN compares false, so an error that is not a number is never within its budget.
        return self.ratio <= 1.0


def weigh(tensor: str, numbers: dict[str, Any]) -> Measured:
    """Judge one tensor's numbers (events.TENSOR_FIELDS)."""
    if not numbers["finite"]:
        return Measured(tensor=tensor, rule="finite", error=float("inf"), budget=1.0)
    budget = MULTIPLE[tensor] * numbers["baseline"] + ROUNDINGS[tensor] * ROUNDOFF * numbers["scale"]
    largest = Measured(tensor=tensor, rule="max", error=numbers["error"], budget=max(budget, 1e-30))
    norm = Measured(tensor=tensor, rule="l2", error=numbers["relative"], budget=RELATIVE)
    return largest if not largest.within or largest.ratio >= norm.ratio and norm.within else norm
