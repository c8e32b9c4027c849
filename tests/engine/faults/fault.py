"""What a fault is, and what is seen of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.engine.faults.box import Box

RUNS, TRAPPED = 5, 33  # what a command ends with, by itself and by its own handler of SIGTERM
# Without another process or a byte in a file, so that it works where neither can be had.
RAN: Final = 'read name </proc/sys/kernel/hostname; : >"/data/ran-$name"'
SCRIPT: Final = f"{RAN}; exit {RUNS}"
COMMAND: Final = ("sh", "-c", SCRIPT)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A container to which something is done.

    `code`: what it ends with under ATTN_CHECK=enforce, and `warn` under warn; `says`: what a person reads under both, a
    regular expression, in which a group `any` is what differs from machine to machine. `behaviour`: of the fake child,
    "" for the image's own. `before`: a shell script that is run in such a container first; `shell`: one that starts
    ours, as "$@"; `during`: what is done while it runs. `files` are in /data, `together` is the number of such
    containers at once.
    """

    name: str
    code: int
    says: str
    warn: int = RUNS
    behaviour: str = "healthy"
    gpus: int = 0
    spec: Mapping[str, Any] = field(default_factory=dict)
    options: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] = COMMAND
    before: str = ""
    shell: str = ""
    during: Callable[[Box], None] | None = None
    together: int = 1


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The codes of all containers, how many commands ran, and what a person reads: stderr, and where that is lost the
    report."""

    codes: tuple[int, ...]
    ran: int
    text: str
