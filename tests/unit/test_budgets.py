"""The two rules of a tensor's budget, and why both are needed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from entrypoint.events import CaseEvent, TensorErrors, TensorName
from entrypoint.judge.budgets import DESIGNED, LSE, MULTIPLE, RELATIVE, ROUNDOFF, weigh, weigh_case, worst_of

HEALTHY = TensorErrors(error=0.008, baseline=0.01, relative=0.002, baseline_relative=0.003, scale=4.0, finite=True)
TENSORS: tuple[TensorName, ...] = ("out", "dq", "dk", "dv")


@pytest.mark.parametrize("tensor", TENSORS)
def test_healthy_numbers_are_within(tensor: TensorName) -> None:
    """What a fused kernel measures on normal inputs."""
    assert weigh(tensor, HEALTHY).within


def test_the_budget_is_a_multiple_of_plain_torch_plus_rounding() -> None:
    """FlashAttention's rule, to the letter."""
    measured = weigh("dq", replace(HEALTHY, error=1.0))

    assert (measured.rule, measured.within) == ("max", False)
    assert measured.budget == pytest.approx(MULTIPLE["dq"] * 0.01 + 2 * ROUNDOFF["bfloat16"] * 4.0)


def test_a_poor_baseline_does_not_excuse_a_wrong_kernel() -> None:
    """With a sharp softmax plain torch itself is far off; the share of the norm still catches the kernel."""
    measured = weigh("out", replace(HEALTHY, error=0.2, baseline=0.5, relative=0.05))

    assert (measured.rule, measured.within) == ("l2", False)
    assert measured.budget == RELATIVE * ROUNDOFF["bfloat16"] == 0.01


def test_one_wrong_element_is_caught_where_the_norm_is_blind() -> None:
    """A single wrong row in a large tensor hardly moves the norm."""
    assert not weigh("out", replace(HEALTHY, error=2.0, relative=0.004)).within


def test_a_tensor_that_is_not_finite_is_never_within() -> None:
    """Whatever its other numbers say."""
    assert not weigh("out", replace(HEALTHY, finite=False)).within


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["error", "relative", "scale"])
@pytest.mark.parametrize("tensor", ["out", "dk"])
def test_what_is_not_a_number_is_never_within(tensor: TensorName, field: str, value: float | None) -> None:
    """NaN compares false with everything, so the comparison must be the right way round."""
    weighed = weigh(tensor, TensorErrors(**{**vars(HEALTHY), field: value}))
    assert not weighed.within
    assert weighed.ratio == float("inf")


@pytest.mark.parametrize(("field", "within"), [("error", False), ("scale", False), ("baseline", True)])
def test_what_null_means_for_a_logsumexp(field: str, within: bool) -> None:
    """It is weighed by its largest error alone, and plain torch is no measure of it."""
    lse = replace(HEALTHY, error=LSE / 2)
    assert weigh("lse", TensorErrors(**{**vars(lse), field: None})).within is within


def test_the_worst_tensor_is_the_one_that_is_not_a_number() -> None:
    """Whatever stands before or behind it; a case of no tensor at all is not within either."""
    unknown, far = weigh("dq", replace(HEALTHY, relative=None)), weigh("dk", replace(HEALTHY, error=99.0))
    assert worst_of([unknown, far]) == worst_of([far, unknown]) == unknown
    assert not worst_of([]).within


def test_zero_everywhere_is_within() -> None:
    """An exact result on zero inputs has nothing to divide by."""
    zero = replace(HEALTHY, error=0.0, baseline=0.0, relative=0.0, scale=0.0)

    assert weigh("dk", zero).within


def test_float16_has_an_eighth_of_the_budget() -> None:
    """Three more bits: what is healthy in bfloat16 is a defect there."""
    half = replace(HEALTHY, baseline=0.0, error=1.0)
    assert weigh("out", half, "float16").budget == pytest.approx(weigh("out", half).budget / 8)
    assert not weigh("out", replace(HEALTHY, error=0.0, relative=0.005), "float16").within


def test_cancellation_has_its_slack_in_its_tensor_alone() -> None:
    """Uniform inputs: dq is what is left of a sum that cancels; out is not."""
    measured = replace(HEALTHY, error=0.0, relative=0.04)
    assert weigh("dq", measured, inputs="uniform").within
    assert not weigh("dq", measured, inputs="normal").within
    assert not weigh("out", measured, inputs="uniform").within


def test_logsumexp_has_an_absolute_budget() -> None:
    """It is float32 whatever the inputs are, so plain torch in 16 bits is no measure."""
    lse = replace(HEALTHY, error=2 * LSE, baseline=10.0, relative=0.0, scale=6.0)
    assert not weigh("lse", lse).within
    assert weigh("lse", replace(lse, error=LSE / 2)).within


def test_a_backend_is_held_to_the_error_of_its_design() -> None:
    """SageAttention quantises: 1.2e-2 off is healthy there, and DESIGNED times that is not."""
    quantised = replace(HEALTHY, error=0.05, relative=0.013)
    assert not weigh("out", quantised).within
    assert weigh("out", quantised, relative_error=0.012).within
    assert not weigh("out", replace(quantised, relative=1.01 * DESIGNED * 0.012), relative_error=0.012).within


def test_plain_torch_that_overflows_adds_nothing_to_the_budget() -> None:
    """A baseline that is not a number is null in the event."""
    assert weigh("out", replace(HEALTHY, baseline=None, error=0.001)).within
    assert not weigh("out", replace(HEALTHY, baseline=None, error=1.0)).within


def test_a_case_is_weighed_by_its_own_dtype_and_inputs() -> None:
    """Every tensor that it has; a gradient that does not exist is no error here."""
    tensors: dict[TensorName, TensorErrors | None] = {"out": HEALTHY, "dq": None}
    case = CaseEvent(id="x", dtype="float16", inputs="overflow", seconds=0.1, tensors=tensors)
    assert weigh_case(case) == (weigh("out", HEALTHY, "float16", "overflow"),)
