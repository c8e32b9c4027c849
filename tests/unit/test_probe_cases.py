"""The startup cases, what a backend's claims make of them, and their inputs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from entrypoint.probe import cases
from entrypoint.probe.backends import Capabilities, Feature
from tests.unit.wrong_kernels import EVERYTHING

UNCLAIMED = cases.startup_cases()
CASES = cases.startup_cases(EVERYTHING, far=True)
BY_ID = {case.id: case for case in CASES}


def claiming(**changes: Any) -> Capabilities:
    return replace(EVERYTHING, **changes)


def without(*features: Feature) -> set[str]:
    """Ids of the cases of a backend that claims everything but these."""
    return {case.id for case in cases.startup_cases(claiming(features=EVERYTHING.features - set(features)))}


def test_ids_are_unique() -> None:
    """A case is named by its id in the report, the verdict and the phase in which a child died."""
    assert len(BY_ID) == len(CASES)


def test_a_backend_that_claims_nothing_gets_the_least() -> None:
    """Both masks with both head dims and two input families, batches and grouped heads, in bfloat16."""
    assert {(case.causal, case.head_dim) for case in UNCLAIMED} == {(c, d) for c in (True, False) for d in (64, 128)}
    assert all(case.batch >= 2 and case.heads > case.kv_heads > 1 and case.dtype == "bfloat16" for case in UNCLAIMED)
    assert {case.inputs for case in UNCLAIMED} == {"normal", "x3"}
    assert {case.layout for case in UNCLAIMED} == {"dense"}


def test_everything_claimed_is_everything_checked() -> None:
    """Each head_dim, dtype, feature, layout and input family is in some case."""
    dims = {(case.head_dim, case.head_dim_v or case.head_dim) for case in CASES}
    assert dims == set(EVERYTHING.head_dims)
    assert {case.dtype for case in CASES} == set(EVERYTHING.dtypes)
    assert {case.inputs for case in CASES} == set(cases.FAMILIES)
    assert {case.layout for case in CASES} == {"dense", "packed", "far"}
    assert {case.kv_heads == 1 for case in CASES} == {True, False}
    assert any(case.window == (100, 0) and case.causal for case in CASES)
    assert any(case.window and not case.causal and min(case.window) > 0 for case in CASES)
    assert any(case.softcap for case in CASES)
    assert any(case.shifted_group for case in CASES)


def test_lengths_are_off_the_tile_in_every_way() -> None:
    """One past, one short and 64 past a tile of 128, and an odd length far from one."""
    assert {case.seqlen % 128 for case in CASES} >= {1, 127, 64, 333 % 128}


def test_documents_have_length_one_and_none_too() -> None:
    """And lengths of a tile, one more, one less and half of one."""
    ends = cases.VARLEN_64.cu_seqlens or ()
    lengths = [end - start for start, end in itertools.pairwise(ends)]
    assert {0, 1, 127, 129, 192} == set(lengths)
    assert sum(lengths) == cases.VARLEN_64.seqlen
    assert cases.VARLEN_64.batch == 1


@pytest.mark.parametrize(
    ("feature", "gone"),
    [
        ("window", {"window-d64", "window-both-d64"}),
        ("softcap", {"softcap-d64"}),
        ("varlen", {"varlen-d64", "varlen-d64-leak"}),
        ("strided", {"causal-d128-strided"}),
        ("shifted", {"s2-d64", "s2-d128", "s2-d64-x3"}),
        ("logsumexp", set[str]()),
    ],
)
def test_what_is_not_claimed_is_not_run(feature: Feature, gone: set[str]) -> None:
    """A refusal of it would be no defect."""
    assert without() - without(feature) == gone


def test_without_grouped_heads_every_query_head_has_its_own() -> None:
    """The same cases, ungrouped."""
    ungrouped = cases.startup_cases(claiming(features=EVERYTHING.features - {"gqa"}))
    assert [case.id for case in ungrouped] == [case.id for case in CASES if case.layout != "far"]
    assert all(case.kv_heads == case.heads for case in ungrouped)


def test_without_head_dim_96_multi_query_is_run_at_64() -> None:
    """It must not go unchecked for want of a head_dim."""
    ids = {case.id for case in cases.startup_cases(claiming(head_dims=((64, 64), (128, 128))))}
    assert "mqa-d64" in ids
    assert not ids & {"mqa-d96", "causal-d256", "causal-d192-v128"}


def test_a_chip_without_bfloat16_is_checked_in_float16() -> None:
    """Turing."""
    turing = cases.startup_cases(claiming(dtypes=("float16",)))
    assert {case.dtype for case in turing} == {"float16"}
    assert {"causal-d64", "full-d128-x3"} <= {case.id for case in turing}


def test_a_backend_that_is_always_shifted_gets_such_calls_alone() -> None:
    """S2 computes nothing else; and a backend that is nothing but shifted has grouped heads there."""
    claims = claiming(features=frozenset({"shifted", "gqa", "strided"}))
    assert [case.id for case in cases.startup_cases(claims)] == ["s2-d64", "s2-d128", "s2-d64-x3"]
    assert all(case.shifted_group and case.seqlen % case.shifted_group == 0 for case in cases.SHIFTED)


def test_the_likeliest_defects_come_first_and_the_most_dangerous_last() -> None:
    """Plain causal attention first; offsets past 2^31, which may take the device with them, at the end."""
    assert CASES[0].id == "causal-d64"
    assert CASES[-1].layout == "far"
    assert "far" not in {case.layout for case in cases.startup_cases(EVERYTHING)}


def test_inputs_and_seeds_share_a_kernel() -> None:
    """Compilation is paid once for each variant: 13 input families and oracles cost none."""
    assert BY_ID["causal-d64"].variant == BY_ID["causal-d64-massive"].variant == BY_ID["causal-d64-mean"].variant
    assert BY_ID["causal-d64"].variant != BY_ID["window-d64"].variant
    assert len({case.variant for case in cases.INPUTS} - {case.variant for case in (*cases.BASE, *cases.FEATURES)}) == 0


def test_layouts_share_an_answer() -> None:
    """The same inputs elsewhere in memory; the reference is computed once."""
    assert BY_ID["causal-d128"].problem == BY_ID["causal-d128-strided"].problem
    assert BY_ID["causal-d64"].problem == BY_ID["causal-d64-far"].problem
    assert BY_ID["causal-d64"].problem != BY_ID["causal-d64-x3"].problem


def test_a_cpu_times_a_shape_that_is_compiled_already() -> None:
    """A shape of its own would cost a JIT backend another compilation, for a number that judges nothing."""
    assert cases.performance_case("cpu").variant in {case.variant for case in UNCLAIMED}


def test_a_gpu_times_a_shape_that_fills_it() -> None:
    """Long causal self-attention with head_dim 128, as in the recorded baselines."""
    case = cases.performance_case("cuda")
    assert (case.seqlen, case.head_dim, case.causal, case.heads) == (8192, 128, True, case.kv_heads)


# --- inputs -----------------------------------------------------------------------------------------------------


def inputs(case: cases.Case) -> tuple[Any, Any]:
    torch = pytest.importorskip("torch")
    return cases.make_inputs(case, torch.device("cpu"))


def test_inputs_are_the_same_for_the_same_seed_and_differ_for_another() -> None:
    """A verdict can be repeated."""
    torch = pytest.importorskip("torch")
    first, dout = inputs(CASES[0])
    again, dout_again = inputs(CASES[0])
    other, _ = inputs(replace(CASES[0], seed=99))
    assert torch.equal(first.q, again.q)
    assert torch.equal(first.v, again.v)
    assert torch.equal(dout, dout_again)
    assert not torch.equal(first.q, other.q)


@pytest.mark.parametrize("case", CASES, ids=BY_ID)
def test_inputs_have_the_layout_of_the_case(case: cases.Case) -> None:
    """q [batch, seqlen, heads, head_dim], dout with head_dim_v; k and v with kv_heads; the case's dtype; all finite."""
    arguments, dout = inputs(case)
    head_dim_v = case.head_dim_v or case.head_dim
    assert tuple(arguments.q.shape) == (case.batch, case.seqlen, case.heads, case.head_dim)
    assert tuple(arguments.k.shape) == (case.batch, case.seqlen, case.kv_heads, case.head_dim)
    assert tuple(arguments.v.shape) == (case.batch, case.seqlen, case.kv_heads, head_dim_v)
    assert tuple(dout.shape) == (case.batch, case.seqlen, case.heads, head_dim_v)
    for tensor in (arguments.q, arguments.k, arguments.v, dout):
        assert str(tensor.dtype) == f"torch.{case.dtype}"
        assert tensor.isfinite().all()


