"""The lines that each rank writes and the parent reads; see entrypoint/events.py for what holds for every line.

Each event names its rank: a child also passes on what the other ranks have told it, so that each parent under torchrun
judges the same facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from entrypoint.events import decode_as, encode_as

Operation = Literal["all-reduce", "all-gather", "reduce-scatter"]
OPERATIONS: Final[tuple[Operation, ...]] = get_args(Operation)
# What a rank does, in this order; the three collectives once for each size.
Step = Literal["import", "device", "join", "local", "all-reduce", "all-gather", "reduce-scatter", "alone", "leave"]
STEPS: Final[tuple[Step, ...]] = get_args(Step)
State = Literal["late", "inside", "done"]
STATES: Final[tuple[State, ...]] = get_args(State)


@dataclass(frozen=True, kw_only=True)
class RankEvent:
    """Who a rank is: `node` as its scheduler calls it, `device` as torch does, such as cuda:1, and the device's model.

    `multicast` says whether the GPU's driver offers NVLink multicast (which NVLS needs), null where nobody knows;
    `variables` are those of NCCL's that the user has set.
    """

    rank: int
    world_size: int
    node: str
    device: str
    name: str
    uuid: str | None
    backend: str
    torch: str
    nccl: str | None
    multicast: bool | None
    variables: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """Where a rank is: its step, of a collective the size in bytes and the round, and the seconds since it got there.

    A rank is `late` until it has called the others, and `inside` until it has the result. `last` says that it ended
    there by itself, for want of the others or of time: who crashes does not say so.
    """

    rank: int
    step: Step
    size: int
    round: int
    state: State
    since: float
    last: bool


@dataclass(frozen=True, kw_only=True)
class LocalEvent:
    """A sum that a rank makes by itself, all ranks at the same time: elements that are wrong, and median seconds."""

    rank: int
    wrong: int
    seconds: float
    samples: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class CollectiveEvent:
    """One operation of `size` bytes, as one rank sees it: all samples, the median, and how long the call itself took.

    `seconds` is until the result is there, `held` the part of it until the call returned, which waits for nobody.
    `wrong` counts elements over all rounds, the warm-up's too; `wrong_from` {rank: count} those of an all-gather by
    whose they are.
    """

    rank: int
    operation: Operation
    size: int
    seconds: float
    held: float
    samples: tuple[float, ...]
    wrong: int
    wrong_from: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class AloneEvent:
    """Small all-reduces to which one rank at a time gives more than zeros: {that rank: wrong elements seen here}.

    `itself` counts those of one in which this rank is alone in its group.
    """

    rank: int
    wrong: Mapping[str, int]
    itself: int


@dataclass(frozen=True, kw_only=True)
class TroubleEvent:
    """A step raised: the exception's type and message."""

    rank: int
    step: Step
    size: int
    reason: str
    out_of_memory: bool


@dataclass(frozen=True, kw_only=True)
class OverEvent:
    """The rank's own last line: it is through, and `seconds` {step: seconds} says with what."""

    rank: int
    seconds: Mapping[str, float]


CollectiveLine = RankEvent | ProgressEvent | LocalEvent | CollectiveEvent | AloneEvent | TroubleEvent | OverEvent
NAMES: Final[Mapping[type[CollectiveLine], str]] = {
    RankEvent: "rank",
    ProgressEvent: "progress",
    LocalEvent: "local",
    CollectiveEvent: "collective",
    AloneEvent: "alone",
    TroubleEvent: "trouble",
    OverEvent: "over",
}
_TYPES: Final = {name: kind for kind, name in NAMES.items()}


def how_far(progress: ProgressEvent | None) -> tuple[int, int, int, int, int]:
    """Sort key of places in a run: the steps before all sizes, then each size's, and then the rest."""
    if progress is None:
        return 0, 0, 0, 0, 0
    part = 2 if progress.size else 1 if progress.step in {"import", "device", "join"} else 3
    return part, progress.size, STEPS.index(progress.step), progress.round, STATES.index(progress.state)


def encode(event: CollectiveLine) -> str:
    """The event as one line of JSON, without its end."""
    return encode_as(NAMES[type(event)], event)


def decode(line: bytes) -> CollectiveLine:
    """The event in a line. Raises Garbled."""
    event: CollectiveLine = decode_as(line, _TYPES)
    return event
