"""Where each second of a check goes: `python -P -m tests.gpu.timeline [--device cuda:0] [--top N] BACKEND…`.

Runs the probe as the entrypoint does, and dates each of its events as it arrives: what a phase's event begins lasts
until the next one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START = "start"


@dataclass(frozen=True, kw_only=True)
class Span:
    """A step of a phase, such as the compilation of one variant, and its seconds."""

    phase: str
    detail: str
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="torch's name of it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that may compile side by side")
    parser.add_argument("--top", type=int, default=12, help="how many of the longest steps are named")
    parser.add_argument("backends", nargs="+", metavar="BACKEND")
    options = parser.parse_args()
    for backend in options.backends:
        show(backend, list(spans(dated(backend, options.device, options.jobs))), options.top)


def dated(backend: str, device: str, jobs: int) -> Iterator[tuple[float, dict[str, Any]]]:
    """The probe's events, each with the seconds from its start to the event's arrival; then its end."""
    command = [sys.executable, "-P", "-m", "entrypoint.probe", "--backend", backend, "--device", device]
    command += ["--jobs", str(jobs)]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    started = time.monotonic()
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            event = json.loads(line)
            yield time.monotonic() - started, event
            if event["event"] in {"done", "unusable"}:
                child.kill()  # as the entrypoint does


def spans(events: Iterator[tuple[float, dict[str, Any]]]) -> Iterator[Span]:
    phase, detail, since = START, "", 0.0
    for at, event in events:
        if event["event"] in {"phase", "done", "unusable"}:
            yield Span(phase=phase, detail=detail, seconds=at - since)
            phase, detail, since = event.get("name", "end"), event.get("detail", ""), at


def show(backend: str, found: list[Span], top: int) -> None:
    phases: dict[str, float] = defaultdict(float)
    for span in found:
        phases[span.phase] += span.seconds
    total = sum(phases.values())
    print(f"{backend}: {total:.1f} s = " + " + ".join(f"{name} {seconds:.1f}" for name, seconds in phases.items()))
    for span in sorted(found, key=lambda span: -span.seconds)[:top]:
        print(f"  {span.seconds:7.3f} s  {span.phase}: {span.detail}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
