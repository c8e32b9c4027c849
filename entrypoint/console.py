"""The parent writes only by this module: to stderr, and to stdout, which is the command's, what the user asked for."""

from __future__ import annotations

import os
import sys

from entrypoint.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

NAME: Final = "axolotl-attn"


def say(line: str) -> None:
    write(f"{NAME}: {line}\n")


def write(text: str) -> None:
    """Write to stderr; a stderr that is closed or full must not cost the user their command."""
    _write("stderr", text)


def answer(text: str) -> None:
    """Write to stdout; where that is impossible, stderr has why."""
    if problem := _write("stdout", text):
        say(f"standard output cannot be written ({problem}).")


def _write(name: str, text: str) -> str | None:
    """Why it could not be written.

    A stream that has failed is given up: Python would try again at its end, and exit with 120 in place of our code.
    """
    try:
        stream = getattr(sys, name)
        stream.write(text)
        stream.flush()
    except (OSError, ValueError, AttributeError) as error:
        setattr(sys, name, None)
        return getattr(error, "strerror", None) or "it is closed"
    return None


def hold_closed() -> None:
    """Let /dev/null stand for each of stdin, stdout and stderr that is closed, until the command gets them so.

    Else a pipe of ours would get its number, and a child would take that for its own stream.
    """
    try:
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(number)
    except OSError:  # no file may be opened, so no pipe either
        pass
