# ruff: noqa: PLR0913, PLR0917  (the arguments of the real functions)
"""xformers.ops 0.0.35: memory_efficient_attention and the masks in fmha.attn_bias that the adapter makes use of."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Protocol

import torch
from torch import Tensor

from tests.unit.fakes import einsum, flash


class Bias(Protocol):
    def seen(self, queries: int, keys: int) -> Tensor: ...


@dataclass
class LocalAttentionFromBottomRightMask:
    window_left: int
    window_right: int

    def __post_init__(self) -> None:
        if self.window_left < 0 or self.window_right < 0:
            raise ValueError("Invalid window value")

    def seen(self, queries: int, keys: int) -> Tensor:
        return einsum.band(queries, keys, self.window_left, self.window_right)


class LowerTriangularFromBottomRightMask:
    def seen(self, queries: int, keys: int) -> Tensor:
        return einsum.band(queries, keys, None, 0)


@dataclass
class LowerTriangularFromBottomRightLocalAttentionMask:
    """A window of n is the key itself and n - 1 before it."""

    _window_size: int

    def __post_init__(self) -> None:
        if self._window_size <= 0:
            raise ValueError("Expected `window_size > 0`")

    def seen(self, queries: int, keys: int) -> Tensor:
        return einsum.band(queries, keys, self._window_size - 1, 0)


@dataclass
class BlockDiagonalMask:
    starts: list[int]
    left: int | None = None
    right: int | None = None

    @classmethod
    def from_seqlens(
        cls, q_seqlen: list[int], kv_seqlen: list[int] | None = None, *, device: torch.device | None = None
    ) -> BlockDiagonalMask:
        assert kv_seqlen is None
        return cls([0, *torch.tensor(q_seqlen).cumsum(0).tolist()])

    def make_causal(self) -> BlockDiagonalMask:
        return BlockDiagonalMask(self.starts, None, 0)

    def make_local_attention(self, window_size: int) -> BlockDiagonalMask:
        """Causal, and the window as in LowerTriangularFromBottomRightLocalAttentionMask."""
        if window_size <= 0:
            raise ValueError("Expected `window_size > 0`")
        return BlockDiagonalMask(self.starts, window_size - 1, 0)

    def seen(self, queries: int, keys: int) -> Tensor:
        assert queries == keys == self.starts[-1]
        return einsum.packed(self.starts) & einsum.band(queries, keys, self.left, self.right)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Bias | None, scale: float | None) -> tuple[Tensor, Tensor]:
    assert query.shape[2] == key.shape[2] == value.shape[2], "four-dimensional inputs have as many kv heads as heads"
    lengths = (query.shape[1], key.shape[1])
    seen = torch.ones(lengths, dtype=torch.bool) if bias is None else bias.seen(*lengths)
    return einsum.attend(query, key, value, seen, scale, 0.0)


def xformers_ops() -> ModuleType:
    def memory_efficient_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_bias: Bias | None = None,
        p: float = 0.0,
        scale: float | None = None,
        *,
        op: object = None,
        output_dtype: torch.dtype | None = None,
    ) -> Tensor:
        return attend(query, key, value, attn_bias, scale)[0]

    def memory_efficient_attention_forward_requires_grad(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_bias: Bias | None = None,
        p: float = 0.0,
        scale: float | None = None,
        *,
        op: object = None,
        output_dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:
        """CUTLASS pads the logsumexp's sequence to a multiple of 32."""
        out, lse = attend(query, key, value, attn_bias, scale)
        return out, torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32), value=torch.inf)

    ops = flash.module("xformers.ops", memory_efficient_attention, memory_efficient_attention_forward_requires_grad)
    masks = (
        LocalAttentionFromBottomRightMask,
        LowerTriangularFromBottomRightMask,
        LowerTriangularFromBottomRightLocalAttentionMask,
        BlockDiagonalMask,
    )
    vars(ops)["fmha"] = SimpleNamespace(attn_bias=flash.module("attn_bias", *masks))
    return ops
