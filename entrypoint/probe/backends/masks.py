"""Who sees whom: one description of a call's mask, as FlexAttention's mask_mod and as a dense mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from entrypoint.probe.backends import Arguments

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    # Of the indices (batch, head, query, key), each a tensor: whether the query sees the key.
    MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Everything of a call that its mask depends on; hashable, so that masks are made once. See Arguments."""

    queries: int
    keys: int
    causal: bool
    window: tuple[int, int]
    cu_seqlens: tuple[int, ...] | None
    shifted_group: int | None
    heads: int | None

    @classmethod
    def of(cls, arguments: Arguments) -> Pattern:
        """Raises ValueError for a shifted group that does not fit the call."""
        queries, heads = arguments.q.shape[1:3]
        if arguments.shifted_group is not None:
            check_group(arguments.shifted_group, queries, heads)
        return cls(
            queries=queries,
            keys=arguments.k.shape[1],
            causal=arguments.causal,
            window=arguments.window or (-1, -1),
            cu_seqlens=arguments.cu_seqlens,
            shifted_group=arguments.shifted_group,
            heads=heads if arguments.shifted_group is not None else None,
        )

    @property
    def masks_nothing(self) -> bool:
        return self == replace(self, causal=False, window=(-1, -1), cu_seqlens=None, shifted_group=None)

    @property
    def is_plain_causal(self) -> bool:
        """Causal and nothing else, with as many keys as queries: what every kernel has a flag for."""
        without = replace(self, causal=False)
        return self.causal and without.masks_nothing and self.queries == self.keys


def check_group(group: int, seqlen: int, heads: int) -> None:
    """Raise ValueError unless S2's segments of `group` positions fit the sequence and its heads have two halves."""
    if group < 2 or group % 2 != 0:
        raise ValueError(f"S2 shifts by half a group, so the group must be even; got {group}")
    if seqlen % group != 0:
        raise ValueError(f"S2's groups must fill the sequence: {group} does not divide {seqlen}")
    if heads % 2 != 0:
        raise ValueError(f"S2 shifts one half of the heads, so their number must be even; got {heads}")


def visible(pattern: Pattern, where: torch.device) -> MaskMod:
    """The pattern as FlexAttention's mask_mod: all of its rules hold. Queries are aligned with the last keys."""
    offset = pattern.keys - pattern.queries
    left, right = pattern.window
    rules: list[MaskMod] = []
    if pattern.causal:
        rules.append(lambda _batch, _head, query, key: query + offset >= key)
    if left >= 0:
        rules.append(lambda _batch, _head, query, key: query + offset - key <= left)
    if right >= 0:
        rules.append(lambda _batch, _head, query, key: key - query - offset <= right)
    if pattern.cu_seqlens is not None:
        rules.append(_same_document(pattern.cu_seqlens, where))
    if pattern.shifted_group is not None and pattern.heads is not None:
        rules.append(_same_segment(pattern.shifted_group, pattern.heads // 2))
    return _all_of(tuple(rules))


def dense(pattern: Pattern, where: torch.device) -> Tensor:
    """The pattern as a bool mask [1, heads or 1, queries, keys], True where a query sees a key.

    With all four dimensions: torch's fused kernels refuse a mask of three.
    """
    import torch

    heads = torch.arange(pattern.heads or 1, device=where)[:, None, None]
    queries = torch.arange(pattern.queries, device=where)[:, None]
    keys = torch.arange(pattern.keys, device=where)
    seen = visible(pattern, where)(torch.zeros_like(heads), heads, queries, keys)
    return seen.expand(1, len(heads), len(queries), len(keys))


def _same_document(cu_seqlens: tuple[int, ...], where: torch.device) -> MaskMod:
    import torch

    ends = torch.tensor(cu_seqlens[1:], device=where)
    # The number of documents that end at or before a position; a document of length 0 only adds to it.
    document = torch.searchsorted(ends, torch.arange(cu_seqlens[-1], device=where), right=True)
    return lambda _batch, _head, query, key: document[query] == document[key]


def _same_segment(group: int, half: int) -> MaskMod:
    """Segments [0, g), [g, 2g), .. for the first half of the heads; [0, g/2), [g/2, 3g/2), .. for the second."""

    def rule(_batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        shift = (head >= half) * (group // 2)
        return (query + shift) // group == (key + shift) // group

    return rule


def _all_of(rules: tuple[MaskMod, ...]) -> MaskMod:
    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = (query >= 0) & (key >= 0)  # everything: a tensor of the indices' shape to start from
        for rule in rules:
            seen = seen & rule(batch, head, query, key)
        return seen

    return mask_mod
