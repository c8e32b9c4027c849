"""Write the rehearsal's events, and count the seconds of its stages."""

from __future__ import annotations

import time
import traceback
from typing import Final, TextIO

from entrypoint.lines import Lines
from entrypoint.rehearsal.events import NAMES, EndEvent, Part, RaisedEvent, Stage, StageEvent

LONGEST_REASON: Final = 4000


class Left(Exception):
    """Nothing more can be rehearsed, for the reason in the message."""


class Stages(Lines):
    """The stream of events, and the seconds of each stage so far."""

    NAMES = NAMES

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._stage: Stage = "import"
        self._began = time.perf_counter()
        self.part: Part = "run"
        self.peak: int | None = None  # bytes of the device's memory that the run itself took
        self.seconds: dict[str, float] = {}

    @property
    def stage(self) -> Stage:
        return self._stage

    def enter(self, name: Stage, part: Part = "run") -> None:
        """Say what is about to be done; the time since the last such word was the last stage's."""
        self._count()
        self._stage, self.part = name, part
        self.emit(StageEvent(name=name, detail=part))

    def end(self) -> None:
        """Write the last line."""
        self._count()
        self.emit(EndEvent(seconds=self.seconds, peak=self.peak, written=dict(self._written)))

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._began
        self._began = now

    def raised(self, error: BaseException) -> None:
        """The event of an exception of the present stage; its whole traceback goes to the child's output."""
        import torch

        traceback.print_exception(error)
        frames = traceback.extract_tb(error.__traceback__)
        self.emit(
            RaisedEvent(
                stage=self.stage,
                part=self.part,
                kind=type(error).__name__,
                reason=f"{type(error).__name__}: {error}"[:LONGEST_REASON],
                where=f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "",
                out_of_memory=isinstance(error, torch.OutOfMemoryError),
            )
        )


def last_line(error: BaseException) -> str:
    """The type of an exception and the end of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]
