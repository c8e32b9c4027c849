"""What the ranks of a group left behind: their events, and how each of our processes ended. It judges nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from entrypoint.collective.events import (
    AloneEvent,
    CollectiveEvent,
    CollectiveLine,
    LocalEvent,
    OverEvent,
    ProgressEvent,
    RankEvent,
    TroubleEvent,
    decode,
    how_far,
)
from entrypoint.events import Garbled

# over: it said so. gave-up: it said all it knew, and that a rank is missing. timeout: we ended it at the limit.
RankEnding = Literal["over", "gave-up", "exited", "killed", "timeout"]


@dataclass(kw_only=True)
class RankFacts:
    """Events of one rank by kind; `ending` is None for a rank that is no process of this parent's."""

    rank: int
    who: RankEvent | None = None
    progress: ProgressEvent | None = None
    local: LocalEvent | None = None
    collectives: dict[tuple[str, int], CollectiveEvent] = field(default_factory=dict)
    alone: AloneEvent | None = None
    trouble: TroubleEvent | None = None
    over: OverEvent | None = None
    ending: RankEnding | None = None
    number: int = 0  # the exit code (exited) or the signal (killed)
    log: str = ""

    def take(self, event: CollectiveLine) -> None:
        """Keep an event; one that comes again through another rank is the same."""
        match event:
            case RankEvent():
                self.who = event
            case ProgressEvent():  # what another rank has read of it may be older
                self.progress = max(event, self.progress or event, key=lambda at: (how_far(at), at.last))
            case LocalEvent():
                self.local = event
            case CollectiveEvent():
                self.collectives[event.operation, event.size] = event
            case AloneEvent():
                self.alone = event
            case TroubleEvent():
                self.trouble = event
            case OverEvent():
                self.over = event


@dataclass(kw_only=True)
class Ranks:
    """All ranks of a group, those that were never heard of too; `ours` are the processes of this parent.

    `seconds` is the limit that they had, and `garbled` counts lines that were no events.
    """

    world_size: int
    ours: tuple[int, ...]
    seconds: float
    garbled: int = 0
    facts: dict[int, RankFacts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.facts = {rank: RankFacts(rank=rank) for rank in range(self.world_size)}

    @property
    def every(self) -> tuple[RankFacts, ...]:
        """The ranks in their order."""
        return tuple(self.facts.values())

    def take(self, line: bytes) -> CollectiveLine | None:
        """Add one line of a child; returns the event, or None when the line is garbled or of no rank of the group."""
        try:
            event = decode(line)
        except Garbled:
            event = None
        if event is None or event.rank not in self.facts:
            self.garbled += 1
            return None
        self.facts[event.rank].take(event)
        return event
