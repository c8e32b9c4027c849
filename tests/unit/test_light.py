"""The light dataclasses are the standard library's to whoever uses them."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import pytest

from entrypoint.light import dataclass, field, replace, suppress


@dataclass(frozen=True, kw_only=True)
class Point:
    x: int
    y: int = 2


@dataclass(frozen=True, kw_only=True)
class Square:
    side: int

    @cached_property
    def area(self) -> int:
        return self.side**2


@dataclass(kw_only=True)
class Path:
    points: list[Point] = field(default_factory=list)


def test_values_are_compared_hashed_and_shown_by_their_fields() -> None:
    """And equal to none of another class."""
    assert Point(x=1) == Point(y=2, x=1) != Point(x=1, y=3)
    assert len({Point(x=1), Point(x=1), Point(x=2)}) == 2
    assert repr(Point(x=1)) == "Point(x=1, y=2)"
    other: object = {"x": 1, "y": 2}
    assert Point(x=1) != other


def test_what_is_missing_unknown_or_frozen_is_an_error() -> None:
    """As TypeError, which the spec's reader catches, and AttributeError."""
    with pytest.raises(TypeError, match="Point needs x"):
        Point()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Point has no z"):
        Point(x=1, z=3)  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match="cannot assign to field 'x'"):
        Point(x=1).x = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="unhashable"):
        hash(Path())


def test_a_default_that_is_made_is_made_for_each() -> None:
    first, second = Path(), Path()
    first.points.append(Point(x=1))
    assert (len(first.points), len(second.points)) == (1, 0)


def test_the_standard_librarys_functions_take_them() -> None:
    """fields, asdict and replace, and ours is the same."""
    assert [each.name for each in dataclasses.fields(Point)] == ["x", "y"]
    assert dataclasses.asdict(Path(points=[Point(x=1)])) == {"points": [{"x": 1, "y": 2}]}
    assert dataclasses.replace(Point(x=1), y=5) == replace(Point(x=1), y=5) == Point(x=1, y=5)
    assert dataclasses.is_dataclass(Point)


def test_what_a_value_has_computed_is_no_field_of_it() -> None:
    """Neither in a comparison nor in a changed value."""
    known = Square(side=2)
    assert known.area == 4
    assert known == Square(side=2)
    assert repr(known) == "Square(side=2)"
    assert replace(known, side=3).area == 9


def test_only_the_errors_that_are_named_are_suppressed() -> None:
    with suppress(ValueError, OSError):
        raise FileNotFoundError
    with pytest.raises(KeyError), suppress(ValueError):
        raise KeyError
