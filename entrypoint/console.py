"""The parent writes to stderr, and only by this module: stdout belongs to the user's command."""

from __future__ import annotations

import sys

from entrypoint.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

NAME: Final = "axolotl-attn"


def say(line: str) -> None:
    write(f"{NAME}: {line}\n")


def write(text: str) -> None:
    """Write to stderr; a stderr that is closed or full must not cost the user their command."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass
