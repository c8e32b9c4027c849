"""Mistakes of the backward: the loss is right, and a gradient is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .call import Call, Change, Plain, capped, repeated


def query_cut(call: Call) -> Any:
    return replace(call, query=call.query.detach())()


def key_cut(call: Call) -> Any:
    return replace(call, key=call.key.detach())()


def value_cut(call: Call) -> Any:
    return replace(call, value=call.value.detach())()


def all_cut(call: Call) -> Any:
    out, weights = call()
    return out.detach(), weights


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


def value_two_percent_small(call: Call) -> Any:
    return replace(call, value=spoil(lambda gradient: gradient * 0.98)(call.value))()


def key_not_a_number(call: Call) -> Any:
    return replace(call, key=spoil(lambda gradient: gradient * math.nan)(call.key))()


def group_not_summed(call: Call) -> Any:
    """Of the query heads that share a kv head, the first alone gives it a gradient."""

    def first_of_group(tensor: Any, groups: int) -> Any:
        expanded = repeated(tensor.detach(), groups).unflatten(1, (tensor.shape[1], groups)).clone()
        expanded[:, :, 0] = tensor
        return expanded.flatten(1, 2)

    return Plain(expand=first_of_group)(call)


def softmax_lacks_row_sum(call: Call) -> Any:
    return Plain(weights=_softmax_with(lambda p, dp: p * dp))(call)


def softcap_not_in_gradient(call: Call) -> Any:
    return Plain(cap=lambda scores, cap: scores + (capped(scores, cap) - scores).detach())(call)


def _softmax_with(backward: Callable[[Any, Any], Any]) -> Change:
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
