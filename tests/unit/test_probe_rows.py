"""Sampled rows: they are the square's, they lie where kernels cut, and what is wrong in a long call shows in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from entrypoint.judge.budgets import weigh_case  # noqa: E402 - after the skip
from entrypoint.probe import accuracy, backends, cases, reference, rows  # noqa: E402
from tests.defects.backward import spoiled  # noqa: E402
from tests.unit.wrong_kernels import backend, kernel, rows_up_to  # noqa: E402

CPU = torch.device("cpu")
SMALL = replace(cases.CAUSAL_64, seqlen=140, head_dim=16)
# What each part of a call is alone, and what a model may have together.
CALLS = {
    "causal": SMALL,
    "full": replace(SMALL, causal=False),
    "window": replace(SMALL, window=(50, 0)),
    "window-both": replace(SMALL, causal=False, window=(40, 20)),
    "softcap-scale": replace(SMALL, softcap=5.0, softmax_scale=0.5),
    "packed": replace(SMALL, batch=1, cu_seqlens=(0, 1, 66, 66, 107, 140)),
    "wide-v": replace(SMALL, head_dim_v=24),
    "one-group": replace(SMALL, heads=4, kv_heads=1),
    "shifted": replace(SMALL, seqlen=160, shifted_group=40),
}
LONG = replace(cases.LONG_CPU, seqlen=1100, head_dim=16)


def solved(case: cases.Case) -> reference.Solution:
    return rows.solve(case, CPU, backend(kernel()))


@pytest.mark.parametrize("case", CALLS.values(), ids=CALLS)
def test_rows_are_those_of_the_square(case: cases.Case) -> None:
    """The reference by blocks and rows against the reference over all scores, which shares no line with it."""
    solution = solved(case)
    sample = solution.sample
    assert sample is not None
    square = reference.float64(solution.arguments, solution.dout)
    lse = reference.logsumexp(solution.arguments.map(lambda tensor: tensor.double()))
    for name, whole in {**{name: square.tensor(name) for name in accuracy.TENSORS}, "lse": lse}.items():
        wanted, got = sample.of(name, whole), solution.exact.tensor(name)
        assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("case", CALLS.values(), ids=CALLS)
def test_plain_torch_of_rows_is_as_far_off_as_plain_torch(case: cases.Case) -> None:
    """A budget of rows is then neither slack nor tight beside that of a square."""
    solution = solved(case)
    plain = reference.plain_torch(solution.arguments, solution.dout)
    sample = solution.sample
    assert sample is not None
    for name in accuracy.TENSORS:
        exact: Any = solution.exact.tensor(name)
        whole = (sample.of(name, plain.tensor(name)) - exact).norm() / exact.norm()
        ours = (solution.plain.tensor(name) - exact).norm() / exact.norm()
        assert 0.5 * whole < ours < 1.6 * whole, name


def test_rows_lie_beside_every_place_where_a_kernel_cuts() -> None:
    """First, last, middle, tiles, powers of two and documents, on both sides; and some that nobody can foresee."""
    at = rows.positions(8192, (0, 5000, 8192), seed=1)
    assert {0, 63, 64, 127, 128, 2047, 2048, 2049, 4095, 4096, 4097, 4999, 5000, 8127, 8128, 8191} <= set(at)
    assert at == sorted(set(at))
    assert at != rows.positions(8192, (0, 5000, 8192), seed=2)
    assert rows.positions(1) == [0]


def test_groups_are_the_first_the_last_and_some_between() -> None:
    """No more than a GPU's launches are worth, and all of them where they are few."""
    case = replace(SMALL, batch=8, heads=32, kv_heads=32)
    chosen = rows.groups(case, "cuda")
    assert (chosen[0], chosen[-1], len(chosen)) == ((0, 0), (7, 31), rows.GROUPS["cuda"])
    assert rows.groups(replace(SMALL, batch=1, kv_heads=1, heads=1), "cuda") == ((0, 0),)
    assert rows.groups(replace(SMALL, batch=1), "cpu") == ((0, 0), (0, 1))


