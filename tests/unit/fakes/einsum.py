# ruff: noqa: PLR0913, PLR0917  (the arguments of the real functions)
"""Attention written out, under a mask given as bools: what all the fakes share."""

from __future__ import annotations

import torch
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float | None, softcap: float) -> tuple[Tensor, Tensor]:
    """(out, logsumexp) of q [B, S_q, H, D], k and v [B, S_k, H_kv, D] under `seen` [S_q, S_k]."""
    group = q.shape[2] // k.shape[2]
    k, v = (tensor.repeat_interleave(group, dim=2) for tensor in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen, -torch.inf)
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v), scores.logsumexp(-1)


def band(queries: int, keys: int, left: int | None, right: int | None) -> Tensor:
    """Query i, aligned with the last key, sees keys i - left to i + right; None is no bound."""
    i = torch.arange(queries)[:, None] + keys - queries
    j = torch.arange(keys)
    seen = torch.ones(queries, keys, dtype=torch.bool)
    if left is not None:
        seen &= j >= i - left
    if right is not None:
        seen &= j <= i + right
    return seen


def packed(starts: list[int]) -> Tensor:
    """Documents in a row: [total, total], True within one."""
    document = torch.repeat_interleave(torch.arange(len(starts) - 1), torch.tensor(starts).diff())
    return document[:, None] == document


def check_cu_seqlens(q: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, longest: tuple[int, int]) -> list[int]:
    """The starts as numbers, once they are what CUDA kernels read: int32, contiguous, covering q [total, H, D]."""
    starts: list[int] = cu_seqlens_q.tolist()
    assert q.dim() == 3
    assert all(tensor.dtype == torch.int32 and tensor.is_contiguous() for tensor in (cu_seqlens_q, cu_seqlens_k))
    assert starts == cu_seqlens_k.tolist()
    assert (starts[0], starts[-1]) == (0, q.shape[0])
    assert all(type(length) is int for length in longest)
    assert min(longest) >= cu_seqlens_q.diff().max()
    return starts
