"""Runs inside an image: many rehearsals after one import of Axolotl, each in a process that is forked off.

stdin: a line of JSON for each rehearsal, with name, folder, seeded, seed and limit; stdout: one for each answer, with
name, code, verdict, reason, the report's part `rehearsal`, seconds, and cpu (seconds too). All but the start of the
child is the entrypoint's own: it looks at the configuration, reads the child's events, and judges.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Final

HOME: Final = "/opt/attn"


class Forked:
    """What entrypoint.child needs of a subprocess.Popen; the child goes on from here, with all that is imported."""

    job: dict[str, Any]  # the one to be started next

    def __init__(self, command: list[str], **options: Any) -> None:
        reads, writes = os.pipe()
        self.returncode: int | None = None
        self.cpu = 0.0
        self.pid = os.fork()
        if not self.pid:
            os.close(reads)
            self._become(command[command.index("entrypoint.rehearsal") + 1 :], options["env"], writes)
        os.close(writes)
        self.stdout: IO[bytes] = os.fdopen(reads, "rb", buffering=0)

    def _become(self, arguments: list[str], environ: dict[str, str], output: int) -> None:
        """The rehearsal's child, from its import on. Does not return."""
        try:
            os.setsid()
            os.environ.update(environ)
            for number in (1, 2):
                os.dup2(output, number)
            if self.job["seeded"]:
                import_module("planted.plant").plant(self.job["seeded"])
            import_module("entrypoint.rehearsal.__main__").main([*arguments, "--seed", str(self.job["seed"])])
        finally:
            os._exit(1)

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        return self._wait(0)

    def _wait(self, how: int) -> int | None:
        if self.returncode is None:
            pid, status, usage = os.wait4(self.pid, how)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                self.cpu = usage.ru_utime + usage.ru_stime
        return self.returncode


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Axolotl prints while it is imported, and the stages
    import_module("entrypoint.rehearsal.training").imported()
    import_module("axolotl.core.builders")  # with its trainers: a rehearsal comes to them later
    gc.freeze()  # what is here already is no garbage, and the children need not look for it in it
    begun: list[Forked] = []

    def popen(*arguments: Any, **options: Any) -> Forked:
        begun.append(Forked(*arguments, **options))
        return begun[-1]

    child: Any = import_module("entrypoint.children.child")
    child.subprocess = SimpleNamespace(**vars(child.subprocess) | {"Popen": popen})
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for line in sys.stdin:
        Forked.job = json.loads(line)
        began = time.monotonic()
        answer = rehearsed(Forked.job["folder"], Forked.job["limit"])
        answer |= {"name": Forked.job["name"], "seconds": time.monotonic() - began, "cpu": begun[-1].cpu}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def rehearsed(folder: str, limit: float) -> dict[str, Any]:
    """What a start in `folder` would find, from its preflight on, without the check of the kernel."""
    from entrypoint.children import rehearse
    from entrypoint.machine.devices import look as devices
    from entrypoint.preflight.commandline import Request
    from entrypoint.preflight.flight import look
    from entrypoint.spec import from_json

    os.chdir(folder)
    spec, environ = from_json(Path(HOME, "image.json").read_text()), dict(os.environ)
    flight = look(Request(action="train", config="config.yml"), spec, devices(environ, vendor=spec.vendor), environ)
    assert flight is not None
    wanted = rehearse.Wanted(
        flight=flight,
        home=HOME,
        environ=environ,
        seconds=limit,
        deadline=time.monotonic() + limit,
        directory=None,
        key=None,
        note=lambda sentence: None,
    )
    empty = {
        "headline": {"what": "", "advice": ""},
        "verdict": "PASS",
        "code": {"number": 0},
        "reasons": [],
        "logs": [],
    }
    report = rehearse.rehearsed(wanted, empty)
    part = report["rehearsal"]
    return {"code": report["code"]["number"], "verdict": report["verdict"], "reason": part["reason"], "rehearsal": part}


if __name__ == "__main__":
    main()
