# ruff: noqa: PLR0913, PLR0917  (the arguments of the real functions)
"""sageattention 1.0.6's and 2.2.0's functions, without the quantisation: forward only, K smoothed as they do it.

The real ones swallow arguments that they do not know; these refuse them.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor

from tests.unit.fakes import einsum, flash


def attend(q: Tensor, k: Tensor, v: Tensor, layout: str, causal: bool, scale: float | None) -> tuple[Tensor, Tensor]:
    assert layout in {"HND", "NHD"}
    if layout == "HND":
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    assert q.shape[1] == k.shape[1] or not causal
    seen = einsum.band(q.shape[1], k.shape[1], None, 0 if causal else None)
    out, lse = einsum.attend(q.detach(), k.detach(), v.detach(), seen, scale, 0.0)
    return (out.transpose(1, 2) if layout == "HND" else out), lse


def sageattn_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    is_causal: bool = False,
    sm_scale: float | None = None,
    smooth_k: bool = True,
) -> Tensor:
    """Both versions have this one; 1.0.6 smooths K in place, with one mean over all documents."""
    starts = einsum.check_cu_seqlens(q, cu_seqlens_q, cu_seqlens_k, (max_seqlen_q, max_seqlen_k))
    if smooth_k:
        k -= k.mean(dim=0, keepdim=True)
    window = (None, 0 if is_causal else None)
    return flash.varlen(q.detach(), k.detach(), v.detach(), starts, sm_scale, window, 0.0)[0]


def sage_1() -> ModuleType:
    """sageattention 1.0.6, which writes into the K that it is given."""

    def sageattn(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensor_layout: str = "HND",
        is_causal: bool = False,
        sm_scale: float | None = None,
        smooth_k: bool = True,
    ) -> Tensor:
        if smooth_k:
            k -= k.mean(dim=1 if tensor_layout == "NHD" else 2, keepdim=True)
        return attend(q, k, v, tensor_layout, is_causal, sm_scale)[0]

    return flash.module("sageattention", sageattn, sageattn_varlen)


def sage_2() -> ModuleType:
    """sageattention 2.2.0, which can give the logsumexp."""

    def sageattn(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensor_layout: str = "HND",
        is_causal: bool = False,
        sm_scale: float | None = None,
        return_lse: bool = False,
    ) -> Any:
        out, lse = attend(q, k, v, tensor_layout, is_causal, sm_scale)
        return (out, lse) if return_lse else out

    return flash.module("sageattention", sageattn, sageattn_varlen)
