"""The measured errors and conduct: what a right kernel, a healthy backend and a few wrong ones measure."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.unit.wrong_kernels import backend, kernel, logsumexp

torch = pytest.importorskip("torch")

from entrypoint.judge.budgets import weigh_case  # noqa: E402 - after the skip
from entrypoint.probe import accuracy, backends, calls, cases  # noqa: E402
from tests.defects.sometimes import conduct  # noqa: E402

CPU = torch.device("cpu")
STARTUP = {case.id: case for case in cases.startup_cases()}


def measure(attention: backends.Attention, case: cases.Case) -> accuracy.Measured:
    return accuracy.measure(backends.Backend(name="test", attention=attention), case, CPU)


def number(value: float | None) -> float:
    """In the process that measures, a number that is not finite is a NaN or an infinity and never None."""
    assert value is not None
    return value


def worst(measured: accuracy.Measured) -> float:
    """The largest error over baseline of all tensors, of their maxima and of their norms; infinite when not finite."""
    ratios = []
    for numbers in measured.tensors.values():
        assert numbers is not None
        known = {name: number for name, number in vars(numbers).items() if number is not None}
        pairs = (("error", "baseline"), ("relative", "baseline_relative"))
        ratios += [known[error] / known[baseline] for error, baseline in pairs]
        ratios += [0.0 if numbers.finite else math.inf]
    return max(ratio if not math.isnan(ratio) else math.inf for ratio in ratios)


SDPA = backends.load("sdpa", CPU)
CLAIMED = {case.id: case for case in cases.startup_cases(SDPA.capabilities)}


@pytest.mark.parametrize("case", CLAIMED.values(), ids=CLAIMED)
def test_sdpa_is_within_its_budget_in_everything_that_it_claims(case: cases.Case) -> None:
    """No false alarm, inputs untouched, and gradients for all three."""
    measured = accuracy.measure(SDPA, case, CPU)
    assert [weighed for weighed in weigh_case(measured.event(case, 0.0)) if not weighed.within] == []
    assert measured.mutated == ()
    assert measured.no_gradient is None


@pytest.mark.parametrize("case", STARTUP.values(), ids=STARTUP)
def test_sdpa_is_about_as_exact_as_plain_torch_in_every_startup_case(case: cases.Case) -> None:
    """Each tensor is finite, and its error is of the size that bfloat16 cannot avoid."""
    measured = accuracy.measure(backends.load("sdpa", CPU), case, CPU)
    assert measured.no_gradient is None
    assert set(measured.tensors) == {"out", "dq", "dk", "dv"}
    for numbers in measured.tensors.values():
        assert numbers is not None
        assert numbers.finite is True
        assert 0.0 < number(numbers.relative) < 1e-2
        assert 0.0 < number(numbers.baseline_relative) < 5e-2
        assert 0.0 < number(numbers.error) < 0.02 * number(numbers.scale)


@pytest.mark.parametrize("case", STARTUP.values(), ids=STARTUP)
def test_a_kernel_that_rounds_once_is_better_than_plain_torch(case: cases.Case) -> None:
    """The skeleton of the wrong kernels is itself right, so what they get wrong is their mistake alone."""
    assert worst(measure(kernel(), case)) < 1.5


def test_an_output_cut_from_its_inputs_has_no_gradient_and_says_so() -> None:
    """As SageAttention's: the forward is right, nothing flows back, and the reason names the inputs."""
    right = kernel()
    measured = measure(lambda arguments: right(arguments).detach(), STARTUP["causal-d64"])
    assert measured.tensors["out"] is not None
    assert (measured.tensors["dq"], measured.tensors["dk"], measured.tensors["dv"]) == (None, None, None)
    assert measured.no_gradient == "no gradient reaches q, k, v"


def test_a_gradient_that_does_not_reach_one_input_is_null_alone() -> None:
    """A backward that forgets K leaves dq and dv to be judged."""
    from dataclasses import replace

    attention = kernel(inputs=lambda arguments: replace(arguments, k=arguments.k.detach()))
    measured = measure(attention, STARTUP["causal-d64"])
    assert [name for name, numbers in measured.tensors.items() if numbers is None] == ["dk"]
    assert measured.no_gradient == "no gradient reaches k"


def test_a_backend_without_gradients_is_measured_forward_alone() -> None:
    """What it says about itself is the reason, and its inputs do not require gradients, which some refuse."""

    def forward_only(arguments: backends.Arguments) -> Any:
        assert not arguments.q.requires_grad
        return kernel()(arguments)

    backend = backends.Backend(name="test", attention=forward_only, no_gradient="it has none")
    measured = accuracy.measure(backend, STARTUP["causal-d64"], CPU)
    assert measured.no_gradient == "it has none"
    assert measured.tensors["out"] is not None
    assert number(measured.tensors["out"].relative) < 1e-2
    assert measured.tensors["dq"] is None


