"""Where tensors lie for a launch, what their neighbourhood holds, and what a launch changed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from entrypoint.probe import cases, memory  # noqa: E402 - after the skip
from entrypoint.probe.accuracy import poison  # noqa: E402
from tests.defects.table import small_far  # noqa: E402

CPU = torch.device("cpu")
LAYOUTS: tuple[memory.Layout, ...] = ("dense", "packed", "far")


@pytest.fixture(autouse=True)
def far_is_near() -> Iterator[None]:
    with small_far():
        yield


def placed(layout: memory.Layout) -> tuple[Any, ...]:
    arguments, dout = cases.make_inputs(cases.CAUSAL_128, CPU)
    there, dout_there = memory.place(arguments, dout, layout, requires_grad=True)
    return arguments, dout, there, dout_there


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_holds_the_same_numbers_in_leaves_of_its_own(layout: memory.Layout) -> None:
    """Nothing is shared with the originals, and q, k and v are where gradients end."""
    arguments, dout, there, dout_there = placed(layout)
    assert memory.changed(there, dout_there, arguments, dout) == ()
    for tensor in (there.q, there.k, there.v):
        assert tensor.is_leaf
        assert tensor.requires_grad
    there.q.data.zero_()
    dout_there.zero_()
    assert memory.changed(there, dout_there, arguments, dout) == ("q", "dout")


def test_packed_slices_one_tensor_and_transposes_dout() -> None:
    """As a fused projection gives q, k and v, and as a model's own transpose gives dout."""
    arguments, _, there, dout = placed("packed")
    width = sum(tensor.shape[2] * tensor.shape[3] for tensor in (arguments.q, arguments.k, arguments.v))
    assert {tensor.untyped_storage().data_ptr() for tensor in (there.q, there.k, there.v)} == {there.q.data_ptr()}
    assert there.q.stride() == (257 * width, width, 128, 1)
    assert there.k.storage_offset() == 8 * 128
    assert dout.stride() == (8 * 257 * 128, 128, 257 * 128, 1)


def test_far_is_past_the_limit_and_what_wraps_lands_in_nan() -> None:
    """Batch 1 begins past FAR elements after batch 0; as much before batch 0 there is NaN."""
    _, _, there, dout = placed("far")
    for tensor in (there.q, there.k, there.v, dout):
        assert tensor.stride(0) > memory.FAR
        wrapped = tensor.storage_offset() + tensor.stride(0) - 2 * memory.FAR
        assert wrapped >= 0
        assert tensor.detach().as_strided((1,), (1,), wrapped).isnan().all()


def test_far_has_no_place_on_a_cpu() -> None:
    """There it would cost gigabytes for a kernel that is no GPU's."""
    assert memory.room_for_far(CPU) is False


def test_poison_is_nan_in_every_float() -> None:
    """Whatever a kernel takes the memory for."""
    filled = torch.full((16,), memory.NAN_BYTE, dtype=torch.uint8)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert filled.view(dtype).isnan().all()


def test_on_a_cpu_blocks_of_the_launchs_sizes_are_filled_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which block the C library gives next is its own affair; that those it has of that size hold NaN is ours."""
    arguments, dout = cases.make_inputs(replace(cases.CAUSAL_64, seqlen=16), CPU)
    taken: list[Any] = []
    empty = torch.empty

    def watched(*sizes: Any, **kwargs: Any) -> Any:
        taken.append(empty(*sizes, **kwargs))
        return taken[-1]

    monkeypatch.setattr(torch, "empty", watched)
    poison(arguments, dout, CPU)()
    assert {arguments.q.nbytes, arguments.k.nbytes, 2 * arguments.q.nbytes} <= {block.nbytes for block in taken}
    assert all((block == memory.NAN_BYTE).all() for block in taken)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ([1.0, math.nan], [1.0, math.nan], True),
        ([0.0], [-0.0], False),
        ([1.0], [1.0 + 2**-23], False),
    ],
)
def test_equality_is_of_bits(left: list[float], right: list[float], same: bool) -> None:
    """NaN equals itself, zero has a sign, and the last bit counts."""
    assert memory.same_bits(torch.tensor(left), torch.tensor(right)) is same


def test_a_tensor_that_is_missing_equals_none_alone() -> None:
    """A gradient that is there in one run and not in the other is a difference."""
    assert memory.same_bits(None, None)
    assert not memory.same_bits(None, torch.zeros(1))
