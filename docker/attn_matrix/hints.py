"""The closest known name, as the host's messages about an unknown one put it."""

from __future__ import annotations

from collections.abc import Iterable

from entrypoint.spelling import closest


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'cu128'?`, or `; known: a, b` when nothing is close, or nothing when nothing is known."""
    names = list(known)
    near = closest(name, names)
    if near is not None:
        return f"; did you mean {near!r}?"
    return f"; known: {', '.join(names)}" if names else ""
