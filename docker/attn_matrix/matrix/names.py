"""Names that one entry of images.yaml uses of another section: each has to exist, and to be there once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from attn_matrix.hints import did_you_mean
from attn_matrix.matrix.source import Location, Mistake

# The names that each section of the file declares.
Declared = Mapping[str, Collection[str]]

_SINGULAR = {"bases": "base", "architectures": "architecture", "platforms": "platform", "backends": "backend"}


def unknown(names: Declared, section: str, used: Iterable[str], location: Location) -> Iterator[Mistake]:
    """A mistake for each of the `used` names that `section` does not declare."""
    known = names.get(section, ())
    for name in used:
        if name not in known:
            yield Mistake(location, f"unknown {_SINGULAR[section]} {name!r}" + did_you_mean(name, known))


def twice(used: Iterable[str], location: Location) -> Iterator[Mistake]:
    seen: set[str] = set()
    for name in used:
        if name in seen:
            yield Mistake(location, f"names {name!r} twice")
        seen.add(name)