def test_blocks_of_queries_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever memory there is."""
    arguments, dout = cases.make_inputs(CALLS["window"], CPU)
    group = rows.Group.of(arguments, dout, 1, 1)
    whole = group.statistics()
    monkeypatch.setitem(rows.BLOCK, "cpu", 7 * 140 * 4)
    parts = group.statistics()
    assert torch.allclose(whole.lse, parts.lse)
    assert torch.allclose(whole.delta, parts.delta, atol=1e-5)


def measured(attention: backends.Attention, case: cases.Case = LONG) -> list[str]:
    """The tensors of a case that are past their budgets."""
    event = accuracy.measure(backend(attention), case, CPU).event(case, 0.0)
    return [weighed.tensor for weighed in weigh_case(event) if not weighed.within]


def test_a_right_kernel_passes_in_a_long_call() -> None:
    """With as many numbers as in a short one."""
    event = accuracy.measure(backend(kernel()), LONG, CPU).event(LONG, 0.0)
    assert set(event.tensors) == {"out", "dq", "dk", "dv", "lse"}
    assert all(weighed.ratio < 0.7 for weighed in weigh_case(event))
    assert LONG.sampled
    assert not SMALL.sampled


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_one_wrong_tile_of_a_gradient_is_seen(name: str) -> None:
    """Beside others a thousand times as large: each row counts by its own size."""

    def tile_zero(gradient: Any) -> Any:
        return gradient * (1.0 - rows_up_to(gradient, 576) * (1.0 - rows_up_to(gradient, 512)))

    assert measured(spoiled(name, tile_zero)) == [f"d{name}"]


def test_a_value_that_is_not_finite_is_seen_where_no_row_is_sampled() -> None:
    """It costs nothing to look at all of them."""
    unseen = next(at for at in range(200, 300) if at not in rows.positions(LONG.seqlen, seed=LONG.seed))

    def spoil(out: Any, _: object) -> Any:
        return out.index_fill(1, torch.tensor([unseen]), float("nan"))

    assert "out" in measured(kernel(result=spoil))


def test_another_shape_is_an_error_that_names_both() -> None:
    """Rows of it would be taken from the wrong places."""
    sample = solved(SMALL).sample
    assert sample is not None
    with pytest.raises(ValueError, match=r"out has shape \(2, 139, 8, 16\), expected \(2, 140, 8, 16\)"):
        sample.of("out", torch.zeros(2, 139, 8, 16))


def test_a_row_of_zeros_is_measured_by_the_others() -> None:
    """The first query's dq is zero in exact arithmetic, and a right kernel's rounding there is no infinite error."""
    sample = rows.Sample(positions=torch.arange(5), groups=((0, 0),), heads=1, shapes={})
    exact = torch.ones(1, 5, 2, dtype=torch.float64)
    exact[:, 0] = 0.0
    (scaled,) = sample.in_units_of_rows("dk", (exact + 1e-3,), exact)
    assert scaled[0, 0].max() == pytest.approx(1e-3 / rows.LEAST_ROW)
    (small,) = sample.in_units_of_rows("dk", (0.5 * exact,), 0.5 * exact)
    assert small[0, 1].max() == pytest.approx(1.0)


@pytest.mark.parametrize("seed", [50_564, 50_667])
def test_a_first_row_whose_softmax_is_one_hot_is_no_alarm(seed: int) -> None:
    """Its dq is next to nothing beside what cancels in it: without that, SDPA is 5.3 and 3.4 times over its budget."""
    case = replace(cases.LONG_CPU, seqlen=1100, seed=seed)
    event = accuracy.measure(backends.load("sdpa", CPU), case, CPU).event(case, 0.0)
    assert all(weighed.ratio < 0.8 for weighed in weigh_case(event))
