"""The report in the forms that orchestrators read, each written to the path that `check --NAME FILE` gives.

Each module here makes the text of one form from a report and does nothing else. None is loaded unless its file was
asked for.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from entrypoint.kept.cache import LIFETIME, write_atomically
from entrypoint.report.text import Report

NAMES: Final = ("html", "junit", "prometheus", "nfd", "npd")


def write(name: str, path: str, report: Report) -> None:
    """Write the form `name` of a report, so that a reader sees the old or the new file. Raises OSError."""
    write_atomically(Path(path), render(name, report, time.time()))


def render(name: str, report: Report, now: float) -> str:
    """The text of a form; `now` is in seconds since 1970. Raises OSError where the page's child fails."""
    match name:
        case "html":
            from entrypoint.writers import html

            return html.render(report)
        case "junit":
            from entrypoint.writers import junit

            return junit.render(report)
        case "prometheus":
            from entrypoint.writers import prometheus

            return prometheus.render(report)
        case "nfd":
            from entrypoint.writers import nfd

            return nfd.render(report, expiry=now + LIFETIME)
        case "npd":
            from entrypoint.writers import npd

            return npd.render(report)
    raise ValueError(f"no form {name!r}")
