"""What a child is at, on the screen of who waits."""

from __future__ import annotations

import re
import time

import pytest

from entrypoint.children.progress import Progress


def test_each_step_is_shown_once_as_it_begins(capsys: pytest.CaptureFixture[str]) -> None:
    """A child says the same step again and again; one that comes back later is shown again."""
    progress = Progress("cuda:1 fa4", time.monotonic() - 61.0)

    for step in ("import", "import", "compile", "import"):
        progress.show(step)

    lines = capsys.readouterr().err.splitlines()
    told = [re.fullmatch(r"axolotl-attn: \[ (6\d\.\d) s\] cuda:1 fa4: (\w+)", line) for line in lines]
    assert [each and each[2] for each in told] == ["import", "compile", "import"]
