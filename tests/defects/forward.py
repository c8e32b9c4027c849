"""Mistakes in the forward: softmax, masks, features, heads, and what is written out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from entrypoint.probe.backends import Arguments, Attention
from tests.unit.wrong_kernels import Masks, Parts, kernel, rows_up_to, softmax

TILE = 64


def softmaxes() -> dict[str, Attention]:
    import torch

    def by_tile(scores: Any) -> Any:
        """Online softmax that forgets to rescale what it has when the maximum grows."""
        tiles = [(s - s.amax(-1, keepdim=True)).exp() for s in scores.split(TILE, dim=-1)]
        p = torch.cat(tiles, dim=-1) * (scores > -1e29)
        return p / p.sum(-1, keepdim=True)

    def without_maximum(scores: Any) -> Any:
        return scores.exp() / scores.exp().sum(-1, keepdim=True)

    return {
        "scale 5 % off": kernel(scale=1.05),
        "scale forgotten": kernel(scale=math.sqrt(128)),
        "scale of head_dim_v": lambda a: kernel(scale=math.sqrt(a.q.shape[-1] / a.v.shape[-1]))(a),
        "weights not normalised": kernel(weights=lambda s: softmax(s) * 1.05),
        "exp2 without log2(e)": kernel(weights=lambda s: softmax(s * math.log(2.0))),
        "maximum not subtracted": kernel(weights=without_maximum),
        "earlier tiles not rescaled": kernel(weights=by_tile),
        "logits clipped at 50": kernel(scores=lambda s: s.clamp(-50.0, 50.0)),
        "weights below 1 % dropped": kernel(weights=lambda s: softmax(s) * (softmax(s) > 0.01)),
    }


def masks() -> dict[str, Attention]:
    def last_tile_dropped(i: Any, j: Any, a: Arguments) -> Any:
        return Masks()(i, j, a) | (j >= a.k.shape[1] // TILE * TILE)

    def padded(i: Any, j: Any, a: Arguments) -> Any:
        """Causal counted from the end of the last tile instead of the last position: top-left against bottom-right."""
        return Masks(causal=-a.k.shape[1] % TILE)(i, j, a)

    def first_tile_of_both(i: Any, j: Any, a: Arguments) -> Any:
        return Masks()(i, j, a) & ((i >= TILE) | (j >= TILE))

    return {
        "mask shows the next token": kernel(hidden=Masks(causal=1)),
        "mask hides the diagonal": kernel(hidden=Masks(causal=-1)),
        "mask ignored": kernel(hidden=Masks(causal=None)),
        "always causal": kernel(hidden=lambda i, j, a: Masks()(i, j, replace(a, causal=True))),
        "causal aligned to the padded length": kernel(hidden=padded),
        "mask skipped in the first tile": kernel(hidden=first_tile_of_both),
        "a window of 128 that nobody asked for": kernel(hidden=lambda i, j, a: Masks()(i, j, a) | (j < i - 128)),
        "last tile dropped": kernel(hidden=last_tile_dropped),
        "last key dropped": kernel(hidden=lambda i, j, a: Masks()(i, j, a) | (j == a.k.shape[1] - 1) & (i != j)),
    }


def long_calls() -> dict[str, Attention]:
    """What only calls of thousands of positions show."""
    import torch

    def lost_tile(i: Any, j: Any, a: Arguments) -> Any:
        """Keys 2,048 to 2,111 are seen by none but their own tile's queries."""
        return Masks()(i, j, a) | (j // TILE == 32) & (i // TILE != 32)

    def last_split(i: Any, j: Any, a: Arguments) -> Any:
        """Of keys in eight parts, as many as make it worth while, the last is not added up."""
        keys = a.k.shape[1]
        return Masks()(i, j, a) | (keys >= 2048) & (j >= keys - keys // 8) & (i != j)

    def wrapped(tensor: Any) -> Any:
        return tensor[:, torch.arange(tensor.shape[1]) % 4096]

    def window(width: int) -> Attention:
        return kernel(hidden=lambda i, j, a: Masks()(i, j, a) | (j < i - width))

    return {
        "a window of 1,024 that nobody asked for": window(1024),
        "a window of 4,096 that nobody asked for": window(4096),
        "a tile beyond 2,048 lost": kernel(hidden=lost_tile),
        "index of k and v wraps at 4,096": kernel(inputs=lambda a: replace(a, k=wrapped(a.k), v=wrapped(a.v))),
        "the last part of split keys dropped": kernel(hidden=last_split),
    }


def features() -> dict[str, Attention]:
    def joined(at: Any, cu_seqlens: tuple[int, ...]) -> Any:
        """The document of the position before: each document's first position goes to the one before it."""
        return sum((at > end).long() for end in cu_seqlens[1:])

    def empty_as_one(at: Any, cu_seqlens: tuple[int, ...]) -> Any:
        lengths = [max(end - start, 1) for start, end in itertools.pairwise(cu_seqlens)]
        return sum((at >= sum(lengths[: index + 1])).long() for index in range(len(lengths)))

    def single_is_zero(out: Any, a: Arguments) -> Any:
        ends = a.cu_seqlens or ()
        singles = [start for start, end in itertools.pairwise(ends) if end == start + 1]
        return out * out.new_tensor([at not in singles for at in range(out.shape[1])])[:, None, None]

    return {
        "window one wider to the left": kernel(hidden=Masks(left=1)),
        "window one narrower to the left": kernel(hidden=Masks(left=-1)),
        "window one wider to the right": kernel(hidden=Masks(right=1)),
        "window one narrower to the right": kernel(hidden=Masks(right=-1)),
        "window ignored": kernel(hidden=Masks(left=None, right=None)),
        "right bound of the window ignored": kernel(hidden=Masks(right=None)),
        "window drops causal": kernel(hidden=lambda i, j, a: Masks(causal=None if a.window else 0)(i, j, a)),
        "softcap ignored": kernel(capped=lambda s, cap: s),
        "softcap in the forward alone": kernel(capped=lambda s, cap: s + (Parts().capped(s, cap) - s).detach()),
        "softcap before the scale": kernel(capped=lambda s, cap: Parts().capped(s * 8.0, cap) / 8.0),
        "documents leak": kernel(hidden=Masks(documents=lambda at, _: at * 0)),
        "documents leak by one position": kernel(hidden=Masks(documents=joined)),
        "the last document leaks": kernel(hidden=lambda i, j, a: Masks()(i, j, _without_last_boundary(a))),
        "document of length 0 taken as 1": kernel(hidden=Masks(documents=empty_as_one)),
        "document of length 1 left at zero": kernel(result=single_is_zero),
    }


def _without_last_boundary(a: Arguments) -> Arguments:
    return a if a.cu_seqlens is None else replace(a, cu_seqlens=(*a.cu_seqlens[:-2], a.cu_seqlens[-1]))


def shifted() -> dict[str, Attention]:
    import torch

    def rolled(i: Any, j: Any, a: Arguments) -> Any:
        """LongLoRA's variant without varlen: its last shifted segment wraps around, so the first tokens see the end."""
        if a.shifted_group is None:
            return Masks()(i, j, a)
        group, heads, seqlen = a.shifted_group, a.q.shape[2], a.q.shape[1]
        shift = (torch.arange(heads) >= heads // 2).long()[:, None, None] * (group // 2)
        at_i, at_j = (i - shift) % seqlen, (j - shift) % seqlen
        return (at_i // group != at_j // group) | (at_j > at_i)

    def future_of_segment(i: Any, j: Any, a: Arguments) -> Any:
        return Masks(causal=None if a.shifted_group else 0)(i, j, a)

    def of_heads(choose: Callable[[Any, int], Any], part: int = 2) -> Attention:
        def segments(at: Any, group: int, heads: int) -> Any:
            shift = choose(torch.arange(heads), heads).long() * (group // part)
            return (at + shift[:, None, None]) // group

        return kernel(hidden=Masks(segments=segments))

    return {
        "S2 does not shift": of_heads(lambda head, heads: head < 0),
        "S2 shifts every head": of_heads(lambda head, heads: head >= 0),
        "S2 shifts the first half": of_heads(lambda head, heads: head < heads // 2),
        "S2 shifts every second head": of_heads(lambda head, heads: head % 2 == 1),
        "S2 shifts by a quarter of the group": of_heads(lambda head, heads: head >= heads // 2, part=4),
        "S2 wraps around into the future": kernel(hidden=rolled),
        "S2 shows the segment's future": kernel(hidden=future_of_segment),
    }


def heads_and_batches() -> dict[str, Attention]:
    return {
        "kv heads interleaved": kernel(kv_of=lambda head, heads, kv_heads: head % kv_heads),
        "one kv head for all": kernel(kv_of=lambda head, heads, kv_heads: 0),
        "last query head uses the wrong group": kernel(
            kv_of=lambda head, heads, kv_heads: 0 if head == heads - 1 else head // (heads // kv_heads)
        ),
        "k of batch 0 for all": kernel(inputs=lambda a: replace(a, k=_first_of_batch(a.k))),
        "v of batch 0 for all": kernel(inputs=lambda a: replace(a, v=_first_of_batch(a.v))),
        "batch entries exchanged": kernel(inputs=lambda a: replace(a, q=a.q.flip(0))),
        "k for v": kernel(inputs=lambda a: replace(a, v=a.k[..., : a.v.shape[-1]])),
    }


def _first_of_batch(tensor: Any) -> Any:
    return tensor[:1].expand_as(tensor)


def outputs() -> dict[str, Attention]:
    import torch

    def nan_in_one(out: Any, a: Arguments) -> Any:
        spoiled_out = out.clone()
        spoiled_out[-1, 7, 3, 5] = math.nan
        return spoiled_out

    def unwritten(out: Any, a: Arguments) -> Any:
        """Memory that nobody wrote to: a launch that never happened, with no error anywhere."""
        return out * 0.0 + torch.empty_like(out).detach()

    def tail_unwritten(out: Any, a: Arguments) -> Any:
        whole = torch.empty_like(out)
        whole[:, : out.shape[1] // TILE * TILE] = 0.0
        keep = rows_up_to(out, out.shape[1] // TILE * TILE)
        return out * keep + whole

    def dirty_workspace(out: Any, a: Arguments) -> Any:
        """What it did not initialise, times zero: right in clean memory, NaN in dirty (FlashAttention's varlen)."""
        return out + (torch.empty(out.shape) * 0.0).to(out.dtype)

    return {
        "output left at zero": kernel(result=lambda out, a: out * 0.0),
        "output never written": kernel(result=unwritten),
        "last tile of the output never written": kernel(result=tail_unwritten),
        "workspace not initialised": kernel(result=dirty_workspace),
        "output of the call before": _stale(),
        "last query row is zero": kernel(result=lambda out, a: out * rows_up_to(out, out.shape[1] - 1)),
        "NaN in one element": kernel(result=nan_in_one),
        "heads swapped in the output": kernel(result=lambda out, a: out.roll(1, dims=2)),
        "output rounded to 5 bits": kernel(result=lambda out, a: _coarse(out)),
    }


def _coarse(out: Any) -> Any:
    """As an 8-bit float would hold it, in the forward; the gradient passes."""
    mantissa, exponent = out.detach().float().frexp()
    return out + (((mantissa * 16).round() / 16).ldexp(exponent).to(out.dtype) - out).detach()


def _stale() -> Attention:
    kept: dict[Any, Any] = {}
    right = kernel()

    def attention(a: Arguments) -> Any:
        out = right(a)
        before = kept.get(out.shape, out.detach() * 0.0)
        kept[out.shape] = out.detach()
        return out + (before - out).detach()

    return attention
