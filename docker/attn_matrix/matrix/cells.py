"""The cells of the matrix: every backend x platform x architecture, and what stands in each.

A platform without architectures, such as a CPU, has one cell for each backend, whose architecture is None. An image
covers the cells of its default backend only, because users pick it for that backend. An image of all backends covers
no cell, because each of its backends has an image of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from attn_matrix.matrix.model import ALL, Exclusion, Image, Tables


class Cell(NamedTuple):
    backend: str
    platform: str
    architecture: str | None


def every(tables: Tables) -> Iterator[Cell]:
    for platform in tables.platforms:
        for backend in tables.backends:
            for architecture in tables.platforms[platform].known or (None,):
                yield Cell(backend, platform, architecture)


def of_image(tables: Tables, image: Image) -> tuple[Cell, ...]:
    if image.combination == ALL:
        return ()
    if not tables.platforms[image.platform].architectures:
        return (Cell(image.default, image.platform, None),)
    return tuple(Cell(image.default, image.platform, a) for a in tables.image_architectures(image))


def of_exclusion(tables: Tables, exclusion: Exclusion) -> Iterator[Cell]:
    for platform in exclusion.platforms:
        for backend in exclusion.backends:
            for architecture in exclusion.architectures or tables.platforms[platform].known or (None,):
                yield Cell(backend, platform, architecture)


def images(tables: Tables) -> dict[Cell, Image]:
    """The image of every cell that has one: the one for most architectures, with Axolotl."""
    result: dict[Cell, Image] = {}
    for image in tables.images:
        for cell in of_image(tables, image):
            result.setdefault(cell, image)
    return result


def exclusions(tables: Tables) -> dict[Cell, int]:
    """The first exclusion of every cell that has one, by its place in images.yaml."""
    result: dict[Cell, int] = {}
    for index, exclusion in enumerate(tables.exclusions):
        for cell in of_exclusion(tables, exclusion):
            result.setdefault(cell, index)
    return result


def combination(exclusion: Exclusion) -> str:
    """An exclusion on one line, such as `fa4 x cu128 (turing, ampere, ada)`."""
    text = f"{', '.join(exclusion.backends)} x {', '.join(exclusion.platforms)}"
    return f"{text} ({', '.join(exclusion.architectures)})" if exclusion.architectures else text


def ids(exclusion: Exclusion) -> Iterator[str]:
    """The ids that images in the excluded cells would have, such as `fa2-rocm` or `fa4-cu128-turing`."""
    for platform in exclusion.platforms:
        for backend in exclusion.backends:
            yield from (f"{backend}-{platform}-{name}" for name in exclusion.architectures)
            if not exclusion.architectures:
                yield f"{backend}-{platform}"
