"""The report as the page that `nox -s fleet -- --html` makes: by a child of the image's Python, which has Jinja2.

The parent of a start is standard library alone, and every image has Jinja2: torch depends on it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from entrypoint.report.text import Report, to_json

FLEET: Final = Path(__file__).resolve().parent.parent / "fleet"
PATIENCE: Final = 60.0  # seconds


def render(report: Report) -> str:
    """The page. Raises OSError with the child's last words when there is none."""
    command = [sys.executable, "-I", str(FLEET)]
    try:
        done = subprocess.run(
            command, input=to_json(report).encode(), capture_output=True, check=False, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(0, f"the page was not made within {PATIENCE:g} s") from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise OSError(0, f"the page could not be made: {last[0]}")
    return done.stdout.decode()
