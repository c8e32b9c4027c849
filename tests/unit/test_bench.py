"""`nox -s bench`: promises, whether they hold, and what could not be measured."""

from __future__ import annotations

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
        "fast": lambda _root: Promise("a start", 0.050, 0.020, 0.060),
        "slow": lambda _root: Promise("a render", 1.5, 0.0, 1.0),
        "absent": missing,
    }
    monkeypatch.setattr(bench, "BENCHMARKS", fakes)


def test_a_promise_is_a_difference_of_two_medians(benchmarks: None, capsys: pytest.CaptureFixture[str]) -> None:
    """In milliseconds; the exit code is 1 when one does not hold. What was not measured is listed with its reason."""
    assert main(["bench", "fast", "slow", "absent"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["a", "start", "50", "20", "30", "60", "2.50x", "holds"],
        ["a", "render", "1500", "0", "1500", "1000", "-", "DOES", "NOT", "HOLD"],
        ["absent:", "not", "measured:", "no", "Docker", "Engine", "answers"],
    ]
    assert lines[1].index("50") == lines[0].index("measured") + len("measured") - 2


def test_what_cannot_be_measured_breaks_no_promise(benchmarks: None, capsys: pytest.CaptureFixture[str]) -> None:
    """A machine without an engine still measures the rest."""
    assert main(["bench", "fast", "absent"]) == 0
    assert main(["bench", "fsat"]) == 2
    assert "did you mean 'fast'?" in capsys.readouterr().err
