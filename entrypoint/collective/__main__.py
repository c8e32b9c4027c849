"""One rank's run: import, device, join, a sum of its own, the three collectives, who gives what, and leave."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from statistics import median
from typing import TYPE_CHECKING, Final

from entrypoint.collective import operations, patterns
from entrypoint.collective.board import Board, Membership
from entrypoint.collective.events import (
    AloneEvent,
    CollectiveEvent,
    LocalEvent,
    Operation,
    RankEvent,
    State,
    Step,
    TroubleEvent,
)
from entrypoint.collective.rounds import ROUNDS, WARM_UP, Rounds, Stopwatch
from entrypoint.lines import private

if TYPE_CHECKING:
    import torch

# Who gives a wrong number is asked with this size, and of so many ranks.
SMALL: Final = 1 << 20
ASKED: Final = 64
MULTICAST_SUPPORTED: Final = 132  # CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED of cuda.h
# torch's own limit for a collective ends the process without a word, so it lies behind ours.
BEHIND: Final = 600.0


class RankRun:
    """The steps of one rank, with the seconds of each."""

    def __init__(self, board: Board, group: Membership, device: str) -> None:
        self._board, self._group, self._name = board, group, device
        self.seconds: dict[str, float] = {}

    def steps(self, sizes: Sequence[int], seconds: float) -> None:
        """All of them. A step that raises is told to the others, and ends the process."""
        group = self._group
        with self._step("import"):
            import torch
        with self._step("device"):
            where = _open(self._name, group)
            self._board.say(_who(where, group, os.environ))
        with self._step("join"):
            self._board.at("join", state="inside")
            _join(where, seconds + BEHIND)
        for size in sizes:
            with self._step("local", size):
                base = patterns.base(operations.elements(size, group.world_size), where)
                if size == max(sizes):
                    self._board.say(_local(base, group.rank, where))
            for operation in operations.KINDS:
                with self._step(operation, size):
                    self._board.say(self._collective(operation, size, base, where))
            del base
        with self._step("alone"), torch.no_grad():
            self._board.at("alone", state="inside")
            self._board.say(_alone(where, group))

    def _collective(self, operation: Operation, size: int, base: torch.Tensor, where: torch.device) -> CollectiveEvent:
        board, group = self._board, self._group
        collective = operations.KINDS[operation](base, group.rank, group.world_size)

        def at(number: int, state: State) -> None:
            board.at(operation, size, number, state)

        rounds = Rounds(collective, where)
        board.device_position = rounds.watch.position if where.type == "cuda" else None
        try:
            rounds.run(at)
        finally:
            board.device_position = None
        by_source = {str(rank): count for rank, count in enumerate(rounds.wrong) if count}
        return CollectiveEvent(
            rank=group.rank,
            operation=operation,
            size=size,
            seconds=median(rounds.samples),
            held=median(rounds.held),
            samples=rounds.samples,
            wrong=sum(rounds.wrong),
            wrong_from=by_source if operation == "all-gather" else {},
        )

    @contextmanager
    def _step(self, step: Step, size: int = 0) -> Iterator[None]:
        self._board.at(step, size)
        began = time.monotonic()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - NCCL, gloo and the driver raise what they like
            full = type(error).__name__ == "OutOfMemoryError"
            reason = f"{type(error).__name__}: {error}"[:4000]
            rank = self._group.rank
            self._board.fail(TroubleEvent(rank=rank, step=step, size=size, reason=reason, out_of_memory=full))
        self.seconds[step] = self.seconds.get(step, 0.0) + time.monotonic() - began


def _open(name: str, group: Membership) -> torch.device:
    """This rank's device after a first allocation on it. Where a rank was given one GPU alone, that is its own."""
    import torch

    if name == "cpu":
        return torch.device("cpu")
    where = torch.device("cuda", group.local_rank % max(1, torch.cuda.device_count()))
    torch.cuda.set_device(where)
    torch.ones(1, device=where).sum().item()
    return where


