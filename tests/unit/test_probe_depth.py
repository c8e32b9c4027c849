"""What a start runs and what it leaves to a deep check: by backend, and by what is known of the run."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from typing import Any

import pytest

from entrypoint.probe import backends, compact, own, schedule
from entrypoint.probe.backends import Backend, Capabilities, fa2, fa4, flex, sage, sdpa
from entrypoint.probe.cases import Case
from entrypoint.shape import Shape
from tests.unit.wrong_kernels import EVERYTHING

HOPPER = (9, 0)
SHIFTED = replace(EVERYTHING, features=frozenset(("shifted", "gqa", "logsumexp")))
LLAMA = Shape(heads=32, kv_heads=8, head_dim=128, value_dim=128, scale=128**-0.5, rows=4, length=8192, dtype="bfloat16")
GEMMA = replace(LLAMA, heads=8, kv_heads=4, head_dim=256, value_dim=256, scale=0.0625, softcap=50.0)


def claiming(name: str, claims: Capabilities | None, **kernels: Capabilities) -> Backend:
    """A backend that only claims: planning calls nothing."""
    forced = {kernel: claiming(f"{name}-{kernel}", claimed) for kernel, claimed in kernels.items()}
    return Backend(name=name, attention=NotImplemented, capabilities=claims, kernels=forced)


SDPA = replace(claiming("sdpa", sdpa.capabilities(HOPPER), **sdpa.kernel_capabilities(HOPPER)), masked=True)
BACKENDS = {
    "sdpa": SDPA,
    "flex": claiming("flex", flex.capabilities(HOPPER)),
    "s2": claiming("s2", SHIFTED),
    "sage": claiming("sage", sage.capabilities(HOPPER, "1.0.6")),
    "fa2": claiming("fa2", fa2.capabilities(HOPPER)),
    "fa4": claiming("fa4", fa4.capabilities(HOPPER)),
}


def planned(backend: Backend, depth: Any = "start", shape: Shape | None = None) -> schedule.Plan:
    return schedule.plan(backend, "cuda", schedule.Asked(depth=depth, shape=shape), far=True)


def ids(plan: schedule.Plan) -> list[str]:
    return [run.case.id for run in plan.checked]


@pytest.mark.parametrize(("name", "start", "known", "deep"), [("flex", 6, 1, 18), ("s2", 2, 1, 4), ("sage", 6, 1, 13)])
def test_a_start_compiles_few_variants_and_for_a_known_run_one(name: str, start: int, known: int, deep: int) -> None:
    """Each takes seconds on a fresh machine; helpers compile them side by side, but one is never beside itself."""
    counts = [
        len([*planned(BACKENDS[name], depth, shape).variants]) for depth, shape in (("start", None), ("start", LLAMA))
    ]
    assert counts == [start, known]
    assert len([*planned(BACKENDS[name], "deep").variants]) == deep


def test_layers_with_and_without_a_window_are_two_variants() -> None:
    """Each kind of layer calls its own kernel."""
    mixed = replace(LLAMA, window=1024, mixed=True)
    assert len([*planned(BACKENDS["flex"], shape=mixed).variants]) == 2
    assert len([*planned(BACKENDS["flex"], shape=replace(mixed, mixed=False)).variants]) == 1


@pytest.mark.parametrize("name", ["flex", "s2"])
def test_the_number_of_helpers_is_the_number_of_variants(name: str) -> None:
    """Helpers begin before torch is imported, when nobody can plan: the adapter says how many there will be."""
    assert len([*planned(BACKENDS[name]).variants]) == backends.start_variants(name)


@pytest.mark.parametrize("name", ["flex", "s2"])
@pytest.mark.parametrize("shape", [None, replace(LLAMA, window=1024, mixed=True)])
def test_a_check_with_helpers_begins_with_what_it_times(name: str, shape: Shape | None) -> None:
    """Only one process times; all other variants are shared, each once."""
    plan = planned(BACKENDS[name], shape=shape)
    assert plan.own.case in plan.timed
    assert [run.key for run in plan.variants if run.key != plan.own.key] == [run.key for run in plan.shared]


@pytest.mark.parametrize("name", BACKENDS)
def test_a_start_forces_no_kernel_and_names_what_it_leaves_out(name: str) -> None:
    """What is run or named is all that a deep check has; the kernels of cuDNN took most of a start to compile."""
    start, deep = planned(BACKENDS[name]), planned(BACKENDS[name], "deep")
    assert {run.backend.name for run in start.checked} == {name}
    assert [kernel.name for kernel in start.kernels] == [name]
    assert set(start.left_out) == set(ids(deep)) - set(ids(start))
    assert deep.left_out == []


@pytest.mark.parametrize("name", ["sdpa", "fa2", "fa4"])
def test_a_backend_that_is_compiled_already_starts_with_all_of_its_own_cases(name: str) -> None:
    """They cost milliseconds: only forced kernels and the longest of the long are left."""
    left = planned(BACKENDS[name]).left_out
    assert [name for name in left if ":" not in name] == ["full-s4225-d128", "varlen-s8192-d64", "window-s8192-d64"]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("shape", [None, LLAMA])
def test_every_check_sees_more_than_4096_positions(name: str, shape: Shape | None) -> None:
    """At each depth, timed shapes among them: no window that slipped in goes unseen."""
    for depth in ("start", "deep"):
        plan = planned(BACKENDS[name], depth, shape)
        assert max(run.case.seqlen for run in plan.checked) >= 8192
        assert {case.id for case in plan.timed} <= {run.case.id for run in plan.checked} or shape is not None


def test_the_likeliest_comes_first_and_the_most_dangerous_last() -> None:
    """Plain calls, then long ones; offsets past 2^31 at the end."""
    order = ids(planned(SDPA))
    assert order[0] == "causal-d64"
    assert order.index("causal-s8192-d128") < order.index("varlen-d64")
    assert order[-1] == "causal-d64-far"


def test_a_kernel_that_is_asked_for_by_name_is_tried_in_all_cases() -> None:
    """Whoever prefers cuDNN's to torch's choice wants to know."""
    plan = planned(SDPA.kernels["cudnn"])
    assert [run.case for run in plan.always][: len(plan.checked)] == [run.case for run in plan.checked]
    assert "full-d64-low" in ids(plan)


@pytest.mark.parametrize("shape", [None, LLAMA])
def test_what_is_asked_reaches_another_process(shape: Shape | None) -> None:
    """A helper plans as the check does, or it compiles what nobody runs."""
    asked = schedule.Asked(depth="start", shape=shape)
    parser = argparse.ArgumentParser()
    schedule.add_options(parser)
    assert schedule.asked(parser.parse_args(asked.flags)) == asked
    assert schedule.asked(parser.parse_args([])) == schedule.EVERYTHING


# ---- few variants ----


def test_few_variants_have_everything_that_is_claimed() -> None:
    """Each head_dim but 256, both halves, each feature and layout, and every kind of length off the tile."""
    cases = compact.compact_cases(replace(EVERYTHING, head_dims=((64, 64), (96, 96), (192, 128))), far=True)
    assert len({case.variant for case in cases}) == 5
    assert {(case.head_dim, case.head_dim_v or case.head_dim) for case in cases} == {(64, 64), (96, 96), (192, 128)}
    assert {case.dtype for case in cases} == {"bfloat16", "float16"}
    assert {case.layout for case in cases} == {"dense", "packed", "far"}
    assert {case.seqlen % 128 for case in cases} >= {1, 127, 64, 333 % 128}
    assert any(case.softcap and case.window and case.cu_seqlens and not case.causal for case in cases)
    assert any(case.causal and case.window for case in cases)
    assert any(case.kv_heads == 1 for case in cases)


def test_what_is_not_claimed_is_not_run() -> None:
    """A refusal of it would be no defect."""
    claims = replace(EVERYTHING, features=frozenset(("gqa",)), dtypes=("bfloat16",), head_dims=((64, 64),))
    cases = compact.compact_cases(claims, far=False)
    assert {(case.window, case.softcap, case.cu_seqlens, case.layout, case.dtype) for case in cases} == {
        (None, 0.0, None, "dense", "bfloat16")
    }
    assert {"causal-d64", "full-d64", "mqa-d64"} <= {case.id for case in cases}


# ---- the run's own calls ----


def own_of(shape: Shape, name: str = "fa4", where: str = "cuda", *, few: bool = False) -> own.Own:
    return own.own_cases(shape, BACKENDS[name], where, few=few)


def first(shape: Shape, name: str = "fa4", where: str = "cuda") -> Case:
    return own_of(shape, name, where).cases[0]


def test_the_runs_own_call_is_as_configured() -> None:
    """Dims, heads, dtype, length; the scale only where it is not the usual one."""
    case = first(LLAMA)
    assert (case.seqlen, case.heads, case.kv_heads, case.head_dim, case.dtype) == (8192, 32, 8, 128, "bfloat16")
    assert (case.batch, case.causal, case.softmax_scale, case.sampled) == (2, True, None, True)
    assert first(replace(LLAMA, scale=0.1)).softmax_scale == 0.1
    assert first(replace(LLAMA, value_dim=64)).head_dim_v == 64


def test_its_cases_come_first_and_the_generic_ones_are_left_out_by_name() -> None:
    """A start checks what this run uses; a deep check has both."""
    start, deep = planned(SDPA, shape=LLAMA), planned(SDPA, "deep", LLAMA)
    assert all(name.startswith("own-") for name in ids(start))
    assert {"causal-d64", "mqa-d96", "causal-d256", "cudnn:causal-d64"} <= set(start.left_out)
    assert ids(deep)[: len(ids(start))] == ids(start)
    assert "causal-d64" in ids(deep)
    assert start.timed[0].id == "own-s8192-d128"


def test_a_window_is_seen_from_the_position_itself() -> None:
    """transformers counts the position in; a window as long as the sequence is none."""
    windowed = replace(LLAMA, window=4096)
    assert first(windowed).window == (4095, 0)
    assert [case.window for case in own_of(replace(windowed, mixed=True)).timed] == [None, (4095, 0)]
    assert first(replace(LLAMA, window=8192)).window is None


def test_packed_documents_are_long_ones_too() -> None:
    """One document may fill a row: a window that slips in shows in no other."""
    case = first(replace(LLAMA, packed=True))
    ends = case.cu_seqlens or ()
    assert case.batch == 1
    assert max(end - start for start, end in itertools.pairwise(ends)) > 8000
    assert own.documents(20) == (0, 1, 20, 20, 20, 20)


def test_what_the_backend_does_not_claim_is_left_out_in_words() -> None:
    """A refusal would be no defect of the kernel: whether the run may do so is the preflight's to say."""
    gemma = own_of(replace(GEMMA, sinks=True), "sdpa")
    assert gemma.left_out == ("own softcap", "own sinks")
    assert {case.softcap for case in gemma.cases} == {0.0}
    assert {case.softcap for case in own_of(GEMMA, "flex").cases} == {50.0}


