"""The three collectives as a training run makes them, on float32 that is checked in each round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from entrypoint.collective import patterns
from entrypoint.collective.events import Operation

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

BYTES: Final = 4  # of a float32


class Collective(Protocol):
    """`prepare` and `wrong` are local, only `call` needs the other ranks."""

    def prepare(self) -> None:
        """Fill the buffers anew, so that no result of an earlier round can stand for one of this."""

    def call(self) -> dist.Work:
        """Begin it."""

    def wrong(self) -> torch.Tensor:
        """How many elements of the result are not exact, by the rank that they came from where one alone gave them."""


def elements(size: int, world_size: int) -> int:
    """How many float32 of `size` bytes can be shared out evenly."""
    return size // BYTES // world_size * world_size


class AllReduce:
    """A size is that of what each rank gives and gets, as nccl-tests counts."""

    def __init__(self, base: torch.Tensor, rank: int, world_size: int) -> None:
        import torch

        self._base, self._factor, self._all = base, patterns.factor(rank), sum(patterns.factors(world_size))
        self._buffer = torch.empty_like(base)

    def prepare(self) -> None:
        import torch

        torch.mul(self._base, self._factor, out=self._buffer)

    def call(self) -> dist.Work:
        import torch.distributed as dist

        return dist.all_reduce(self._buffer, async_op=True)

    def wrong(self) -> torch.Tensor:
        return (self._buffer != self._base * self._all).sum()


class AllGather:
    """A size is that of what each rank gets."""

    def __init__(self, base: torch.Tensor, rank: int, world_size: int) -> None:
        import torch

        self._piece = base[: base.numel() // world_size]
        self._given = self._piece * patterns.factor(rank)
        self._factors = torch.tensor(patterns.factors(world_size), device=base.device)[:, None]
        self._result = torch.empty_like(base)

    def prepare(self) -> None:
        self._result.fill_(-1)

    def call(self) -> dist.Work:
        import torch.distributed as dist

        return dist.all_gather_into_tensor(self._result, self._given, async_op=True)

    def wrong(self) -> torch.Tensor:
        return (self._result.view(len(self._factors), -1) != self._piece * self._factors).sum(dim=1)


class ReduceScatter:
    """A size is that of what each rank gives."""

    def __init__(self, base: torch.Tensor, rank: int, world_size: int) -> None:
        self._given = base * patterns.factor(rank)
        self._expected = base.chunk(world_size)[rank] * sum(patterns.factors(world_size))
        self._result = self._expected.clone()

    def prepare(self) -> None:
        self._result.fill_(-1)

    def call(self) -> dist.Work:
        import torch.distributed as dist

        return dist.reduce_scatter_tensor(self._result, self._given, async_op=True)

    def wrong(self) -> torch.Tensor:
        return (self._result != self._expected).sum()


KINDS: Final[dict[Operation, type[AllReduce] | type[AllGather] | type[ReduceScatter]]] = {
    "all-reduce": AllReduce,
    "all-gather": AllGather,
    "reduce-scatter": ReduceScatter,
}


def alone(base: torch.Tensor, rank: int, contributor: int, group: dist.ProcessGroup | None = None) -> torch.Tensor:
    """An all-reduce to which all but one rank give zeros: how many elements are not what that rank gave."""
    import torch.distributed as dist

    buffer = base * (patterns.factor(rank) if rank == contributor else 0)
    dist.all_reduce(buffer, group=group)
    return (buffer != base * patterns.factor(contributor)).sum()