def _who(where: torch.device, group: Membership, environ: Mapping[str, str]) -> RankEvent:
    import torch

    on_gpu = where.type == "cuda"
    properties = torch.cuda.get_device_properties(where) if on_gpu else None
    return RankEvent(
        rank=group.rank,
        world_size=group.world_size,
        node=environ.get("NODE_NAME") or environ.get("SLURMD_NODENAME") or socket.gethostname(),
        device=str(where),
        name=properties.name if properties else "CPU",
        uuid=f"GPU-{properties.uuid}" if properties else None,
        backend="nccl" if on_gpu else "gloo",
        torch=torch.__version__,
        nccl=".".join(map(str, torch.cuda.nccl.version())) if on_gpu else None,
        multicast=_multicast(where.index) if on_gpu and torch.version.cuda else None,
        variables={name: value for name, value in environ.items() if name.startswith(("NCCL_", "TORCH_NCCL_"))},
    )


def _multicast(index: int) -> bool | None:
    """Whether the driver offers NVLink multicast on this GPU. It is only asked for, never used here."""
    import ctypes

    answer = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDeviceGetAttribute(ctypes.byref(answer), MULTICAST_SUPPORTED, index)
    except (OSError, AttributeError):
        return None
    return None if failed else bool(answer.value)


def _join(where: torch.device, seconds: float) -> None:
    """Meet the others by torchrun's variables. On a GPU this connects NCCL too."""
    import torch.distributed as dist

    backend, device = ("nccl", where) if where.type == "cuda" else ("gloo", None)
    dist.init_process_group(backend, timeout=timedelta(seconds=seconds), device_id=device)


def _local(base: torch.Tensor, rank: int, where: torch.device) -> LocalEvent:
    """A sum of its own in each round: what a rank's device gets wrong, or does slowly, without any other rank."""
    import torch

    watch, result, counts = Stopwatch(where), torch.empty_like(base), []
    factor = patterns.factor(rank)
    for number in range(ROUNDS):
        result.fill_(-1)
        watch.mark(number)
        torch.add(base, base, alpha=factor, out=result)
        watch.mark(number)
        counts.append((result != base * (factor + 1)).sum())
    wrong = int(torch.stack(counts).sum().item())
    samples = tuple(watch.seconds()[WARM_UP:])
    return LocalEvent(rank=rank, wrong=wrong, seconds=median(samples), samples=samples)


def _alone(where: torch.device, group: Membership) -> AloneEvent:
    import torch.distributed as dist

    base = patterns.base(SMALL // operations.BYTES, where)
    counts = {
        str(contributor): int(operations.alone(base, group.rank, contributor).item())
        for contributor in range(min(group.world_size, ASKED))
    }
    wrong = {rank: count for rank, count in counts.items() if count}
    # A group of one: what it gets wrong, it does not have from another rank.
    me = dist.new_group([group.rank], use_local_synchronization=True)
    itself = int(operations.alone(base, group.rank, group.rank, me).item())
    return AloneEvent(rank=group.rank, wrong=wrong, itself=itself)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 when this rank and all others are through; board.GAVE_UP when one is not."""
    options = parse(argv)
    stream = private(options.events)
    group = Membership.of(os.environ)
    board = Board(stream, group, options.seconds)
    run = RankRun(board, group, options.device)
    run.steps(options.sizes, options.seconds)
    board.leave(run.seconds)
    sys.stderr.flush()
    os._exit(0)  # without a farewell to ranks that may be gone, which NCCL would wait for


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -P -m entrypoint.collective",
        description="Be one rank of a group (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT, as torchrun sets "
        "them), and write what it measures as JSON lines (see entrypoint/collective/events.py). It never judges.",
    )
    parser.add_argument("--device", required=True, choices=("cuda", "cpu"), help="cuda: the GPU of LOCAL_RANK")
    parser.add_argument("--sizes", required=True, nargs="+", type=int, metavar="BYTES")
    parser.add_argument("--seconds", required=True, type=float, help="after so many it says what it knows and ends")
    parser.add_argument("--events", default=1, type=int, metavar="FD", help="file descriptor of the lines (default: 1)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
