"""The float64 reference and the low-precision baseline: checked by hand, and against torch's own math path."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402 - after the skip
from torch.nn.functional import scaled_dot_product_attention  # noqa: E402

from entrypoint.probe import cases, oracles, reference  # noqa: E402
from entrypoint.probe.backends import Arguments, Attention, Backend  # noqa: E402
from tests.unit.wrong_kernels import EVERYTHING, Masks  # noqa: E402

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


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_a_product_of_halves_is_rounded_as_torch_rounds_it(name: str) -> None:
    """Computed in float32 it differs from torch's own by the order of the sum: seldom, and then by one rounding."""
    generator, dtype = torch.Generator().manual_seed(1), getattr(torch, name)
    one, other = (torch.randn(1, 64, 2, 96, generator=generator).to(dtype) for _ in range(2))
    mine = reference.product("bihd,bjhd->bhij", one, other)
    theirs = torch.einsum("bihd,bjhd->bhij", one, other)
    exact = torch.einsum("bihd,bjhd->bhij", one.double(), other.double())

    assert mine.dtype == dtype
    assert (mine != theirs).double().mean() < 0.05
    rounding = torch.finfo(dtype).eps * exact.abs().clamp(min=1e-2)
    assert ((mine.double() - exact).abs() <= rounding).all()


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


def visible(arguments: Arguments, seqlen: int, heads: int = 2) -> list[list[list[int]]]:
    """For each head and query the keys that it sees."""
    hidden = reference.hidden(torch.zeros(1, heads, seqlen, seqlen), arguments)
    assert hidden is not None
    rows = hidden.expand(heads, seqlen, seqlen).logical_not()
    return [[row.nonzero().flatten().tolist() for row in head] for head in rows]


def call(**masks: object) -> Arguments:
    q = torch.zeros(1, 1, 1, 1)
    return Arguments(**{"q": q, "k": q, "v": q, "causal": False, **masks})


@pytest.mark.parametrize(
    ("masks", "sees"),
    [
        ({"causal": True}, [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]),
        ({"window": (1, 0)}, [[0], [0, 1], [1, 2], [2, 3]]),
        ({"window": (0, 1)}, [[0, 1], [1, 2], [2, 3], [3]]),
        ({"window": (-1, 0)}, [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]),
        ({"window": (2, 5), "causal": True}, [[0], [0, 1], [0, 1, 2], [1, 2, 3]]),
        ({"cu_seqlens": (0, 1, 1, 4)}, [[0], [1, 2, 3], [1, 2, 3], [1, 2, 3]]),
        ({"cu_seqlens": (0, 2, 4), "causal": True}, [[0], [0, 1], [2], [2, 3]]),
    ],
)
def test_who_sees_whom(masks: dict[str, object], sees: list[list[int]]) -> None:
    """By hand, for four positions: flash-attn's windows, and documents, one of them empty."""
    assert visible(call(**masks), 4) == [sees, sees]


def test_s2_shifts_the_second_half_of_the_heads_and_wraps_nowhere() -> None:
    """Segments of 4 in 8 positions: [0-3] [4-7] for the first half, [0-1] [2-5] [6-7] for the second, each causal."""
    first, second = visible(call(causal=True, shifted_group=4), 8)
    assert [row[0] for row in first] == [0, 0, 0, 0, 4, 4, 4, 4]
    assert [row[0] for row in second] == [0, 0, 2, 2, 2, 2, 6, 6]
    assert [row[-1] for row in first] == [row[-1] for row in second] == list(range(8))


def test_softcap_bends_scores_after_the_scale() -> None:
    """A cap of 1 leaves ln 3 at tanh(ln 3) = 0.8: query 1 weighs the two keys 1 to e^0.8."""
    from dataclasses import replace

    out = reference.attention(replace(small(causal=False), softcap=1.0)).flatten().tolist()
    share = math.exp(0.8) / (1.0 + math.exp(0.8))
    assert out == pytest.approx([15.0, 10.0 + 10.0 * share])


def test_logsumexp_by_hand() -> None:
    """Query 1 has scores 0 and ln 3, so a denominator of 4; with the mask query 0 has one key."""
    assert reference.logsumexp(small(causal=True)).flatten().tolist() == pytest.approx([0.0, math.log(4.0)])


@pytest.mark.parametrize("case", cases.startup_cases(EVERYTHING), ids=lambda case: case.id)
def test_masks_agree_with_others_of_our_own(case: cases.Case) -> None:
    """Written twice, by different rules: here and with the wrong kernels' skeleton."""
    arguments, _ = cases.make_inputs(case, CPU)
    i, j = torch.arange(case.seqlen)[:, None], torch.arange(case.seqlen)[None, :]
    expected = Masks()(i, j, arguments)
    hidden = reference.hidden(torch.zeros(1, case.heads, case.seqlen, case.seqlen), arguments)
    assert torch.equal(torch.zeros_like(expected) if hidden is None else hidden.expand_as(expected), expected)


@pytest.mark.parametrize(("inputs", "causal"), [("mean", True), ("mean", False), ("onehot", False)])
def test_the_oracles_and_the_reference_agree(inputs: str, causal: bool) -> None:
    """Two ways to the same answer, of which one has no attention in it."""
    from dataclasses import replace

    case = next(case for case in cases.INPUTS if case.inputs == inputs)
    arguments, dout = cases.make_inputs(replace(case, causal=causal), CPU)
    known, computed = oracles.ORACLES[case.inputs](arguments, dout), reference.float64(arguments, dout)
    for name in ("out", "dq", "dk", "dv"):
        torch.testing.assert_close(known.tensor(name), computed.tensor(name), rtol=1e-12, atol=1e-12)
    lse = reference.logsumexp(arguments.map(lambda tensor: tensor.double()))
    torch.testing.assert_close(known.lse, lse, rtol=1e-12, atol=1e-12)


def test_layouts_and_kernels_share_one_solution() -> None:
    """Computed once: the same object, not an equal one."""
    from dataclasses import replace

    backend = Backend(name="one", attention=reference.attention)
    other = Backend(name="two", attention=reference.reordered)
    case = replace(cases.CAUSAL_128, seqlen=16)
    solution = reference.solve(case, CPU, backend)
    assert reference.solve(replace(case, id="forced", layout="packed"), CPU, other) is solution
    assert solution.exact.lse is None


def test_no_backward_is_computed_for_a_backend_without_one() -> None:
    """It would cost most of the reference's time."""
    from dataclasses import replace

    backend = Backend(name="one", attention=reference.attention, no_gradient="none")
    solution = reference.solve(replace(cases.CAUSAL_128, seqlen=16), CPU, backend)
    assert solution.exact.dq is None
    assert solution.plain.dq is None
