"""Where each second of a check goes: the probe's events, each dated as it arrives.

`nox -s bench -- seconds` shows it for the backends that run on this machine. On a GPU host without this project's
environments: `python -P -m attn_matrix.commands.timeline BACKEND…` with `docker/` on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from attn_matrix import ROOT
from attn_matrix.host import engine

START: Final = "start"
LAST: Final = frozenset({"done", "unusable"})
Dated = tuple[float, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Span:
    """A step of a phase, such as the compilation of one variant, and its seconds."""

    phase: str
    detail: str
    seconds: float


def dated(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[Dated]:
    """The events that a command writes to stdout, each with the seconds from its start to the event's arrival.

    The command is ended when it is done, as the entrypoint ends its child.
    """
    started = time.monotonic()
    with contextlib.closing(engine.stream(command, env=environ)) as lines:
        for line in lines:
            event = json.loads(line)
            yield time.monotonic() - started, event
            if event["event"] in LAST:
                return


def spans(events: Iterable[Dated]) -> Iterator[Span]:
    """The steps in order. A step lasts from its event to the event of the next one, or to the end of the probe."""
    phase, detail, since = START, "", 0.0
    for at, event in events:
        if event["event"] == "phase" or event["event"] in LAST:
            yield Span(phase=phase, detail=detail, seconds=at - since)
            phase, detail, since = str(event.get("name")), str(event.get("detail", "")), at


def rows(title: str, found: Sequence[Span], top: int) -> list[str]:
    """The phases' sums in one line, then the longest steps."""
    phases: dict[str, float] = defaultdict(float)
    for span in found:
        phases[span.phase] += span.seconds
    sums = " + ".join(f"{name} {seconds:.1f}" for name, seconds in phases.items())
    longest = sorted(found, key=lambda span: -span.seconds)[:top]
    return [
        f"{title}: {sum(phases.values()):.1f} s = {sums}",
        *(f"  {span.seconds:7.3f} s  {span.phase}: {span.detail}" for span in longest),
    ]


def probe(python: str, backend: str, device: str, jobs: int) -> list[str]:
    """The command of a check's child."""
    return [python, "-P", "-m", "entrypoint.probe", "--backend", backend, "--device", device, "--jobs", str(jobs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="torch's name of it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that may compile side by side")
    parser.add_argument("--top", type=int, default=12, help="how many of the longest steps are named")
    parser.add_argument("backends", nargs="+", metavar="BACKEND")
    options = parser.parse_args()
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    for backend in options.backends:
        command = probe(sys.executable, backend, options.device, options.jobs)
        print("\n".join(rows(backend, [*spans(dated(command, environ))], options.top)), flush=True)


if __name__ == "__main__":
    main()
