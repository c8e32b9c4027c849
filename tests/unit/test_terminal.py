"""Tables: in a terminal by rich, in a pipe plain."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from attn_matrix import ROOT
from attn_matrix.commands.terminal import Table, fitted, plain

TABLE = Table(
    [("fa4", "1", "flash-attn-4[cu13]==4.0.0b36"), ("sdpa", "12", "two words\nhttps://example.org/a/long/link")],
    ("NAME", "N", "WHAT"),
    right=(1,),
)
ROWS = [
    "NAME   N  WHAT",
    "fa4    1  flash-attn-4[cu13]==4.0.0b36",
    "sdpa  12  two words",
    "          https://example.org/a/long/link",
]
SCRIPT = (
    "from attn_matrix.commands import terminal; terminal.show('title', terminal.Table([('ok', 'x'), ('FAIL', 'y')]))"
)


def test_a_pipe_gets_whole_lines() -> None:
    """Columns are two blanks apart, numbers end together, and nothing is wrapped."""
    assert plain("title", TABLE).splitlines() == ["title", *ROWS]
    assert plain(Table(TABLE.rows[:1], indent=2)) == "  fa4  1  flash-attn-4[cu13]==4.0.0b36"
    assert plain(Table([], ("A", "B"))) == "A  B"


def test_a_wide_terminal_shows_the_same_as_a_pipe() -> None:
    """The two ways to lay a table out agree; brackets are no markup."""
    assert fitted("title", TABLE, width=200) == plain("title", TABLE)


@pytest.mark.parametrize("width", [24, 30, 40])
def test_a_narrow_terminal_loses_nothing(width: int) -> None:
    """The last column wraps, a link that is longer is folded, and no line is wider than the terminal."""
    lines = fitted(TABLE, width=width).splitlines()
    assert max(len(line) for line in lines) <= width
    assert "https://example.org/a/long/link" in "".join(line[10:] for line in lines)


def run(**options: object) -> subprocess.CompletedProcess[bytes]:
    environ = {"PYTHONPATH": f"{ROOT / 'docker'}:{ROOT}", "TERM": "xterm-256color", "COLUMNS": "80", "FORCE_COLOR": "1"}
    command = [sys.executable, "-P", "-c", f"{SCRIPT}; import sys; sys.exit('rich' in sys.modules)"]
    return subprocess.run(command, env=environ, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_a_pipe_gets_no_colour_and_needs_no_rich() -> None:
    """Not even where a CI system asks for colours: what greps its log wants none."""
    done = run(capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"title\nok    x\nFAIL  y\n")


def test_a_terminal_gets_colour() -> None:
    """A pseudo-terminal stands for it: FAIL is red there."""
    ours, theirs = pty.openpty()
    try:
        assert run(stdout=theirs).returncode == 1
        shown = os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"\x1b[1;31mFAIL\x1b[0m" in shown
