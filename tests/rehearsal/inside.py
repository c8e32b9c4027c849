"""Runs inside an image: many rehearsals after one import of Axolotl, each in a process that is forked off.

stdin: a line of JSON for each, {"name", "folder", "seeded", "arguments"}; stdout: {"name", "status", "seconds", "events"},
in which status is that of the process (waitpid's), or null where it was ended for its time, and the events are lines
of the rehearsal's child.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final

LIMIT: Final = 240.0  # seconds of one rehearsal


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Axolotl prints while it is imported
    import_module("entrypoint.rehearsal.training").imported()
    for line in sys.stdin:
        answers.write(json.dumps(rehearsed(json.loads(line))) + "\n")
        answers.flush()


def rehearsed(job: dict[str, Any]) -> dict[str, Any]:
    """One job's answer."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as events:
        child = os.fork()
        if not child:
            become(job, events)
        status = ended(child, began + LIMIT)
        events.seek(0)
        lines = events.read().decode().splitlines()
    return {"name": job["name"], "status": status, "seconds": time.monotonic() - began, "events": lines}


def become(job: dict[str, Any], events: IO[bytes]) -> None:
    """The rehearsal's child, from its import on. Does not return."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(Path(job["folder"]) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        os.chdir(job["folder"])
        if job["seeded"]:
            import_module("planted.plant").plant(job["seeded"])
        main = import_module("entrypoint.rehearsal.__main__").main
        main([*job["arguments"], "--events", str(events.fileno())])
    finally:
        os._exit(1)


def ended(child: int, deadline: float) -> int | None:
    """The status of `child`; None where it had to be ended."""
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    main()
