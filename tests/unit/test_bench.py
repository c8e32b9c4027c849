"""`nox -s bench`: promises, whether they hold, and what could not be measured."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from attn_matrix.cli import main
from attn_matrix.commands import bench
from attn_matrix.commands.bench import Promise
from attn_matrix.errors import EngineMissing


def missing(_root: Path) -> Promise:
    raise EngineMissing("no Docker Engine answers", "install it")


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that holds, one that does not, and one that takes an engine."""
    fakes = {
        "fast": lambda _root: Promise("a start", 0.050, 0.020, 3.0),
        "slow": lambda _root: Promise("a render", 1.5, 0.4, 3.0),
        "absent": missing,
    }
    monkeypatch.setattr(bench, "BENCHMARKS", fakes)


def test_a_promise_is_a_ratio_of_two_medians(benchmarks: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Both in milliseconds; the exit code is 1 when one does not hold. What was not measured is listed, with why."""
    assert main(["bench", "fast", "slow", "absent"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["a", "start", "50", "20", "2.50x", "3x", "holds"],
        ["a", "render", "1500", "400", "3.75x", "3x", "DOES", "NOT", "HOLD"],
        ["absent:", "not", "measured:", "no", "Docker", "Engine", "answers"],
    ]
    assert lines[1].index("50") == lines[0].index("measured") + len("measured") - 2


def test_what_cannot_be_measured_breaks_no_promise(benchmarks: None, capsys: pytest.CaptureFixture[str]) -> None:
    """A machine without an engine still measures the rest."""
    assert main(["bench", "fast", "absent"]) == 0
    assert main(["bench", "fsat"]) == 2
    assert "did you mean 'fast'?" in capsys.readouterr().err


def test_a_slower_machine_breaks_no_promise() -> None:
    """Both sides take longer there."""
    assert Promise("a start", 0.050, 0.020, 3.0).holds
    assert Promise("a start", 0.085, 0.034, 3.0).holds
    assert not Promise("a start", 0.085, 0.020, 3.0).holds


def test_processor_time_is_the_commands_own() -> None:
    """A command that sleeps takes none; one that computes takes some."""
    command = [sys.executable, "-I", "-S", "-c"]
    asleep = bench._processor([*command, "import time; time.sleep(0.3)"], os.environ)
    computing = bench._processor([*command, "sum(range(10_000_000))"], os.environ)
    assert asleep < computing
