"""The known word that was probably meant, for every message about an unknown one: on the host and in the container."""

from __future__ import annotations

from entrypoint.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is nearest to `word`, or None when none is near enough to have been meant."""
    import difflib  # here, because a start that meets no unknown word has no use for it

    return next(iter(difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.5)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence: "Did you mean 'x'?" with the closest word, or a list of them all when none is near."""
    words = sorted(known)
    near = closest(word, words)
    return f"Did you mean {near!r}?" if near else f"Known: {', '.join(words)}."
