"""What one rehearsing child left behind: its events, and how it ended. Standard library alone: the parent's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from entrypoint.events import Garbled, KernelsEvent, decode_as
from entrypoint.outcome import Ending, Overrun
from entrypoint.rehearsal.events import (
    NAMES,
    RUNNING,
    TYPES,
    AskedEvent,
    BatchEvent,
    ChangedEvent,
    ComparedEvent,
    EndEvent,
    LeakEvent,
    LeftEvent,
    RaisedEvent,
    RehearsalEvent,
    ShrunkEvent,
    StageEvent,
    StepsEvent,
)


@dataclass(kw_only=True)
class Rehearsal:
    """What one rehearsing child left behind. `compiled` counts kernels that it had to compile."""

    device: str
    backend: str
    ending: Ending = "exited"
    number: int = 0
    overrun: Overrun | None = None
    phase: str = "start"
    detail: str = ""
    out_of_memory: bool = False
    log: str = ""
    garbled: int = 0
    taken: Counter[str] = field(default_factory=Counter)
    shrunk: ShrunkEvent | None = None
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
        written = self.end.written if self.end else {}
        return any(count > self.taken[name] for name, count in written.items() if name != NAMES[EndEvent])

    def take(self, line: bytes) -> RehearsalEvent | None:
        """Add one line of the child; the event in it, or None when it is garbled."""
        try:
            event: RehearsalEvent = decode_as(line, TYPES)
        except Garbled:
            self.garbled += 1
            return None
        self.taken[NAMES[type(event)]] += 1
        self._keep(event)
        return event

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
    BatchEvent: "batch",
    ComparedEvent: "compared",
    LeakEvent: "leak",
    KernelsEvent: "kernels",
    LeftEvent: "left",
    EndEvent: "end",
}
