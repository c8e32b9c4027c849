"""Images, and exclusions, by glob over their ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import translate
from re import compile as regex

from attn_matrix.errors import UnknownImage, UsageError
from attn_matrix.hints import did_you_mean
from attn_matrix.matrix import cells
from attn_matrix.matrix.model import Exclusion, Image, Matrix

Matcher = Callable[[str], object]


def pick(matrix: Matrix, patterns: Sequence[str]) -> tuple[Image, ...]:
    """The images whose id matches any of `patterns`, in the order of images.yaml; all of them without a pattern.

    Raises UnknownImage with a line for each pattern that matches none: why it is excluded, or the closest id.
    """
    matchers = [_matcher(pattern) for pattern in patterns]
    lost = [p for p, matches in zip(patterns, matchers, strict=True) if not _images(matrix, [matches])]
    if lost:
        raise UnknownImage(*(_why_not(matrix, pattern) for pattern in lost))
    return _images(matrix, matchers) if matchers else matrix.images


def pick_planned(matrix: Matrix, patterns: Sequence[str]) -> tuple[tuple[Image, ...], tuple[Exclusion, ...]]:
    """The images and the exclusions that match; all without a pattern. Raises UnknownImage when one matches neither."""
    if not patterns:
        return matrix.images, matrix.exclusions
    matchers = [_matcher(pattern) for pattern in patterns]
    for pattern, matches in zip(patterns, matchers, strict=True):
        if not _images(matrix, [matches]) and not _exclusions(matrix, [matches]):
            raise UnknownImage(_why_not(matrix, pattern))
    return _images(matrix, matchers), _exclusions(matrix, matchers)


def _matcher(pattern: str) -> Matcher:
    return regex(translate(pattern)).match


def _images(matrix: Matrix, matchers: Sequence[Matcher]) -> tuple[Image, ...]:
    return tuple(image for image in matrix.images if any(matches(image.id) for matches in matchers))


def _exclusions(matrix: Matrix, matchers: Sequence[Matcher]) -> tuple[Exclusion, ...]:
    return tuple(
        exclusion
        for exclusion in matrix.exclusions
        if any(matches(name) for name in cells.ids(exclusion) for matches in matchers)
    )


def _why_not(matrix: Matrix, pattern: str) -> str:
    excluded = _exclusions(matrix, [_matcher(pattern)])
    if excluded:
        first = excluded[0]
        return f"no image {pattern!r}, it is excluded ({first.status}): {first.reason} ({first.source})"
    return f"no image {pattern!r}" + did_you_mean(pattern, [image.id for image in matrix.images])


def pick_one(matrix: Matrix, pattern: str) -> Image:
    """The one image that `pattern` matches. Raises UnknownImage, or UsageError when it matches several."""
    images = pick(matrix, [pattern])
    if len(images) > 1:
        raise UsageError(f"{pattern!r} matches {', '.join(image.id for image in images)}", "give one of them")
    return images[0]
