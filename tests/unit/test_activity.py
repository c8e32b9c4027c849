"""Computing or waiting, as /proc tells it: of recorded trees, and of real processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from entrypoint.machine import activity


def process(proc: Path, pid: int, session: int, state: str, ticks: int) -> None:
    """A process with one thread; `ticks` in each of user, system, and the two of its children that have ended."""
    stat = (
        f"{pid} (a (strange) name) {state} 1 {session} {session} 0 -1 0 0 0 0 0 {ticks} {ticks} {ticks} {ticks} 20 0\n"
    )
    for folder in (proc / str(pid), proc / str(pid) / "task" / str(pid)):
        folder.mkdir(parents=True)
        (folder / "stat").write_text(stat)


def test_only_the_sessions_own_processes_count(tmp_path: Path) -> None:
    """Ended children included, such as a compiler's; what others use does not make ours busy."""
    process(tmp_path, 7, 7, "S", 25)
    process(tmp_path, 8, 7, "S", 50)
    process(tmp_path, 9, 9, "R", 100)

    assert activity.processor_seconds(7, tmp_path) == pytest.approx(4 * 75 / 100)
    assert activity.at_work(7, tmp_path) is False
    assert activity.at_work(9, tmp_path) is True


@pytest.mark.parametrize(("state", "works"), [("R", True), ("D", True), ("S", False), ("Z", False), ("T", False)])
def test_a_thread_that_runs_or_reads_a_disk_is_at_work(tmp_path: Path, state: str, works: bool) -> None:
    """All else waits for something that may never come."""
    process(tmp_path, 7, 7, state, 0)

    assert activity.at_work(7, tmp_path) is works


def test_a_session_that_has_ended_does_nothing(tmp_path: Path) -> None:
    """Nor does a machine without /proc."""
    assert activity.processor_seconds(7, tmp_path / "none") == 0.0
    assert activity.at_work(7, tmp_path) is False


@pytest.mark.parametrize(("code", "computes"), [("while True: pass", True), ("import time; time.sleep(600)", False)])
def test_real_processes(code: str, computes: bool) -> None:
    """A loop uses the processor; a sleep does not."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code], start_new_session=True) as child:
        try:
            assert happens(lambda: used(child.pid, 0.3) == computes)
        finally:
            child.kill()


def used(session: int, seconds: float) -> bool:
    before = activity.processor_seconds(session)
    time.sleep(seconds)
    return activity.processor_seconds(session) > before


def happens(condition: Callable[[], bool]) -> bool:
    """Within a minute: a process takes a moment to start, and longer beside a busy neighbour."""
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        if condition():
            return True
    return False
