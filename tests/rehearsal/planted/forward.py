"""Mistakes of the forward: masks, scale and features, heads, numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any

from .call import Call, Plain, positions, softmax

TILE = 64


def documents_leak(call: Call) -> Any:
    """All but causal and padding is dropped from the mask."""
    return call.seeing(call.causal & call.tokens)()


def second_document_sees_first(call: Call) -> Any:
    """The boundary between the first two documents of a row is lost; all others hold."""
    import torch

    start = call.start
    later = torch.where(start > 0, start, torch.full_like(start, call.query.shape[2]))
    second = later.amin(dim=-2, keepdim=True)
    return call.seeing(call.allowed | ((start == second) & call.causal))()


def documents_overlap(call: Call) -> Any:
    """A document sees the last token of the one before."""
    _, j = positions(call)
    return call.seeing(call.allowed | (j == call.start - 1))()


def no_documents_found(masking: ModuleType) -> None:
    """transformers finds no packed documents in position_ids."""
    vars(masking)["find_packed_sequence_indices"] = lambda position_ids: None


def causal_lost(call: Call) -> Any:
    return call.option(is_causal=False).seeing((call.allowed | True) & call.tokens)()


def next_token_seen(call: Call) -> Any:
    i, j = positions(call)
    return call.seeing(call.allowed | ((j == i + 1) & call.tokens))()


def itself_hidden(call: Call) -> Any:
    """No query sees its own key, but for one that sees nothing else."""
    i, j = positions(call)
    return call.seeing(call.allowed & ((i != j) | (call.start == i)))()


def last_tile_dropped(call: Call) -> Any:
    """The keys behind the last whole tile are left out."""
    i, j = positions(call)
    last = (call.query.shape[2] - 1) // TILE * TILE
    return call.seeing(call.allowed & ((j < last) | (i == j)))()


def window_dropped(call: Call) -> Any:
    window = call.options.get("sliding_window")
    return call.seeing(call.causal & call.tokens)() if window else call()


def window_one_short(call: Call) -> Any:
    window = call.options.get("sliding_window")
    i, j = positions(call)
    return call.seeing(call.allowed & (i - j < window - 1))() if window else call()


def window_one_long(call: Call) -> Any:
    window = call.options.get("sliding_window")
    i, j = positions(call)
    return call.seeing(call.causal & (i - j < window + 1) & call.tokens)() if window else call()


def window_of_the_mask_one_long(masking: ModuleType) -> None:
    """transformers' own mask has one key more in the window."""
    real = vars(masking)["sliding_window_overlay"]
    vars(masking)["sliding_window_overlay"] = lambda sliding_window: real(sliding_window + 1)


def scale_dropped(call: Call) -> Any:
    return call.option(scaling=1.0)()


def scale_of_one_over_d(call: Call) -> Any:
    return call.option(scaling=call.options["scaling"] ** 2)()


def scale_two_percent_off(call: Call) -> Any:
    return call.option(scaling=call.options["scaling"] * 1.02)()


def scale_of_head_dim(call: Call) -> Any:
    """The scale that the model asks for is ignored."""
    return call.option(scaling=call.query.shape[-1] ** -0.5)()


def softcap_dropped(call: Call) -> Any:
    return call.option(softcap=None)()


def sinks_dropped(call: Call) -> Any:
    return Plain(sinks=False)(call)


def kv_heads_interleaved(call: Call) -> Any:
    """Query head h takes kv head h modulo their number."""
    return Plain(expand=lambda tensor, groups: tensor.repeat(1, groups, 1, 1))(call)


def first_row_for_all(call: Call) -> Any:
    """Keys and values of the batch's first row are taken for every row."""
    key, value = (tensor[:1].expand_as(tensor) for tensor in (call.key, call.value))
    return replace(call, key=key, value=value)()


def second_half_of_heads_zero(call: Call) -> Any:
    out, weights = call()
    heads = out.shape[2]
    return out * (out.new_ones(heads).cumsum(0) <= heads // 2)[:, None].to(out.dtype), weights


def heads_rotated(call: Call) -> Any:
    out, weights = call()
    return out.roll(1, dims=2), weights


def nan_where_padded(call: Call) -> Any:
    """A row of padding is a row without a key to this kernel: 0 divided by 0."""
    out, weights = call()
    if call.mask is None:
        return out, weights
    padded = ~call.tokens.transpose(-1, -2)[:, 0, :, :, None].expand(out.shape[0], -1, -1, -1)
    return out.masked_fill(padded, math.nan), weights


def coarse_weights(call: Call) -> Any:
    """Softmax's result is held in 5 bits, as an 8-bit float holds it; the gradient is that of the exact one."""

    def coarse(scores: Any) -> Any:
        p = softmax(scores)
        mantissa, exponent = p.detach().frexp()
        return p + ((mantissa * 16).round() / 16).ldexp(exponent) - p.detach()

    return Plain(weights=coarse)(call)


def half_precision(call: Call) -> Any:
    """The products are those of bfloat16, whatever the run's precision."""
    import torch

    query, key, value = (tensor.to(torch.bfloat16).to(tensor.dtype) for tensor in (call.query, call.key, call.value))
    return replace(call, query=query, key=key, value=value)()


def dropout_though_zero(call: Call) -> Any:
    import torch

    out, weights = call()
    return torch.nn.functional.dropout(out, 0.1, training=True), weights
