"""Which positions a batch has: documents of many lengths from a fixed seed, packed or padded. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from entrypoint.shape import Shape

SEED: Final = 20
SHORTEST: Final = 16
# Axolotl pads a batch to a multiple of 64 (pad_to_multiple_of), so its longest row has half of that on average.
PADDING: Final = 32
# Query rows of a batch whose output and gradients are compared with float64.
SAMPLED: Final = 48
# Where tiles of kernels end.
_EDGES: Final = (63, 64, 127, 128)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """`documents`: the lengths of each row's documents in their order; behind the last one a row of `length` positions
    is padding. A packed batch has none, and may be a single row."""

    length: int
    documents: tuple[tuple[int, ...], ...]
    packed: bool

    @property
    def rows(self) -> int:
        return len(self.documents)

    def spans(self, row: int) -> Iterator[tuple[int, int]]:
        """Where each document of a row begins and ends."""
        ends = list(accumulate(self.documents[row]))
        return zip([0, *ends], ends, strict=False)


def batch_of(shape: Shape, *, one_row: bool) -> Batch:
    """The same documents for every backend, however it lays them out."""
    draw = random.Random(SEED)
    if not shape.packed:
        longest = max(1, shape.length - min(PADDING, shape.length // 16))
        lengths = [longest, *(draw.randint(max(1, longest // 2), longest) for _ in range(shape.rows - 1))]
        return Batch(length=shape.length, documents=tuple((length,) for length in lengths), packed=False)
    rows = tuple(tuple(_packed(shape.length, draw)) for _ in range(shape.rows))
    if one_row:
        rows = (tuple(length for row in rows for length in row),)
    return Batch(length=shape.length * (shape.rows if one_row else 1), documents=rows, packed=True)


def _packed(length: int, draw: random.Random) -> Iterator[int]:
    """Documents of a sixteenth to a half of the row, which fill it."""
    left = length
    while left > 0:
        document = max(SHORTEST, int(length * draw.uniform(1 / 16, 1 / 2)))
        document = left if left - document < SHORTEST else document
        yield document
        left -= document


def sampled(batch: Batch, window: int | None) -> tuple[tuple[int, ...], ...]:
    """Positions of each row: first and last, both sides of documents', tiles' and the window's edges, and random ones;
    padding is none of them. A row that is longer gets more."""
    draw = random.Random(SEED)
    share = max(8, SAMPLED // batch.rows)
    return tuple(_of_row(list(batch.spans(row)), window, share, draw) for row in range(batch.rows))


def _of_row(spans: list[tuple[int, int]], window: int | None, share: int, draw: random.Random) -> tuple[int, ...]:
    end = spans[-1][1]
    inner = [edge for start, _ in spans[1:] for edge in (start - 1, start, start + 1)]
    edges = [*_EDGES, *((window - 1, window, window + 1) if window else ()), *(end // 2 + step for step in (-1, 0))]
    chosen = [0, end - 1, *draw.sample(inner, min(len(inner), share // 3))]
    chosen += draw.sample(edges, min(len(edges), share // 3))
    chosen += [draw.randrange(end) for _ in range(share - len(chosen))]
    return tuple(sorted({position for position in chosen if 0 <= position < end}))
