"""The lines that a child of this package writes: one event each, flushed at once, to a descriptor of their own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self, TextIO

from entrypoint.events import encode_as

GO: Final = b"go\n"  # the only line that a child may be waiting for


def private(descriptor: int) -> TextIO:
    """A stream to `descriptor`; everything else that this process prints on stdout goes to stderr from here on.

    Libraries print where they like (compilers, profilers), and the parent's stdout belongs to the user's command. The
    duplicate is not inherited, so a compiler's worker cannot keep the parent's pipe open. Raises OSError when the
    descriptor is not open.
    """
    duplicate = os.dup(descriptor)
    os.dup2(2, 1)
    return os.fdopen(duplicate, "w", encoding="utf-8")


class Lines:
    """Events of the types in NAMES, and by name how many of them were written."""

    NAMES: ClassVar[Mapping[Any, str]]

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._written: Counter[str] = Counter()

    @classmethod
    def take(cls, descriptor: int) -> Self:
        """Write to `descriptor`, and nothing else there. Raises OSError."""
        return cls(private(descriptor))

    def emit(self, event: Any) -> None:
        """Write one line, and count it for the last one, so that the parent knows what got lost."""
        name = self.NAMES[type(event)]
        self._stream.write(encode_as(name, event) + "\n")
        self._stream.flush()
        self._written[name] += 1
