"""What is read of a child that has ended, whatever the machine did to the process that reads."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from typing import IO, Any

import pytest

from entrypoint.children import child
from entrypoint.children.outcome import Outcome
from entrypoint.events import DoneEvent, PhaseEvent, encode
from tests.patience import PATIENCE

LINES = [encode(PhaseEvent(name="import", detail="torch")), encode(DoneEvent(seconds={}, left_out=(), written={}))]
WRITER = f"import os, sys; os.write(int(sys.argv[1]), {chr(10).join([*LINES, ''])!r}.encode())"


def spawn(*_: object) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """A child that writes its lines and is gone."""
    events, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(write_end)], stdout=subprocess.PIPE, pass_fds=(write_end,)
    )
    os.close(write_end)
    return process, os.fdopen(events, "rb", buffering=0)


def test_the_last_lines_of_a_child_count_however_late_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes them right after a look for them and exits; then a busy machine stops the reader for a while."""
    monkeypatch.setattr(child, "spawn", spawn)
    monkeypatch.setattr(child, "GRACE", 0.0)
    outcome = Outcome(device="cpu", backend="sdpa")
    with child.Worker("/", "", [], {}, outcome) as worker:

        class Late(selectors.SelectSelector):
            looks = 0

            def select(self, timeout: float | None = None) -> list[Any]:
                Late.looks += 1
                if Late.looks > 1:
                    return super().select(timeout)
                worker._process.wait(PATIENCE)
                return []

        monkeypatch.setattr(selectors, "DefaultSelector", Late)
        worker.run(time.monotonic() + PATIENCE, lambda _: True)
    assert Late.looks > 1
    assert outcome.ending == "done"
