"""Which remembered verdicts are used, and which are kept at all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entrypoint.kept import cache
from entrypoint.report.text import SUMMARY_BYTES, summary

KEY = {"image": "sdpa-cpu"}
REPORT: dict[str, Any] = {"verdict": "PASS"}


def entry_of(directory: Path) -> Path:
    """The one file that a PASS for KEY leaves."""
    cache.save(str(directory), KEY, REPORT, pytest.fail)
    (path,) = directory.iterdir()
    return path


def test_what_was_kept_is_found(tmp_path: Path) -> None:
    """The same key, within the day."""
    entry_of(tmp_path)

    assert cache.load(str(tmp_path), KEY, pytest.fail) == REPORT


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"key": {"image": "another"}}, "it was made for something else"),
        ({"report": {"verdict": "FAIL"}}, "it holds no verdict that lets a start go on"),
        ({"report": {"verdict": "DEGRADED"}}, "it is not as it was written"),
        ({"report": {"verdict": "PASS", "more": 1}}, "it is not as it was written"),
        ({"digest": None}, "it is not as it was written"),
        ({"schema": 0}, "it is not a verdict of this version"),
        ({"saved": time.time() + 3600}, "older than 24 hours or from the future"),
    ],
)
def test_a_foreign_entry_is_ignored(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    """Somebody's copy under our name, a failure, another version, a clock that went back."""
    path = entry_of(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    notes: list[str] = []

    assert cache.load(str(tmp_path), KEY, notes.append) is None
    assert says in notes[0]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Nobody writes into it, so that a start would never end."""
    path = entry_of(tmp_path)
    path.unlink()
    os.mkfifo(path)
    notes: list[str] = []

    assert cache.load(str(tmp_path), KEY, notes.append) is None
    assert "cannot be read (it is no file)" in notes[0]


def test_brackets_without_an_end_are_ignored(tmp_path: Path) -> None:
    """More of them than Python's reader of JSON can count."""
    entry_of(tmp_path).write_text("[" * 100_000)
    notes: list[str] = []

    assert cache.load(str(tmp_path), KEY, notes.append) is None
    assert "it is not a verdict of this version" in notes[0]


@pytest.mark.parametrize("verdict", ["FAIL", "NOT_CHECKED"])
def test_a_failure_is_not_kept(tmp_path: Path, verdict: str) -> None:
    """Someone may mend the node."""
    cache.save(str(tmp_path), KEY, {"verdict": verdict}, pytest.fail)

    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An image's files, as far as a verdict depends on them."""
    (tmp_path / "entrypoint/probe").mkdir(parents=True)
    for name in ("image.json", "sources.sha256", "entrypoint/main.py", "entrypoint/probe/cases.py"):
        (tmp_path / name).write_text("as built")
    return tmp_path


def changed(path: Path) -> None:
    """Other bytes, and no other size or time."""
    before = path.stat()
    path.write_text("AS BUILT")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def longer(path: Path) -> None:
    before = path.stat()
    path.write_text("as built, and more")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def later(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (changed, "image.json"),
        (changed, "sources.sha256"),
        (longer, "entrypoint/probe/cases.py"),
        (later, "entrypoint/main.py"),
        (Path.touch, "entrypoint/probe/new.py"),
        (Path.unlink, "entrypoint/probe/cases.py"),
        (Path.unlink, "sources.sha256"),
    ],
)
def test_another_file_of_the_image_is_another_key(home: Path, change: Callable[[Path], None], name: str) -> None:
    """A source that is longer, later, new or gone; any byte of the spec, and of what the build read of the sources."""
    before = cache._content(home)
    change(home / name)

    assert cache._content(home) != before


def test_what_python_compiles_is_not_part_of_the_key(home: Path) -> None:
    """Nor is anything else that a start writes beside it."""
    before = cache._content(home)
    (home / "entrypoint/__pycache__").mkdir()
    for name in ("entrypoint/__pycache__/main.cpython-311.pyc", "entrypoint/__pycache__/odd.py", "entrypoint/x.txt"):
        (home / name).touch()

    assert cache._content(home) == before


def test_the_summary_fits_a_termination_message() -> None:
    """Kubernetes cuts at 4096 bytes; a cut within a character must not matter."""
    report = {
        "verdict": "FAIL",
        "code": {"name": "WRONG", "number": 92},
        "cached": False,
        "image": {"id": "sdpa-cpu"},
        "headline": {"what": "é" * 3000, "advice": ""},
        "reasons": ["x"],
    }

    text = summary(report)

    assert SUMMARY_BYTES - 2 <= len(text.encode()) <= SUMMARY_BYTES
