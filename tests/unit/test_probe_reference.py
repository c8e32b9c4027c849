"""The float64 reference and the low-precision baseline: checked by hand, and against torch's own math path."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402 - after the skip
from torch.nn.functional import scaled_dot_product_attention  # noqa: E402

from entrypoint.probe import cases, reference  # noqa: E402
from entrypoint.probe.backends import Arguments, Attention  # noqa: E402

CPU = torch.device("cpu")


def small(*, causal: bool, scale: float | None = None) -> Arguments:
    """One head of dimension 1, two positions: q = (0, 1), k = (0, ln 3), v = (10, 20)."""
    q, k, v = ([0.0, 1.0], [0.0, math.log(3.0)], [10.0, 20.0])
    tensors = [torch.tensor(values, dtype=torch.float64).reshape(1, 2, 1, 1) for values in (q, k, v)]
    return Arguments(q=tensors[0], k=tensors[1], v=tensors[2], causal=causal, softmax_scale=scale)


@pytest.mark.parametrize("attention", [reference.attention, reference.reordered])
def test_a_full_example_by_hand(attention: Attention) -> None:
    """Query 0 weighs both keys alike; query 1 weighs them 1 to 3."""
    assert attention(small(causal=False)).flatten().tolist() == pytest.approx([15.0, 17.5])


@pytest.mark.parametrize("attention", [reference.attention, reference.reordered])
def test_a_causal_example_by_hand(attention: Attention) -> None:
    """Query 0 sees key 0 alone; query 1 sees both."""
    assert attention(small(causal=True)).flatten().tolist() == pytest.approx([10.0, 17.5])


def test_the_scale_multiplies_the_scores() -> None:
    """With a scale of 2 the weights of query 1 are 1 to 9."""
    assert reference.attention(small(causal=False, scale=2.0)).flatten().tolist() == pytest.approx([15.0, 19.0])


def test_gradients_by_hand() -> None:
    """out_1 = 10 (1 - p) + 20 p with p = 3/4: dv = (1/4, 3/4), and dk_1 = q_1 * 10 p (1 - p)."""
    dout = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    results = reference.float64(small(causal=True), dout)
    assert results.dq is not None
    assert results.dk is not None
    assert results.dv is not None
    assert results.dv.flatten().tolist() == pytest.approx([0.25, 0.75])
    assert results.dk.flatten().tolist() == pytest.approx([-1.875, 1.875])
    assert results.dq.flatten().tolist() == pytest.approx([0.0, 1.875 * math.log(3.0)])


@pytest.mark.parametrize("case", cases.startup_cases(), ids=lambda case: case.id)
def test_it_agrees_with_torchs_math_path(case: cases.Case) -> None:
    """Output and gradients equal to those of an independent implementation in float64, grouped heads included."""
    arguments, dout = cases.make_inputs(case, CPU)
    ours = reference.float64(arguments, dout)
    q, k, v = (t.double().transpose(1, 2).requires_grad_() for t in (arguments.q, arguments.k, arguments.v))
    with sdpa_kernel(SDPBackend.MATH):
        out = scaled_dot_product_attention(q, k, v, is_causal=case.causal, enable_gqa=True)
    theirs = torch.autograd.grad(out, (q, k, v), dout.double().transpose(1, 2))
    for mine, other in zip((ours.out, ours.dq, ours.dk, ours.dv), (out, *theirs), strict=True):
        torch.testing.assert_close(mine, other.transpose(1, 2), rtol=1e-9, atol=1e-9)


def test_the_two_orders_are_the_same_maths() -> None:
    """In float64 the baseline's formula gives the reference's numbers."""
    arguments, _ = cases.make_inputs(cases.startup_cases()[0], CPU)
    exact = arguments.map(lambda tensor: tensor.double())
    torch.testing.assert_close(reference.reordered(exact), reference.attention(exact), rtol=1e-12, atol=1e-12)


def test_the_baseline_stays_in_the_dtype_of_its_inputs() -> None:
    """A baseline that computed in float32 would be too good, and its budget would refuse right kernels."""
    arguments, dout = cases.make_inputs(cases.startup_cases()[0], CPU)
    plain = reference.plain_torch(arguments, dout)
    assert {getattr(plain, name).dtype for name in ("out", "dq", "dk", "dv")} == {torch.bfloat16}


def test_the_reference_calls_no_attention_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not share a mistake with what it judges."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the reference called scaled_dot_product_attention")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", refuse)
    monkeypatch.setattr(torch._C._nn, "scaled_dot_product_attention", refuse)
    arguments, dout = cases.make_inputs(cases.startup_cases()[0], CPU)
    assert reference.float64(arguments, dout).out.dtype == torch.float64


def test_causal_counts_both_lengths_from_the_end() -> None:
    """With 2 queries and 4 keys, query 0 stands at key 2: FlashAttention's and SDPA's lower-right convention."""
    scores = torch.zeros(1, 1, 2, 4)
    assert reference.future(scores).tolist() == [[False, False, False, True], [False, False, False, False]]
