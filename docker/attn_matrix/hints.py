"""The closest known name, for every message about an unknown one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest to `name`, if one is near enough to be what was meant."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=0.5)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'cu128'?`, or `; known: a, b` when nothing is close, or nothing when nothing is known."""
    names = list(known)
    near = closest(name, names)
    if near is not None:
        return f"; did you mean {near!r}?"
    return f"; known: {', '.join(names)}" if names else ""
