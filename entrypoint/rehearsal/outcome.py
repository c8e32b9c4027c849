"""What one rehearsing child left behind: its events, and how it ended. Standard library alone: the parent's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from entrypoint.children.outcome import Witness
from entrypoint.events import KernelsEvent
from entrypoint.rehearsal.events import (
    RUNNING,
    TYPES,
    AskedEvent,
    BatchEvent,
    ChangedEvent,
    ComparedEvent,
    EndEvent,
    LeakEvent,
    LeftEvent,
    MemoryEvent,
    RaisedEvent,
    RehearsalEvent,
    ShrunkEvent,
    StageEvent,
    StepsEvent,
)


@dataclass(kw_only=True)
class Rehearsal(Witness[RehearsalEvent]):
    """Events of one rehearsing child by kind. `compiled` counts kernels that it had to compile, `lasted` the
    seconds that the start waited for it."""

    TYPES = TYPES

    shrunk: ShrunkEvent | None = None
    memory: MemoryEvent | None = None
    batch: BatchEvent | None = None
    compared: ComparedEvent | None = None
    leak: LeakEvent | None = None
    kernels: KernelsEvent | None = None
    steps: dict[str, StepsEvent] = field(default_factory=dict)
    asked: list[AskedEvent] = field(default_factory=list)
    raised: list[RaisedEvent] = field(default_factory=list)
    left: LeftEvent | None = None
    end: EndEvent | None = None
    compiled: int = 0
    lasted: float = 0.0
    reduced: tuple[str, ...] = ()
    off: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the child has said its last word."""
        return self.end is not None

    @property
    def in_attention(self) -> bool:
        """Whether the child was last seen where the run's own attention is called."""
        return self.phase in RUNNING and self.detail == "run"

    @property
    def lost(self) -> bool:
        """Whether lines that the child wrote did not arrive as events."""
        return bool(self.end and self.missing(self.end.written))

    def _keep(self, event: RehearsalEvent) -> None:
        match event:
            case StageEvent():
                self.phase, self.detail = event.name, event.detail
            case StepsEvent():
                self.steps[event.part] = event
            case AskedEvent():
                self.asked.append(event)
            case RaisedEvent():
                self.raised.append(event)
            case ChangedEvent():
                self.reduced, self.off = event.reduced, event.off
            case _:
                setattr(self, _ONCE[type(event)], event)


# The field of each event that comes once.
_ONCE: Final[dict[type, str]] = {
    ShrunkEvent: "shrunk",
    MemoryEvent: "memory",
    BatchEvent: "batch",
    ComparedEvent: "compared",
    LeakEvent: "leak",
    KernelsEvent: "kernels",
    LeftEvent: "left",
    EndEvent: "end",
}
