"""What a child left behind: its events, by kind, and how it ended. Judging them is `entrypoint.judge`."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Generic, Literal, TypeVar

from entrypoint.events import (
    KERNEL_PHASES,
    TYPES,
    BandwidthEvent,
    CaseErrorEvent,
    CaseEvent,
    CeilingEvent,
    ComparisonEvent,
    DeviceFacts,
    DoneEvent,
    Event,
    FirstCallEvent,
    Garbled,
    HealthEvent,
    KernelsEvent,
    MachineEvent,
    PhaseEvent,
    SpeedEvent,
    UnusableEvent,
    decode_as,
)

# done: it said so. stopped: the parent ended it because the GPU is not one for this backend.
Ending = Literal["done", "stopped", "exited", "killed", "timeout"]
LOG_TAIL: Final = 4000


@dataclass(frozen=True, kw_only=True)
class Overrun:
    """A child whose time was up: seconds since its last phase began, and whether it was still computing at the end.

    `processor` and `processors` are the model and the number that the check may use.
    """

    lasted: float
    computing: bool
    processor: str
    processors: int


def signal_name(number: int) -> str:
    """Such as SIGSEGV; of a real-time signal, which has no name, its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


E = TypeVar("E")


@dataclass(kw_only=True)
class Witness(ABC, Generic[E]):
    """What is kept of any child, whose events E by name are TYPES.

    `device` is torch's name for it, such as cuda:0. `number` is the exit code (exited) or the signal (killed),
    `overrun` of a timeout; `phase` and `detail` say what it did last; `garbled` counts lines that were no events,
    `taken` the events by type; `log` ends the child's output.
    """

    TYPES: ClassVar[Mapping[str, type]]

    device: str
    backend: str
    ending: Ending = "exited"
    number: int = 0
    overrun: Overrun | None = None
    phase: str = "start"
    detail: str = ""
    garbled: int = 0
    taken: Counter[type] = field(default_factory=Counter)
    out_of_memory: bool = False
    log: str = ""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether the child has said its last word."""

    @abstractmethod
    def _keep(self, event: E) -> None: ...

    def take(self, line: bytes) -> E | None:
        """Add one line of the child; returns the event, or None when the line is garbled."""
        try:
            event: E = decode_as(line, self.TYPES)
        except Garbled:
            self.garbled += 1
            return None
        self.taken[type(event)] += 1
        self._keep(event)
        return event

    def missing(self, written: Mapping[str, int]) -> dict[str, int]:
        """By name the events that the child says it wrote and that did not arrive."""
        arrived = {name: self.taken[kind] for name, kind in self.TYPES.items()}
        return {name: count - arrived.get(name, 0) for name, count in written.items() if count > arrived.get(name, 0)}


@dataclass(kw_only=True)
class Outcome(Witness[Event]):
    """Events of one measuring child by kind, kernels by what was asked for."""

    TYPES = TYPES

    machine: MachineEvent | None = None
    unusable: UnusableEvent | None = None
    cases: list[CaseEvent] = field(default_factory=list)
    case_errors: list[CaseErrorEvent] = field(default_factory=list)
    health: HealthEvent | None = None
    first_calls: list[FirstCallEvent] = field(default_factory=list)
    ceiling: CeilingEvent | None = None
    bandwidth: BandwidthEvent | None = None
    speeds: list[SpeedEvent] = field(default_factory=list)
    comparisons: list[ComparisonEvent] = field(default_factory=list)
    kernels: dict[str, KernelsEvent] = field(default_factory=dict)
    done: DoneEvent | None = None

    @property
    def finished(self) -> bool:
        """Whether the child has said its last word."""
        return self.done is not None or self.unusable is not None

    @property
    def gpu(self) -> DeviceFacts | None:
        """The device's facts as the child saw them; None before it looked."""
        return self.machine.device if self.machine else None

    @property
    def name(self) -> str:
        """The device's model, such as NVIDIA H200; before the child looked, torch's name for it."""
        return self.gpu.name if self.gpu else self.device

    @property
    def in_kernels(self) -> bool:
        """Whether the child was last seen running kernels on its device."""
        return self.phase in KERNEL_PHASES

    @property
    def lost(self) -> dict[str, int]:
        """By name the events that the child wrote and that did not arrive; empty before it said how many it wrote."""
        return self.missing(self.done.written) if self.done else {}

    def _keep(self, event: Event) -> None:
        match event:
            case FirstCallEvent() | CaseEvent() | CaseErrorEvent() | SpeedEvent() | ComparisonEvent():
                self._append(event)
            case KernelsEvent():
                self.kernels[event.asked] = event
            case PhaseEvent():
                self.phase, self.detail = event.name, event.detail
            case MachineEvent():
                self.machine = event
            case UnusableEvent():
                self.unusable = event
            case HealthEvent():
                self.health = event
            case CeilingEvent():
                self.ceiling = event
            case BandwidthEvent():
                self.bandwidth = event
            case DoneEvent():
                self.done = event

    def _append(self, event: FirstCallEvent | CaseEvent | CaseErrorEvent | SpeedEvent | ComparisonEvent) -> None:
        match event:
            case FirstCallEvent():
                self.first_calls.append(event)
            case CaseEvent():
                self.cases.append(event)
            case CaseErrorEvent():
                self.case_errors.append(event)
            case SpeedEvent():
                self.speeds.append(event)
            case ComparisonEvent():
                self.comparisons.append(event)
