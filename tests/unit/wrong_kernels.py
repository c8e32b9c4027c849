"""Deliberately wrong attention kernels: what the check must find. Each is one mistake in an otherwise exact kernel.

They compute in float32 and round once, so that apart from their mistake they are better than plain torch in bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from entrypoint.probe.backends import Arguments, Attention

Change = Callable[[Any], Any]
TILE = 64


def kernel(  # noqa: PLR0913 - one argument for each part that can be wrong
    *,
    scale: float = 1.0,
    hidden: Callable[[Any, Any, int], Any] | None = None,
    kv_of: Callable[[int, int, int], int] = lambda head, heads, kv_heads: head // (heads // kv_heads),
    inputs: Callable[[Arguments], Arguments] = lambda arguments: arguments,
    expanded_k: Change = lambda k: k,
    weights: Change = lambda p: p,
    result: Callable[[Any, Arguments], Any] = lambda out, arguments: out,
) -> Attention:
    """An attention function with one part replaced; with no argument it is right.

    `hidden(i, j, seqlen)` is True where query i must not see key j, instead of the causal mask; `kv_of` maps a query
    head to its kv head; `inputs`, `expanded_k`, `weights` and `result` change what goes in, k with one head for each
    query head, the softmax, and what comes out.
    """
    import torch

    def attention(arguments: Arguments) -> Any:
        changed = inputs(arguments)
        heads, kv_heads = changed.q.shape[2], changed.k.shape[2]
        index = torch.tensor([kv_of(head, heads, kv_heads) for head in range(heads)])
        q, k, v = changed.q.float(), changed.k.float()[:, :, index], changed.v.float()[:, :, index]
        scores = torch.einsum("bihd,bjhd->bhij", q, expanded_k(k)) * (scale * q.shape[-1] ** -0.5)
        i, j = torch.arange(q.shape[1])[:, None], torch.arange(k.shape[1])[None, :]
        mask = hidden(i, j, k.shape[1]) if hidden else (j > i) & changed.causal
        p = weights(torch.softmax(scores.masked_fill(mask & (j > 0), -math.inf), dim=-1))
        out = torch.einsum("bhij,bjhd->bihd", p, v).to(arguments.q.dtype)
        return result(out, arguments)

    return attention


def spoil(change: Change) -> Change:
    """An identity whose gradient is changed on its way back."""
    import torch

    class Spoil(torch.autograd.Function):  # type: ignore[misc]  # torch is Any to mypy
        @staticmethod
        def forward(ctx: Any, tensor: Any) -> Any:
            return tensor.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return change(gradient)

    return Spoil.apply  # type: ignore[no-any-return]


def spoiled(name: str, change: Change) -> Attention:
    """A right output and one wrong gradient."""
    from dataclasses import replace

    return kernel(inputs=lambda arguments: replace(arguments, **{name: spoil(change)(getattr(arguments, name))}))


def _only(condition: Callable[[Arguments], bool], wrong: Attention) -> Attention:
    right = kernel()
    return lambda arguments: (wrong if condition(arguments) else right)(arguments)


def _first_of_batch(tensor: Any) -> Any:
    return tensor[:1].expand_as(tensor)


def _last_tile_dropped(i: Any, j: Any, seqlen: int) -> Any:
    return (j > i) | (j >= seqlen // TILE * TILE)


def _rows_up_to(tensor: Any, count: int) -> Any:
    """1 for the first `count` positions of [batch, seqlen, heads, head_dim], 0 for the rest."""
    return (tensor.new_ones(tensor.shape[1]).cumsum(0, dtype=float) <= count).to(tensor.dtype)[:, None, None]


def _nan_in_one_element(out: Any, arguments: Arguments) -> Any:
    spoiled_out = out.clone()
    spoiled_out[1, 7, 3, 5] = math.nan
    return spoiled_out


def _without_the_last_head(gradient: Any) -> Any:
    """Of a gradient [batch, seqlen, heads, head_dim]: the sum over the last group then misses one of its heads."""
    return gradient * (gradient.new_ones(gradient.shape[2]).cumsum(0) < gradient.shape[2])[:, None]


def wrong_kernels() -> dict[str, Attention]:
    """Every defect by name."""
    from dataclasses import replace

    return {
        "scale 5 % off": kernel(scale=1.05),
        "scale forgotten": kernel(scale=math.sqrt(128)),
        "mask shows the next token": kernel(hidden=lambda i, j, n: j > i + 1),
        "mask hides the diagonal": kernel(hidden=lambda i, j, n: j >= i),
        "mask ignored": kernel(hidden=lambda i, j, n: j > n),
        "always causal": kernel(hidden=lambda i, j, n: j > i),
        "window of 128": kernel(hidden=lambda i, j, n: (j > i) | (j < i - 128)),
        "last tile dropped": kernel(hidden=_last_tile_dropped),
        "kv heads interleaved": kernel(kv_of=lambda head, heads, kv_heads: head % kv_heads),
        "one kv head for all": kernel(kv_of=lambda head, heads, kv_heads: 0),
        "k of batch 0 for all": kernel(inputs=lambda a: replace(a, k=_first_of_batch(a.k))),
        "v of batch 0 for all": kernel(inputs=lambda a: replace(a, v=_first_of_batch(a.v))),
        "weights not normalised": kernel(weights=lambda p: p * 1.05),
        "output left at zero": kernel(result=lambda out, a: out * 0.0),
        "last query row is zero": kernel(result=lambda out, a: out * _rows_up_to(out, out.shape[1] - 1)),
        "NaN in one element": kernel(result=_nan_in_one_element),
        "heads swapped in the output": kernel(result=lambda out, a: out.roll(1, dims=2)),
        "wrong for head_dim 128 only": _only(lambda a: a.q.shape[-1] == 128, kernel(scale=0.9)),
        "wrong for odd lengths only": _only(lambda a: a.q.shape[1] % 2 == 1, kernel(scale=0.9)),
        "dQ zero": spoiled("q", lambda g: g * 0.0),
        "dQ 5 times too large": spoiled("q", lambda g: g * 5.0),
        "dQ of another batch": spoiled("q", lambda g: g.flip(0)),
        "dK scaled by 1.1": spoiled("k", lambda g: g * 1.1),
        "dK misses a head of its group": kernel(expanded_k=spoil(_without_the_last_head)),
        "dK of swapped kv heads": spoiled("k", lambda g: g.flip(2)),
        "dV of another batch": spoiled("v", lambda g: g.flip(0)),
        "dV lacks its last tile": spoiled("v", lambda g: g * _rows_up_to(g, g.shape[1] - TILE)),
        "dV is NaN": spoiled("v", lambda g: g * math.nan),
    }
