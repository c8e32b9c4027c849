"""Integers whose sums float32 holds exactly: a result is right to the bit or wrong. Nothing here communicates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

# A prime, so that no power of two of elements lies between two equal ones: a block in the wrong place shows.
PERIOD: Final = 251
# Ranks differ by a factor. With at most this one a sum over R ranks stays below 2^24, up to which float32 is exact,
# for R up to 7,800.
FACTORS: Final = 16


def base(count: int, device: torch.device) -> torch.Tensor:
    """`count` integers, 1 to PERIOD, in float32."""
    import torch

    return torch.arange(count, device=device, dtype=torch.int32).remainder_(PERIOD).add_(1).to(torch.float32)


def factor(rank: int) -> int:
    """What a rank multiplies the base by to get what it gives."""
    return rank % FACTORS + 1


def factors(ranks: int) -> list[int]:
    return [factor(rank) for rank in range(ranks)]