def test_the_call_carries_the_cases_features() -> None:
    """What Arguments lacked, no backend would be asked."""
    fields = ("causal", "window", "softcap", "cu_seqlens", "shifted_group")
    for case in CASES:
        arguments, _ = inputs(case)
        assert [getattr(arguments, name) for name in fields] == [getattr(case, name) for name in fields]


@pytest.mark.parametrize(("family", "factor"), [("x3", 3.0), ("x5", 5.0)])
def test_scaled_families_are_as_wide_as_they_say(family: str, factor: float) -> None:
    """q, k and v each; dout stays normal."""
    arguments, dout = inputs(replace(CASES[0], inputs=family))
    for tensor in (arguments.q, arguments.k, arguments.v):
        assert tensor.float().std().item() == pytest.approx(factor, rel=0.02)
    assert dout.float().std().item() == pytest.approx(1.0, rel=0.02)


def test_uniform_inputs_have_no_sign() -> None:
    """[0, 1), as torch's own tests draw them (1 itself by rounding to bfloat16)."""
    arguments, _ = inputs(BY_ID["causal-d128-uniform"])
    assert arguments.q.min() >= 0.0
    assert arguments.q.max() <= 1.0
    assert arguments.k.float().mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("name", "low", "high"), [("causal-d64-massive", 88.8, 150.0), ("full-d64-low", -150.0, -88.8)]
)
def test_logsumexp_is_past_what_float32s_exp_can_hold(name: str, low: float, high: float) -> None:
    """In every row: exp(88.8) is infinite, and exp of minus a logsumexp below -88.7 as well."""
    from entrypoint.probe import reference

    arguments, _ = inputs(BY_ID[name])
    lse = reference.logsumexp(arguments.map(lambda tensor: tensor.double()))
    assert low < lse.min() <= lse.max() < high


def test_a_channel_overflows_float16_before_the_scale() -> None:
    """The product alone is past 65504, and the score itself is not."""
    arguments, _ = inputs(BY_ID["causal-d64-float16-overflow"])
    channel = arguments.q[..., 0].double() * arguments.k[:, :, :1, 0].double()
    assert channel.min() > 65504
    assert channel.max() / 8 < 65504


def test_a_key_of_an_earlier_document_would_take_over_the_softmax() -> None:
    """It scores 6 more than every key of the next document: 400 times the weight."""
    arguments, _ = inputs(BY_ID["varlen-d64-leak"])
    bump = arguments.q[0, 0, 0, 0] * (arguments.k[0, 0, 0, 0] - arguments.k[0, 130, 0, 0]) / 8
    assert bump.item() >= 6.0
