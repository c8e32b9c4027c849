"""The report of a start, to all who read it: files, Kubernetes, stderr, stdout, and the exit code."""

from __future__ import annotations

import os

from entrypoint.console import answer, write
from entrypoint.kept.cache import write_atomically
from entrypoint.light import TYPE_CHECKING, suppress
from entrypoint.report.text import summary, to_json, to_text

if TYPE_CHECKING:
    from typing import Any, Final

    from entrypoint.start import Start

TERMINATION_LOG: Final = "/dev/termination-log"


def publish(start: Start, path: str, report: dict[str, Any]) -> int:
    """The report to its files, to Kubernetes, to stderr, and to stdout when asked; none of them may stop the start.

    Returns the exit code that the report means.
    """
    report = {**report, "node": start.environ.get("NODE_NAME") or os.uname().nodename}
    for name, target in start.arguments.files.items():
        _write_form(name, target, report)
    try:
        write_atomically(path, to_json(report))
    except OSError as error:
        report["notes"].append(f"The report could not be written to {path} ({error.strerror}).")
    _tell_kubernetes(report)
    if start.speaks or report["verdict"] != "PASS":
        write(to_text(report))
    if start.speaks and start.arguments.as_json:
        answer(to_json(report))
    return _code(start, int(report["code"]["number"]))


def _write_form(name: str, target: str, report: dict[str, Any]) -> None:
    """Write one of the forms that `check` was asked for; a note in the report when that is impossible."""
    from entrypoint import writers

    try:
        writers.write(name, target, report)
    except Exception as error:  # noqa: BLE001  (whatever it is, a form of the verdict must not cost the verdict)
        why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        report["notes"].append(f"check --{name} could not write {target} ({why}).")


def _tell_kubernetes(report: dict[str, Any]) -> None:
    """The summary as the container's termination message."""
    # The file is never created: only Kubernetes provides it.
    with suppress(OSError), open(TERMINATION_LOG, "r+", encoding="utf-8") as file:
        file.truncate()
        file.write(summary(report))


def _code(start: Start, number: int) -> int:
    """An exit code of the contract, in the codes that the caller reads."""
    if not start.arguments.nvsentinel:
        return number
    from entrypoint.writers.nvsentinel import exit_code

    return exit_code(number)
