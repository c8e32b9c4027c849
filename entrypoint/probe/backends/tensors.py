"""Tensors between our layout and a package's: expanded kv heads, packed documents, requests that nobody serves."""

from __future__ import annotations

import functools
from itertools import pairwise
from typing import TYPE_CHECKING

from entrypoint.probe.backends import Arguments, Feature

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def expand_kv(tensor: Tensor, heads: int) -> Tensor:
    """[batch, seqlen, kv_heads, head_dim] to [batch, seqlen, heads, head_dim], each kv head for its group in a row."""
    batch, seqlen, kv_heads, head_dim = tensor.shape
    if kv_heads == heads:
        return tensor
    shape = (batch, seqlen, kv_heads, heads // kv_heads, head_dim)
    return tensor.unsqueeze(3).expand(shape).reshape(batch, seqlen, heads, head_dim)


def seqlens(cu_seqlens: tuple[int, ...]) -> list[int]:
    """The length of each packed document."""
    return [end - start for start, end in pairwise(cu_seqlens)]


@functools.lru_cache(maxsize=64)
def on_device(cu_seqlens: tuple[int, ...], where: torch.device) -> Tensor:
    """cu_seqlens as the kernels want them: int32 [documents + 1], made once, as a data loader does."""
    import torch

    return torch.tensor(cu_seqlens, dtype=torch.int32, device=where)


def asked_features(arguments: Arguments) -> frozenset[Feature]:
    """The optional features that a call makes use of."""
    asked: dict[Feature, bool] = {
        "window": arguments.window is not None and arguments.window != (-1, -1),
        "softcap": arguments.softcap != 0.0,
        "varlen": arguments.cu_seqlens is not None,
        "shifted": arguments.shifted_group is not None,
    }
    return frozenset(feature for feature, is_asked in asked.items() if is_asked)


def refuse_others(name: str, arguments: Arguments, *able: Feature) -> None:
    """Raise NotImplementedError for a feature that `name` has no argument for: ignoring it would be a wrong result."""
    unable = asked_features(arguments) - set(able)
    if unable:
        raise NotImplementedError(f"{name} cannot do {', '.join(sorted(unable))}")
