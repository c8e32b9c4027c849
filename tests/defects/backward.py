"""Mistakes in the backward: the output is right, and a gradient is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from entrypoint.probe.backends import Attention
from tests.unit.wrong_kernels import Change, kernel, rows_up_to

TILE = 64


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
    return kernel(inputs=lambda a: replace(a, **{name: spoil(change)(getattr(a, name))}))


def softmax_with(backward: Callable[[Any, Any], Any]) -> Change:
    """A right softmax whose gradient is `backward(p, dp)`."""
    import torch

    class Softmax(torch.autograd.Function):  # type: ignore[misc]  # torch is Any to mypy
        @staticmethod
        def forward(ctx: Any, scores: Any) -> Any:
            p = torch.softmax(scores, dim=-1)
            ctx.save_for_backward(p)
            return p

        @staticmethod
        def backward(ctx: Any, dp: Any) -> Any:
            return backward(ctx.saved_tensors[0], dp)

    return Softmax.apply  # type: ignore[no-any-return]


def gradients() -> dict[str, Attention]:
    def first_tile_alone(p: Any, dp: Any) -> Any:
        return p * (dp - (p * dp)[..., :TILE].sum(-1, keepdim=True))

    def without_last_head(gradient: Any) -> Any:
        """Of a gradient [batch, seqlen, heads, head_dim]: the sum over the last group then misses one of its heads."""
        return gradient * (gradient.new_ones(gradient.shape[2]).cumsum(0) < gradient.shape[2])[:, None]

    def of_group_mean(name: str) -> Attention:
        return lambda a: spoiled(name, lambda g: g / (a.q.shape[2] // g.shape[2]))(a)

    return {
        "dQ zero": spoiled("q", lambda g: g * 0.0),
        "dQ 5 times too large": spoiled("q", lambda g: g * 5.0),
        "dQ of another batch": spoiled("q", lambda g: g.flip(0)),
        "dQ of the last batch entry zero": spoiled("q", last_of_batch_zero),
        "dQ lacks its last tile": spoiled("q", lambda g: g * rows_up_to(g, g.shape[1] // TILE * TILE)),
        "dK zero": spoiled("k", lambda g: g * 0.0),
        "dK scaled by 1.1": spoiled("k", lambda g: g * 1.1),
        "dK misses a head of its group": kernel(expanded_k=spoil(without_last_head)),
        "dK of swapped kv heads": spoiled("k", lambda g: g.flip(2)),
        "dK averaged over its group": of_group_mean("k"),
        "dV zero": spoiled("v", lambda g: g * 0.0),
        "dV 2 % too small": spoiled("v", lambda g: g * 0.98),
        "dV of another batch": spoiled("v", lambda g: g.flip(0)),
        "dV lacks its last tile": spoiled("v", lambda g: g * rows_up_to(g, g.shape[1] - TILE)),
        "dV misses a head of its group": kernel(expanded_v=spoil(without_last_head)),
        "dV averaged over its group": of_group_mean("v"),
        "dV is NaN": spoiled("v", lambda g: g * math.nan),
        "dS lacks its row sum": kernel(weights=softmax_with(lambda p, dp: p * dp)),
        "dS has the row sum of its first tile": kernel(weights=softmax_with(first_tile_alone)),
        "dS lacks the scale": kernel(scores=spoil(lambda g: g * 8.0)),
        "no gradient at all": lambda a: kernel()(a).detach(),
        "no gradient of k": kernel(inputs=lambda a: replace(a, k=a.k.detach())),
    }


def long_gradients() -> dict[str, Attention]:
    """What only the gradients of calls of thousands of positions show."""

    def at_least(gradient: Any, position: int) -> Any:
        return 1.0 - rows_up_to(gradient, position)

    def tile_zero(gradient: Any) -> Any:
        return gradient * (1.0 - at_least(gradient, 2048) * rows_up_to(gradient, 2048 + TILE))

    def wrapped(gradient: Any) -> Any:
        return gradient[:, [at % 4096 for at in range(gradient.shape[1])]]

    return {
        "dQ of a tile beyond 2,048 lost": spoiled("q", tile_zero),
        "dK wraps at 4,096": spoiled("k", wrapped),
        "dV is zero past 4,096": spoiled("v", lambda g: g * rows_up_to(g, 4096)),
    }


def last_of_batch_zero(gradient: Any) -> Any:
    return gradient * (gradient.new_ones(gradient.shape[0]).cumsum(0) < gradient.shape[0])[:, None, None, None]
