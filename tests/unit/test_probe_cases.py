"""The startup cases and their inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from entrypoint.probe import cases

CASES = cases.startup_cases()


def test_ids_are_unique() -> None:
    """A case is named by its id in the report, the verdict and the phase in which a child died."""
    assert len({case.id for case in CASES}) == len(CASES)


def test_the_cases_cover_what_a_start_must_prove() -> None:
    """Both masks with both head dims, more than one batch entry and grouped heads, in bfloat16."""
    assert {(case.causal, case.head_dim) for case in CASES} == {(c, d) for c in (True, False) for d in (64, 128)}
    assert all(case.batch >= 2 and case.heads > case.kv_heads > 1 and case.dtype == "bfloat16" for case in CASES)
    assert {case.inputs for case in CASES} == set(cases.FAMILIES)


def test_each_mask_is_run_at_a_length_off_every_tile_size() -> None:
    """Kernels work in tiles of 64 to 128 positions, and the rest of the last one is where they go wrong."""
    assert {case.causal for case in CASES if case.seqlen % 64} == {True, False}
    assert {case.head_dim for case in CASES if case.seqlen % 64} == {64, 128}


def test_a_cpu_times_a_shape_that_is_compiled_already() -> None:
    """A shape of its own would cost a JIT backend another compilation, for a number that judges nothing."""
    assert cases.performance_case("cpu").variant in {case.variant for case in CASES}


def test_a_gpu_times_a_shape_that_fills_it() -> None:
    """Long causal self-attention with head_dim 128, as in the recorded baselines."""
    case = cases.performance_case("cuda")
    assert (case.seqlen, case.head_dim, case.causal, case.heads) == (8192, 128, True, case.kv_heads)


def test_inputs_are_the_same_for_the_same_seed_and_differ_for_another() -> None:
    """A verdict can be repeated."""
    torch = pytest.importorskip("torch")
    here = torch.device("cpu")
    first, dout = cases.make_inputs(CASES[0], here)
    again, dout_again = cases.make_inputs(CASES[0], here)
    other, _ = cases.make_inputs(replace(CASES[0], seed=99), here)
    assert torch.equal(first.q, again.q)
    assert torch.equal(first.v, again.v)
    assert torch.equal(dout, dout_again)
    assert not torch.equal(first.q, other.q)


def test_inputs_have_the_layout_of_the_case() -> None:
    """q and dout [batch, seqlen, heads, head_dim]; k and v with kv_heads; the case's dtype."""
    torch = pytest.importorskip("torch")
    arguments, dout = cases.make_inputs(CASES[0], torch.device("cpu"))
    assert tuple(arguments.q.shape) == tuple(dout.shape) == (2, 333, 8, 64)
    assert tuple(arguments.k.shape) == tuple(arguments.v.shape) == (2, 333, 2, 64)
    assert {tensor.dtype for tensor in (arguments.q, arguments.k, arguments.v, dout)} == {torch.bfloat16}


def test_the_x3_family_is_three_times_as_wide() -> None:
    """q, k and v each; dout stays normal."""
    torch = pytest.importorskip("torch")
    arguments, dout = cases.make_inputs(replace(CASES[0], inputs="x3"), torch.device("cpu"))
    for tensor in (arguments.q, arguments.k, arguments.v):
        assert tensor.float().std().item() == pytest.approx(3.0, rel=0.02)
    assert dout.float().std().item() == pytest.approx(1.0, rel=0.02)
