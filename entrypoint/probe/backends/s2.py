"""S2, LongLoRA's shifted sparse attention: each query sees its own segment of `group` positions, causally.

In the second half of the query heads the segments are shifted by half a group, so that what one half cuts the other
half joins. Segments end where the sequence ends: LongLoRA's variant that rolls the sequence instead lets its first
half group see its last one, that is the future; this one does not (llama_attn_replace.py, its FlashAttention variant).
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from entrypoint.probe import backends
from entrypoint.probe.backends import (
    Arguments,
    Attention,
    Backend,
    Capabilities,
    fa2,
    fa3,
    fa4,
    flex,
    hardware,
    masks,
    tensors,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Where the varlen variants' packages are found, without importing them.
FLASH = {"fa2": "flash_attn.flash_attn_interface", "fa3": "flash_attn_interface", "fa4": "flash_attn.cute"}
# It runs on another backend's kernels; its variants tell which.
VARIANTS = {"flex": flex.KERNELS, "fa2": fa2.KERNELS, "fa3": fa3.KERNELS, "fa4": fa4.KERNELS}
CACHE = flex.CACHE
COMPILES_EACH_VARIANT = True
START_VARIANTS = 2
preload, preload_compiler = flex.preload, flex.preload_compiler
KERNELS = tuple(rule for rules in VARIANTS.values() for rule in rules)

SOURCE = "LongLoRA's llama_attn_replace.py (d4eb344), written anew, on {name}: {source}"


def load(where: torch.device) -> Backend:
    """On FlexAttention; `kernels` has the same on each FlashAttention that is installed and runs here.

    Raises what FlexAttention raises.
    """
    on_flash = [backend for name in FLASH if (backend := _installed(name, where)) is not None]
    return replace(
        _shifted("s2", flex.load(where), on_flex),
        kernels={backend.name: _shifted(f"s2-{backend.name}", backend, on_varlen) for backend in on_flash},
    )


def shifted_sparse_attention(  # noqa: PLR0913 - the tensors of attention are three
    q: Tensor,
    k: Tensor,
    v: Tensor,
    group: int,
    *,
    softmax_scale: float | None = None,
    attention: Attention | None = None,
) -> Tensor:
    """S2 of q [batch, seqlen, heads, head_dim] and k, v [batch, seqlen, kv_heads, head_dim]; out is like q.

    `attention` is a backend's that can pack documents (`backends.load("fa2", device).attention`), by default compiled
    FlexAttention. LongLoRA trains with a group of a quarter of the sequence. Raises ValueError where `group` is odd or
    does not divide the sequence, or the number of heads is odd.
    """
    call = Arguments(q=q, k=k, v=v, causal=True, softmax_scale=softmax_scale, shifted_group=group)
    if attention is None:
        return on_flex(flex.adapt(flex.compiled_flex_attention()))(call)
    return on_varlen(attention)(call)


def on_flex(attention: Attention) -> Attention:
    """S2 as one call of FlexAttention, whose mask knows the head."""

    def shifted(arguments: Arguments) -> Tensor:
        group_of(arguments)
        return attention(arguments)

    return shifted


def on_varlen(attention: Attention) -> Attention:
    """S2 as two calls with packed documents, one for each half of the heads: a segment is a document."""

    def shifted(arguments: Arguments) -> Tensor:
        import torch

        group = group_of(arguments)
        batch, seqlen = arguments.q.shape[:2]
        first, second = halves(arguments)
        outs = (
            attention(packed(first, segments(seqlen, group, shift=0, batch=batch))),
            attention(packed(second, segments(seqlen, group, shift=group // 2, batch=batch))),
        )
        return torch.cat(outs, dim=2).unflatten(1, (batch, seqlen)).squeeze(0)

    return shifted


def group_of(arguments: Arguments) -> int:
    """The group of a call that S2 can serve. Raises ValueError for any other."""
    if arguments.shifted_group is None or not arguments.causal:
        raise ValueError("S2 is causal attention in shifted groups: it needs causal=True and shifted_group")
    masks.check_group(arguments.shifted_group, arguments.q.shape[1], arguments.q.shape[2])
    tensors.refuse_others("S2", arguments, "shifted")
    return arguments.shifted_group


def segments(seqlen: int, group: int, *, shift: int, batch: int) -> tuple[int, ...]:
    """cu_seqlens of the segments of `batch` sequences in a row: 0, shift, shift + group, .., each ending at its end."""
    starts = [0, *range(shift or group, seqlen, group)]
    return (*(row * seqlen + start for row in range(batch) for start in starts), batch * seqlen)


def halves(arguments: Arguments) -> tuple[Arguments, Arguments]:
    """The call on the first and on the second half of the query heads, each with the kv heads that serve it.

    An odd number of kv heads has one that serves both halves; then they are repeated first, one for each query head.
    """
    heads, kv_heads = arguments.q.shape[2], arguments.k.shape[2]
    if kv_heads % 2 != 0:
        expand = functools.partial(tensors.expand_kv, heads=heads)
        arguments = replace(arguments, k=expand(arguments.k), v=expand(arguments.v))
    first = arguments.map(lambda tensor: tensor[:, :, : tensor.shape[2] // 2])
    second = arguments.map(lambda tensor: tensor[:, :, tensor.shape[2] // 2 :])
    return first, second


def packed(arguments: Arguments, cu_seqlens: Sequence[int]) -> Arguments:
    """The batch as one sequence [1, batch * seqlen, ..] of documents."""
    rows = arguments.map(lambda tensor: tensor.flatten(0, 1).unsqueeze(0))
    return replace(rows, cu_seqlens=tuple(cu_seqlens), shifted_group=None)


def capabilities(on: Capabilities | None, name: str) -> Capabilities | None:
    """What S2 claims on another backend: its dtypes, and shifted calls alone."""
    if on is None:
        return None
    return replace(
        on,
        features=(on.features & {"gqa", "strided"}) | {"shifted"},
        source=SOURCE.format(name=name, source=on.source),
        proved=tuple(place for place in on.proved if place in {"CPU", "fake"}),
    )


def _shifted(name: str, on: Backend, adapt: Callable[[Attention], Attention]) -> Backend:
    claims = capabilities(on.capabilities, on.name)
    return Backend(name=name, attention=adapt(on.attention), no_gradient=on.no_gradient, capabilities=claims)


def _installed(name: str, where: torch.device) -> Backend | None:
    """A FlashAttention as a backend; None where it is not installed, or serves another chip."""
    try:
        if importlib.util.find_spec(FLASH[name]) is None:
            return None
        return backends.load(name, where)
    except (ImportError, hardware.UnsupportedChip):
        return None
