"""Where a launch's tensors lie, and what the memory around them holds: NaN, so that whoever reads it is seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from entrypoint.probe.backends import Arguments

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# dense: each tensor contiguous. packed: q, k and v are slices of one tensor, as from a fused projection, and dout is
# transposed in memory. far: the batch stride is past 2^31 elements.
Layout = Literal["dense", "packed", "far"]
FAR = 2**31
# Apart from it, what the tensors of a case take.
NEAR = 2**20
# Every bit set is NaN in float16, bfloat16, float32 and float64.
NAN_BYTE = 255
# Blocks of torch's small pool (to 1 MiB) and large pool, in sizes that kernels ask for outputs and workspaces.
SLACK = (*[2**9] * 32, *[2**16] * 16, *[2**19] * 16, *[2**21] * 16, *[2**23] * 8, *[2**25] * 2)
# Larger free blocks, which only the far layout leaves behind, stay as they are; so does its storage on a CPU, where
# pages that nobody touches cost nothing.
LARGEST_POISON = 2**28


def place(arguments: Arguments, dout: Tensor, layout: Layout, *, requires_grad: bool) -> tuple[Arguments, Tensor]:
    """Copies of the tensors in the layout, q, k and v leaves of their own graph: each launch has its own."""
    originals = (arguments.q, arguments.k, arguments.v, dout)
    copies = {"dense": _dense, "packed": _packed, "far": _far}[layout](originals)
    for copy, original in zip(copies, originals, strict=True):
        copy.copy_(original)
    q, k, v = (copy.detach().requires_grad_(requires_grad) for copy in copies[:3])
    return replace(arguments, q=q, k=k, v=v), copies[3]


def _dense(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    import torch

    return [torch.empty_like(tensor) for tensor in tensors]


def _packed(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    *qkv, dout = tensors
    batch, seqlen = dout.shape[:2]
    widths = [tensor.shape[2] * tensor.shape[3] for tensor in qkv]
    slices = dout.new_empty(batch, seqlen, sum(widths)).split(widths, dim=-1)
    views = [part.unflatten(-1, tensor.shape[2:]) for part, tensor in zip(slices, qkv, strict=True)]
    return [*views, dout.new_empty(batch, dout.shape[2], seqlen, dout.shape[3]).transpose(1, 2)]


def _far(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """Two batch entries FAR apart, and as much before them: an offset that wraps to a negative number lands there."""
    storage = tensors[0].new_empty(far_elements())
    if storage.is_cuda or storage.nbytes <= LARGEST_POISON:
        storage.fill_(float("nan"))
    views, offset = [], FAR
    for tensor in tensors:
        views.append(storage.as_strided(tensor.shape, (FAR + NEAR, *tensor.stride()[1:]), offset))
        offset += tensor[0].numel()
    return views


def far_elements() -> int:
    return 2 * (FAR + NEAR)


def room_for_far(where: torch.device) -> bool:
    """Whether the far layout fits in 16 bits, with half as much again for the rest of the launch. Never on a CPU."""
    import torch

    return where.type == "cuda" and bool(torch.cuda.mem_get_info(where)[0] > 1.5 * 2 * far_elements())


def poison(where: torch.device, sizes: Iterable[int] = ()) -> None:
    """Fill memory that is free, and that the next launch is likely to get, with NaN.

    On a GPU that is every block that torch's allocator keeps, after it has been made to keep some of each size. A CPU's
    allocator keeps no list that can be read; there blocks of these `sizes` in bytes are filled and given back.
    """
    import torch

    if where.type == "cuda":
        slack = [torch.empty(size, dtype=torch.uint8, device=where) for size in SLACK]
        del slack
        sizes = _free_blocks(where)
    filled = [torch.empty(size, dtype=torch.uint8, device=where).fill_(NAN_BYTE) for size in sizes]
    del filled  # all at once, so that no block was filled twice


def _free_blocks(where: torch.device) -> list[int]:
    """Sizes of what the allocator keeps unused, largest first: it serves a request from the block that fits best."""
    import torch

    here = torch.cuda.current_device() if where.index is None else where.index
    segments = [segment for segment in torch.cuda.memory_snapshot() if segment["device"] == here]
    blocks = [block for segment in segments for block in segment["blocks"] if block["state"] == "inactive"]
    return sorted((block["size"] for block in blocks if block["size"] <= LARGEST_POISON), reverse=True)


def changed(arguments: Arguments, dout: Tensor, originals: Arguments, original_dout: Tensor) -> tuple[str, ...]:
    """The names of the tensors, of q, k, v and dout, that differ in any bit from their originals."""
    pairs = {name: (getattr(arguments, name), getattr(originals, name)) for name in ("q", "k", "v")}
    pairs["dout"] = (dout, original_dout)
    return tuple(name for name, (ours, theirs) in pairs.items() if not same_bits(ours, theirs))


def same_bits(left: Tensor | None, right: Tensor | None) -> bool:
    """Bitwise equality of two tensors of one dtype, so that NaN equals itself and 0.0 is not -0.0."""
    import torch

    if left is None or right is None:
        return left is right
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[left.element_size()]
    left, right = (tensor.detach().contiguous().view(integers) for tensor in (left, right))
    return bool(torch.equal(left, right))
