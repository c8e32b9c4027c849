# ruff: noqa: PLR0913, PLR0917  (the arguments of the real functions)
"""FlashAttention 2.8.3's, 3's (v2.8.3 and 0251105a) and 4.0.0b36's functions."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor

from tests.unit.fakes import einsum

Window = tuple[int | None, int | None]


def dense(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: Window, softcap: float
) -> tuple[Tensor, Tensor]:
    assert q.dim() == 4
    return einsum.attend(q, k, v, einsum.band(q.shape[1], k.shape[1], *window), scale, softcap)


def varlen(
    q: Tensor, k: Tensor, v: Tensor, starts: list[int], scale: float | None, window: Window, softcap: float
) -> tuple[Tensor, Tensor]:
    """(out [total, H, D], logsumexp [H, total])."""
    seen = einsum.packed(starts) & einsum.band(len(q), len(k), *window)
    out, lse = einsum.attend(q[None], k[None], v[None], seen, scale, softcap)
    return out[0], lse[0]


def negative_is_unbounded(window_size: tuple[int, int], causal: bool) -> Window:
    """The convention of 2 and 3: csrc/flash_attn/flash_api.cpp and hopper/flash_api.cpp."""
    left, right = window_size
    return (None if left < 0 else left, 0 if causal else None if right < 0 else right)


def none_is_unbounded(window_size: Window, causal: bool) -> Window:
    """The convention of 4 (_resolve_causal_local_window): -1 is no bound only where both are."""
    left, right = window_size
    if left is not None and right is not None and left < 0 and right < 0:
        left = right = None
    return (left, 0 if causal else right)


def flash_attn_2() -> ModuleType:
    """flash_attn.flash_attn_interface of flash-attn 2.8.3."""

    def flash_attn_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Any:
        out, lse = dense(q, k, v, softmax_scale, negative_is_unbounded(window_size, causal), softcap)
        return (out, lse, None) if return_attn_probs else out

    def flash_attn_varlen_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
        block_table: Tensor | None = None,
    ) -> Any:
        starts = einsum.check_cu_seqlens(q, cu_seqlens_q, cu_seqlens_k, (max_seqlen_q, max_seqlen_k))
        out, lse = varlen(q, k, v, starts, softmax_scale, negative_is_unbounded(window_size, causal), softcap)
        return (out, lse, None) if return_attn_probs else out

    return module("flash_attn.flash_attn_interface", flash_attn_func, flash_attn_varlen_func)


def flash_attn_3() -> ModuleType:
    """flash_attn_interface of 0251105a."""

    def flash_attn_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        softmax_scale: float | None = None,
        causal: bool = False,
        qv: Tensor | None = None,
        q_descale: Tensor | None = None,
        k_descale: Tensor | None = None,
        v_descale: Tensor | None = None,
        window_size: tuple[int, int] = (-1, -1),
        attention_chunk: int = 0,
        softcap: float = 0.0,
        num_splits: int = 1,
        pack_gqa: bool | None = None,
        deterministic: bool = False,
        sm_margin: int = 0,
        return_attn_probs: bool = False,
    ) -> Any:
        out, lse = dense(q, k, v, softmax_scale, negative_is_unbounded(window_size, causal), softcap)
        return (out, lse) if return_attn_probs else out

    def flash_attn_varlen_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        seqused_q: Tensor | None = None,
        seqused_k: Tensor | None = None,
        softmax_scale: float | None = None,
        causal: bool = False,
        qv: Tensor | None = None,
        q_descale: Tensor | None = None,
        k_descale: Tensor | None = None,
        v_descale: Tensor | None = None,
        window_size: tuple[int, int] = (-1, -1),
        attention_chunk: int = 0,
        softcap: float = 0.0,
        num_splits: int = 1,
        pack_gqa: bool | None = None,
        deterministic: bool = False,
        sm_margin: int = 0,
        return_attn_probs: bool = False,
    ) -> Any:
        starts = einsum.check_cu_seqlens(q, cu_seqlens_q, cu_seqlens_k, (max_seqlen_q, max_seqlen_k))
        out, lse = varlen(q, k, v, starts, softmax_scale, negative_is_unbounded(window_size, causal), softcap)
        return (out, lse) if return_attn_probs else out

    return module("flash_attn_interface", flash_attn_func, flash_attn_varlen_func)


def flash_attn_3_of_2_8_3() -> ModuleType:
    """flash_attn_interface of v2.8.3, which gives the output alone."""
    newer: Any = flash_attn_3()

    def flash_attn_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        deterministic: bool = False,
    ) -> Tensor:
        out: Tensor = newer.flash_attn_func(
            q, k, v, softmax_scale=softmax_scale, causal=causal, window_size=window_size, softcap=softcap
        )
        return out

    return module("flash_attn_interface", flash_attn_func, newer.flash_attn_varlen_func)


def flash_attn_4() -> ModuleType:
    """flash_attn.cute of flash-attn-4 4.0.0b36."""

    def flash_attn_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        qv: Tensor | None = None,
        gather_kv_indices: Tensor | None = None,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (None, None),
        learnable_sink: Tensor | None = None,
        softcap: float = 0.0,
        num_splits: int = 1,
        pack_gqa: bool | None = None,
        deterministic: bool = False,
        return_lse: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        refuse_grouped_unequal_head_dims(q, k, v)
        out, lse = dense(q, k, v, softmax_scale, none_is_unbounded(window_size, causal), softcap)
        return out, lse if return_lse or out.requires_grad else None

    def flash_attn_varlen_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        qv: Tensor | None = None,
        cu_seqlens_q: Tensor | None = None,
        cu_seqlens_k: Tensor | None = None,
        max_seqlen_q: int | None = None,
        max_seqlen_k: int | None = None,
        min_seqlen_k: int | None = None,
        seqused_q: Tensor | None = None,
        seqused_k: Tensor | None = None,
        gather_kv_indices: Tensor | None = None,
        page_table: Tensor | None = None,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (None, None),
        learnable_sink: Tensor | None = None,
        softcap: float = 0.0,
        num_splits: int = 1,
        pack_gqa: bool | None = None,
        deterministic: bool = False,
        return_lse: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        assert cu_seqlens_q is not None
        assert cu_seqlens_k is not None
        starts = einsum.check_cu_seqlens(q, cu_seqlens_q, cu_seqlens_k, (max_seqlen_q or 0, max_seqlen_k or 0))
        out, lse = varlen(q, k, v, starts, softmax_scale, none_is_unbounded(window_size, causal), softcap)
        return out, lse if return_lse or out.requires_grad else None

    return module("flash_attn.cute", flash_attn_func, flash_attn_varlen_func)


def refuse_grouped_unequal_head_dims(q: Tensor, k: Tensor, v: Tensor) -> None:
    """flash_bwd_sm90.py; here already forward, because the einsum has no backward of its own to refuse it in."""
    assert q.shape[2] == k.shape[2] or k.shape[-1] == v.shape[-1], "GQA backward requires head_dim == head_dim_v"


def module(name: str, *functions: Any) -> ModuleType:
    made = ModuleType(name)
    for function in functions:
        setattr(made, function.__name__, function)
    return made
