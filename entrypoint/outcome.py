"""What one measuring child left behind: its events, gathered, and how it ended. No opinion on any of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from entrypoint.events import KERNEL_PHASES, PHASES

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


@dataclass(kw_only=True)
class Outcome:
    """Events of one child by kind, kernels by what was asked for.

    `number` is the exit code (exited) or the signal (killed), `overrun` of a timeout; `log` ends the child's output.
    """

    device: str
    backend: str
    ending: Ending = "exited"
    number: int = 0
    overrun: Overrun | None = None
    phase: str = "start"
    detail: str = ""
    machine: dict[str, Any] | None = None
    unusable: dict[str, Any] | None = None
    cases: list[dict[str, Any]] = field(default_factory=list)
    case_errors: list[dict[str, Any]] = field(default_factory=list)
    health: dict[str, Any] | None = None
    first_calls: list[dict[str, Any]] = field(default_factory=list)
    ceiling: dict[str, Any] | None = None
    bandwidth: dict[str, Any] | None = None
    speeds: list[dict[str, Any]] = field(default_factory=list)
    kernels: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    finished: bool = False
    garbled: int = 0
    out_of_memory: bool = False
    log: str = ""

    @property
    def gpu(self) -> dict[str, Any]:
        """The device's facts as the child saw them; empty before it looked."""
        return (self.machine or {}).get("device") or {}

    @property
    def in_kernels(self) -> bool:
        """Whether the child was last seen running kernels on its device."""
        return self.phase in KERNEL_PHASES

    def take(self, line: bytes) -> dict[str, Any] | None:
        """Add one line of the child; returns the event, or None when the line is not one."""
        try:
            event = json.loads(line)
            self._add(event)
        except (ValueError, KeyError, TypeError, AttributeError):
            self.garbled += 1
            return None
        return event  # type: ignore[no-any-return]  # _add raised if it were not a dict

    def _add(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "phase":
                if event["name"] not in PHASES:
                    raise ValueError(event["name"])
                self.phase, self.detail = event["name"], event.get("detail") or ""
            case "case":
                self.cases.append(event)
            case "case_error":
                self.case_errors.append(event)
            case "first_call":
                self.first_calls.append(event)
            case "speed":
                self.speeds.append(event)
            case "kernels":
                self.kernels[event.get("asked") or self.backend] = event
            case "machine" | "unusable" | "health" | "ceiling" | "bandwidth" as kind:
                setattr(self, kind, event)
            case "done":
                self.seconds, self.finished = dict(event["seconds"]), True
                self.left_out = list(event.get("left_out") or ())
            case unknown:
                raise ValueError(unknown)