def test_an_output_of_another_shape_is_an_error() -> None:
    """Broadcasting would compare it with the wrong elements and might even like it."""
    narrow = backends.Backend(name="test", attention=lambda arguments: arguments.q[..., :1], no_gradient="none")
    with pytest.raises(ValueError, match=r"out has shape \(2, 333, 8, 1\), expected \(2, 333, 8, 64\)"):
        accuracy.measure(narrow, STARTUP["causal-d64"], CPU)


def test_the_errors_of_a_tensor_by_hand() -> None:
    """Largest absolute differences, L2 norms over the reference's, and the reference's largest value."""
    exact = torch.tensor([3.0, -4.0], dtype=torch.float64)
    actual, plain = exact + torch.tensor([0.3, 0.4]), exact + torch.tensor([0.0, -1.0])
    numbers = accuracy.errors("out", actual, plain, exact)
    assert numbers is not None
    assert vars(numbers) == pytest.approx(
        {"error": 0.4, "baseline": 1.0, "relative": 0.1, "baseline_relative": 0.2, "scale": 4.0, "finite": True}
    )


def test_a_kernel_that_writes_into_its_inputs_cannot_spoil_the_reference() -> None:
    """SageAttention 1.0.6 smooths K in place; the reference still sees the original K."""
    case = STARTUP["full-d64"]
    right = kernel()

    def attention(arguments: backends.Arguments) -> Any:
        out = right(arguments)
        for tensor in (arguments.q, arguments.k, arguments.v):
            tensor.detach().zero_()
        return out

    out = measure(attention, case).tensors["out"]
    assert out == measure(right, case).tensors["out"]


def test_not_finite_is_seen_in_a_single_element() -> None:
    """One NaN among 340,992 values makes the tensor not finite and its error not a number."""

    def one(out: Any, arguments: backends.Arguments) -> Any:
        spoiled = out.clone()
        spoiled[1, 7, 3, 5] = math.nan
        return spoiled

    out = measure(kernel(result=one), STARTUP["causal-d64"]).tensors["out"]
    assert out is not None
    assert out.finite is False
    assert math.isnan(number(out.error))


def test_logsumexp_is_measured_where_it_is_offered() -> None:
    """Against the reference's natural logarithm of the denominator."""
    lse = accuracy.measure(backend(kernel()), STARTUP["causal-d64"], CPU).tensors["lse"]
    assert lse is not None
    assert number(lse.error) < 1e-5
    off = accuracy.measure(backend(kernel(), lambda a: logsumexp(a) + 0.5), STARTUP["causal-d64"], CPU).tensors["lse"]
    assert off is not None
    assert number(off.error) == pytest.approx(0.5, rel=1e-3)
    assert "lse" not in measure(kernel(), STARTUP["causal-d64"]).tensors


@pytest.mark.parametrize(("name", "written"), [("writes into k", ("k",)), ("writes into dout", ("dout",))])
def test_what_a_backend_writes_into_is_named(name: str, written: tuple[str, ...]) -> None:
    """SageAttention 1.0.6 smooths K where it lies."""
    assert accuracy.measure(conduct()[name], STARTUP["causal-d64"], CPU).mutated == written


def test_a_claim_to_be_deterministic_is_tried() -> None:
    """True for one that is, false for one that is not, and no claim is no answer."""
    case = STARTUP["full-d64"]
    assert accuracy.measure(backend(kernel(), deterministic=True), case, CPU).repeatable is True
    assert accuracy.measure(conduct()["dQ differs from run to run"], case, CPU).repeatable is False
    assert accuracy.measure(backend(kernel()), case, CPU).repeatable is None


def test_an_error_where_the_answer_is_zero_has_a_floor_to_be_measured_by() -> None:
    """0.01 off where everything is zero is 1 % of a floor of 1, and not infinitely much."""
    zero = torch.zeros(4, dtype=torch.float64)
    numbers = accuracy.errors("dq", zero + 0.01, zero, zero, 1.0)
    assert numbers is not None
    assert number(numbers.relative) == pytest.approx(0.01)
    assert number(numbers.scale) == 1.0


def test_gradients_are_those_of_the_given_dout() -> None:
    """Backend and reference share this step, so a mistake in it would cancel out of every comparison."""
    q, k, v = (torch.randn(1, 3, 2, 4, requires_grad=True) for _ in range(3))
    out, dout = q * k.sum() + v.exp(), torch.randn(1, 3, 2, 4)
    given = torch.autograd.grad(out, (q, k, v), dout, retain_graph=True)
    found = calls.gradients(out, backends.Arguments(q=q, k=k, v=v, causal=True), dout)
    assert all(torch.equal(one, other) for one, other in zip(given, found, strict=True))