def test_memory_and_a_cpu_get_fewer_heads_in_proportion_and_say_what_is_shorter() -> None:
    """At least one kv head with all of its query heads on a GPU."""
    huge = replace(LLAMA, rows=1, length=500_000)
    case, gpu = first(huge), own_of(huge)
    assert (case.seqlen, case.heads / case.kv_heads) == (own.LONGEST["cuda"], 4)
    assert case.batch * case.seqlen * case.heads * case.head_dim <= own.ELEMENTS
    assert gpu.left_out == ("own s500000",)
    cpu = first(LLAMA, "sdpa", "cpu")
    assert (cpu.batch, cpu.seqlen, cpu.heads, cpu.kv_heads) == (1, own.LONGEST["cpu"], 2, 1)
    assert first(replace(LLAMA, packed=True, length=32768), "sdpa").seqlen == own.LONGEST_MASK


def test_other_inputs_use_the_same_variant_where_each_is_compiled() -> None:
    """And a short call where none is; a massive channel only at the scale that it is made for."""
    few, many = own_of(LLAMA, "flex", few=True), own_of(LLAMA)
    assert len({case.variant for case in few.cases}) == 1
    assert (
        {case.inputs for case in few.cases}
        == {case.inputs for case in many.cases}
        == {"normal", "x3", "massive", "low"}
    )
    assert {case.seqlen for case in many.cases} == {8192, 333}
    assert any(case.layout == "packed" for case in many.cases)
    assert {case.inputs for case in own_of(GEMMA, "flex").cases} == {"normal", "x3"}
    assert {case.inputs for case in own_of(replace(LLAMA, scale=1.0)).cases} == {"normal"}


def test_s2_is_shifted_at_the_runs_length() -> None:
    """By LongLoRA's quarter of the sequence, rounded so that it can be halved."""
    case = first(replace(LLAMA, length=2050), "s2")
    assert (case.seqlen, case.shifted_group) == (2048, 512)


def test_ids_are_unique() -> None:
    """A case is named by its id in the report."""
    for shape in (LLAMA, GEMMA, replace(GEMMA, window=1024, mixed=True, packed=True)):
        for backend in BACKENDS.values():
            names = ids(planned(backend, "deep", shape))
            assert len(set(names)) == len(names)
