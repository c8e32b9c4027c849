"""The two rules of a tensor's budget, and why both are needed."""

from __future__ import annotations

from typing import Any

import pytest

from entrypoint.budgets import MULTIPLE, RELATIVE, ROUNDOFF, weigh

HEALTHY: dict[str, Any] = {"error": 0.008, "baseline": 0.01, "relative": 0.002, "scale": 4.0, "finite": True}


@pytest.mark.parametrize("tensor", ["out", "dq", "dk", "dv"])
def test_healthy_numbers_are_within(tensor: str) -> None:
    """What a fused kernel measures on normal inputs."""
    assert weigh(tensor, HEALTHY).within


def test_the_budget_is_a_multiple_of_plain_torch_plus_rounding() -> None:
    """FlashAttention's rule, to the letter."""
    measured = weigh("dq", HEALTHY | {"error": 1.0})

    assert (measured.rule, measured.within) == ("max", False)
    assert measured.budget == pytest.approx(MULTIPLE["dq"] * 0.01 + 2 * ROUNDOFF * 4.0)


def test_a_poor_baseline_does_not_excuse_a_wrong_kernel() -> None:
    """With a sharp softmax plain torch itself is far off; the share of the norm still catches the kernel."""
    measured = weigh("out", HEALTHY | {"error": 0.2, "baseline": 0.5, "relative": 0.05})

    assert (measured.rule, measured.within) == ("l2", False)
    assert measured.budget == RELATIVE


def test_one_wrong_element_is_caught_where_the_norm_is_blind() -> None:
    """A single wrong row in a large tensor hardly moves the norm."""
    assert not weigh("out", HEALTHY | {"error": 2.0, "relative": 0.004}).within


def test_a_tensor_that_is_not_finite_is_never_within() -> None:
    """Whatever its other numbers say."""
    assert not weigh("out", HEALTHY | {"finite": False}).within


@pytest.mark.parametrize("field", ["error", "relative"])
def test_an_error_that_is_not_a_number_is_never_within(field: str) -> None:
    """NaN compares false with everything, so the comparison must be the right way round."""
    assert not weigh("out", HEALTHY | {field: float("nan")}).within


def test_zero_everywhere_is_within() -> None:
    """An exact result on zero inputs has nothing to divide by."""
    zero = {"error": 0.0, "baseline": 0.0, "relative": 0.0, "scale": 0.0, "finite": True}

    assert weigh("dk", zero).within
