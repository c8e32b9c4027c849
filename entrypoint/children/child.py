"""Run the measuring child in a process group of its own, with a hard time limit.

Its events and the end of its output are kept in an Outcome. The parent goes on with that whatever the child does: it
may crash, hang, fill the memory or exit without a word.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final, Generic, TypeVar

from entrypoint.children.outcome import LOG_TAIL, Outcome, Overrun, Witness
from entrypoint.events import Depth, Event
from entrypoint.lines import GO
from entrypoint.machine import activity, devices, limits

POLL: Final = 0.05  # seconds between two looks at a silent child
GRACE: Final = 0.2  # seconds for the last lines of a child that has exited
# Before the limit the child is watched for so many seconds, of a short limit a quarter: one that used this share of a
# processor was computing.
WATCHED: Final = 5.0
COMPUTING: Final = 0.1

# Called with each event as it comes; False ends the child.
OnEvent = Callable[[Event], bool]


W = TypeVar("W", bound=Witness[Any])


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a child may take of the machine, `jobs` processes side by side and `seconds` until it is ended; and how deep
    it looks, with the calls of the run that follows as JSON (shape.py) where they are known.
    """

    jobs: int
    seconds: float
    depth: Depth = "start"
    shape: str = ""


class Worker(Generic[W]):
    """One `python -m MODULE ARGUMENTS --events FD`, a child of this package.

    Use as a context manager: leaving it ends the whole process group. One that `waits` reads "go" from its stdin before
    it does what matters, and ends when it reads nothing: so it does when its parent is killed.
    """

    def __init__(  # noqa: PLR0913 (what a process is made of)
        self,
        home: str,
        module: str,
        arguments: Sequence[str],
        environ: dict[str, str],
        outcome: W,
        *,
        waits: bool = False,
    ) -> None:
        self.outcome = outcome
        self._step_began = time.monotonic()
        self._watched: tuple[float, float] | None = None  # when, and the processor seconds used by then
        self._oom_kills = limits.oom_kills()
        self.asked = (arguments, environ)
        more = ["--wait", "0"] if waits else []
        stdin = subprocess.PIPE if waits else subprocess.DEVNULL
        self._process, self._events = spawn(module, [*arguments, *more], _environment(home, environ), stdin)

    def __enter__(self) -> Worker[W]:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the child, unless that has been done: its number may be another process's by now."""
        if self._events.closed:
            return
        self.kill()
        self._process.wait()
        self._events.close()
        if self._process.stdout:
            self._process.stdout.close()

    def go(self) -> bool:
        """Let a child that waits go on; False where it has ended."""
        if self._process.stdin is None or self._process.poll() is not None:
            return False
        try:
            with self._process.stdin as stdin:
                stdin.write(GO)
        except BrokenPipeError:
            return False
        return True

    def kill(self) -> None:
        """End the child and everything it started, such as compiler workers, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def run(self, deadline: float, on_event: Callable[[Any], bool]) -> W:
        """Read until the child ends, `deadline` (time.monotonic) passes, or `on_event` returns False."""
        lines, log = bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._events, selectors.EVENT_READ, lines)
            if self._process.stdout:
                selector.register(self._process.stdout, selectors.EVENT_READ, log)
            self._read(selector, lines, log, deadline, on_event)
        self.outcome.log = log[-LOG_TAIL:].decode(errors="replace").strip()
        return self.outcome

    def _read(
        self,
        selector: selectors.BaseSelector,
        lines: bytearray,
        log: bytearray,
        deadline: float,
        on_event: Callable[[Any], bool],
    ) -> None:
        """Drain both pipes. Helpers of the child may hold them open, so its own exit ends the wait, not end-of-file."""
        exited_at: float | None = None
        watched_from = deadline - min(WATCHED, (deadline - time.monotonic()) / 4.0)
        while True:
            now = time.monotonic()
            if now >= deadline:
                self._timed_out(now)
                return
            if self._watched is None and now >= watched_from:
                self._watched = (now, activity.processor_seconds(self._process.pid))
            ready = selector.select(min(POLL, deadline - now))
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                key.data.extend(chunk)
                if not chunk:
                    selector.unregister(key.fileobj)
            del log[: -4 * LOG_TAIL]
            if not self._take(lines, on_event):
                self.outcome.ending = "stopped"
                return
            if self.outcome.finished:
                # Nothing more will come, and torch's compiler workers can take nine seconds to say goodbye.
                self.outcome.ending = "done"
                return
            # The look above began after its exit, so it saw all that was written, whatever held this process up before.
            if exited_at is not None and (now - exited_at > GRACE or not selector.get_map()):
                self._ended(self._process.returncode)
                return
            if exited_at is None and self._process.poll() is not None:
                exited_at = time.monotonic()
            elif not selector.get_map():
                time.sleep(POLL)

    def _take(self, lines: bytearray, on_event: Callable[[Any], bool]) -> bool:
        while (end := lines.find(b"\n")) >= 0:
            line = bytes(lines[:end])
            del lines[: end + 1]
            before = (self.outcome.phase, self.outcome.detail)
            event = self.outcome.take(line)
            if (self.outcome.phase, self.outcome.detail) != before:
                self._step_began = time.monotonic()
            if event is not None and not on_event(event):
                return False
        return True

    def _timed_out(self, now: float) -> None:
        """Look, before the child is ended, whether it was computing: a machine may be slow, a child may hang."""
        session = self._process.pid  # a session of its own, so the number is the child's
        since, used = self._watched or (now, 0.0)
        worked = activity.processor_seconds(session) - used > COMPUTING * (now - since)
        self.outcome.ending = "timeout"
        self.outcome.overrun = Overrun(
            lasted=now - self._step_began,
            computing=worked or activity.at_work(session),
            processor=devices.processor(),
            processors=limits.cpus(),
        )

    def _ended(self, code: int) -> None:
        """The child ended before it said that it was done."""
        outcome = self.outcome
        if code < 0:
            outcome.ending, outcome.number = "killed", -code
            outcome.out_of_memory = -code == signal.SIGKILL and limits.oom_kills() > self._oom_kills
        else:
            outcome.ending, outcome.number = "exited", code


class Child(Worker[Outcome]):
    """One `python -m entrypoint.probe`: a backend is measured on a device."""

    def __init__(self, home: str, backend: str, device: str, environ: dict[str, str], share: Share) -> None:
        arguments = ["--backend", backend, "--device", device]
        arguments += ["--jobs", str(share.jobs), "--seconds", f"{share.seconds:.3f}", "--depth", share.depth]
        arguments += ["--shape", share.shape] if share.shape else []
        super().__init__(home, "entrypoint.probe", arguments, environ, Outcome(device=device, backend=backend))


def spawn(
    module: str, arguments: Sequence[str], environ: Mapping[str, str], stdin: int = subprocess.DEVNULL
) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """`python -m MODULE ARGUMENTS --events FD` in a session of its own, and the pipe of its events.

    What it prints comes through its own stdout.
    """
    events, write_end = os.pipe()
    command = [sys.executable, "-P", "-m", module, *arguments, "--events", str(write_end)]
    try:
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(write_end,),
            start_new_session=True,
            env=dict(environ),
        )
    finally:
        os.close(write_end)
    return process, os.fdopen(events, "rb", buffering=0)


def with_our_package(home: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The user's own environment, as CMD will have it; our package comes first, whatever PYTHONPATH holds."""
    paths = [home, *filter(None, [environ.get("PYTHONPATH")])]
    return {**environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def _environment(home: str, environ: Mapping[str, str]) -> dict[str, str]:
    # Threads of torch that wait by spinning tripled the check's time on a busy CPU; CMD's own setting is not touched.
    return with_our_package(home, {"OMP_WAIT_POLICY": "passive", **environ})
