"""Two ranks of gloo for each fault, with torch imported once: `python -m tests.collective.forked FAULT…`.

Prints one JSON object a fault: the verdict, code and sentence of the worst finding. `healthy` plants nothing.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

import torch
import torch.distributed as dist

from entrypoint.children.ranks import Ranks
from entrypoint.collective.__main__ import main as be_a_rank
from entrypoint.collective.board import GAVE_UP
from entrypoint.judge.collective import judge_collective
from tests.collective.seeded import FAULTS, FAULTY

SECONDS = 12.0  # after which a rank says what it knows; a healthy one takes less than one on an idle machine
SIZE = 1 << 18


class Done:
    """What stands for the work of a collective that is over."""

    def wait(self) -> bool:
        return True


def plant_here(fault: str) -> None:
    """Put the fault in the place of the function that it is named after."""
    code = FAULTS[fault]
    name = code.split("def ", 1)[1].split("(", 1)[0]
    module: Any = torch if name == "add" else dist
    scope = {"real": getattr(module, name), "os": os, "signal": signal, "time": time, "calls": [], "Done": Done}
    exec(code, scope)  # it is ours
    setattr(module, name, scope[name])


def start(rank: int, port: int, fault: str) -> tuple[int, int]:
    """The process of a rank, and the pipe of its events."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return pid, read_end
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if fault in FAULTS and rank == FAULTY:
        plant_here(fault)
    try:
        be_a_rank(["--device=cpu", f"--sizes={SIZE}", f"--seconds={SECONDS}", f"--events={write_end}"])
    finally:
        os._exit(1)


def run(fault: str) -> Ranks:
    """Both ranks to their end, or to the limit."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    pipes = {rank: start(rank, port, fault) for rank in range(2)}
    ranks = Ranks(world_size=2, ours=(0, 1), seconds=SECONDS)
    waiting, lines = {fd: rank for rank, (_, fd) in pipes.items()}, {0: b"", 1: b""}
    deadline = time.monotonic() + SECONDS + 10.0
    while waiting and time.monotonic() < deadline:
        for fd in select.select(list(waiting), [], [], 0.1)[0]:
            chunk = os.read(fd, 1 << 16)
            lines[waiting[fd]] += chunk
            if not chunk:
                del waiting[fd]
    for rank, (pid, fd) in pipes.items():
        end(ranks, rank, pid, timed_out=fd in waiting)
        os.close(fd)
    for text in lines.values():
        for line in text.splitlines():
            ranks.take(line)
    return ranks


def end(ranks: Ranks, rank: int, pid: int, *, timed_out: bool) -> None:
    facts = ranks.facts[rank]
    if timed_out:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if timed_out:
        facts.ending = "timeout"
    elif code < 0:
        facts.ending, facts.number = "killed", -code
    else:
        facts.ending = {0: "over", GAVE_UP: "gave-up"}.get(code, "exited")  # type: ignore[assignment]
        facts.number = code


def main() -> None:
    torch.set_num_threads(1)
    for fault in sys.argv[1:]:
        worst = judge_collective(run(fault), fails=True)[0]
        document = {"fault": fault, "verdict": worst.verdict, "code": worst.code.value, "says": worst.sentence}
        print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
