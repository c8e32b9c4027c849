"""Read images.yaml: all of its mistakes at once, or a Matrix.

The order is: YAML, then the type of each value, then what values say of each other. An entry with a mistake of type is
left out of the last step, so that one mistake is told once.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from attn_matrix.errors import MatrixError
from attn_matrix.hints import did_you_mean
from attn_matrix.matrix.forms import FORMS, TEXT
from attn_matrix.matrix.model import Matrix, Tables
from attn_matrix.matrix.names import Declared
from attn_matrix.matrix.references import check
from attn_matrix.matrix.source import Location, Mistake, Source, parse
from entrypoint.spelling import closest

FILE = "images.yaml"


def read(path: Path) -> Matrix:
    """The Matrix in the file at `path`. Raises MatrixError with a line for each mistake in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MatrixError(f"{path.name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MatrixError(f"{path.name}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    return load(text, path.name)


def load(text: str, name: str = FILE) -> Matrix:
    """The Matrix that `text` says; `name` is the file's name in messages. Raises MatrixError."""
    source = parse(text)
    readable = source.value is not None or not source.mistakes
    matrix, mistakes = _validate(source) if readable else (None, [])
    if matrix is None or mistakes or source.mistakes:
        raise MatrixError(*_lines([*source.mistakes, *mistakes], source, name))
    return matrix


def _validate(source: Source) -> tuple[Matrix | None, list[Mistake]]:
    if not isinstance(source.value, dict):
        found = "is empty" if source.value is None else f"holds {_kind(source.value)}"
        return None, [Mistake((), f"{found}: it must be a mapping with the keys {', '.join(_keys_at(()))}")]
    names = _names(source.value)
    try:
        matrix = Matrix.model_validate(source.value)
    except ValidationError as error:
        shape = [_mistake(detail) for detail in _once(error.errors(include_url=False))]
        touched = {mistake.location[0] for mistake in shape}
        return None, [*shape, *check(_sound_part(source.value), names, touched)]
    return matrix, check(matrix, names, ())


def _sound_part(value: Mapping[str, Any]) -> Tables:
    """The tables of `value` without its unknown keys, and without every entry that has another mistake of type."""
    rest = {section: value[section] for section in _keys(Tables) if section in value}
    try:
        return Tables.model_validate(rest, extra="ignore")
    except ValidationError as error:
        broken = [_location(detail) for detail in error.errors(include_url=False)]
        return Tables.model_validate(_without(rest, broken), extra="ignore")


def _names(value: Mapping[str, Any]) -> Declared:
    """The names that the file declares, those of broken entries included: a reference to one of them is no mistake."""
    return {key: tuple(section) for key, section in value.items() if isinstance(section, dict)}


def _without(value: Mapping[str, Any], broken: Iterable[Location]) -> dict[str, Any]:
    """The tables of `value` without every entry that has a mistake; an absent or unusable table becomes empty."""
    entries = {location[:2] for location in broken if len(location) > 1}
    whole = {location[0] for location in broken if len(location) == 1}
    result: dict[str, Any] = {}
    for section, field in _keys(Tables).items():
        content: dict[str, Any] | list[Any] = {} if get_origin(field.annotation) is dict else []
        given = value.get(section, content)
        if section in whole or not isinstance(given, type(content)):
            result[section] = content
        elif isinstance(given, dict):
            result[section] = {key: item for key, item in given.items() if (section, key) not in entries}
        else:
            result[section] = [item for index, item in enumerate(given) if (section, index) not in entries]
    return result


def _once(details: Iterable[ErrorDetails]) -> list[ErrorDetails]:
    """A misspelt key is unknown, and so what was meant is missing: keep the first of the two."""
    unknown = [detail["loc"] for detail in details if detail["type"] == "extra_forbidden"]
    meant = {(*loc[:-1], closest(str(loc[-1]), _keys_at(loc[:-1]))) for loc in unknown}
    return [detail for detail in details if detail["type"] != "missing" or detail["loc"] not in meant]


def _location(detail: ErrorDetails) -> Location:
    """Where it is; pydantic marks a wrong key, not its value, with a last part of its own."""
    return tuple(part for part in detail["loc"] if part != "[key]")


def _mistake(detail: ErrorDetails) -> Mistake:
    """One of pydantic's findings in our words."""
    location = _location(detail)
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    match kind:
        case "missing":
            text = "is missing"
        case "extra_forbidden":
            text = "unknown key" + did_you_mean(str(location[-1]), _keys_at(location[:-1]))
        case "string_pattern_mismatch" if context["pattern"] == TEXT:
            text = "is empty"
        case "string_pattern_mismatch":
            text = f"{given!r} is not {FORMS[context['pattern']]}"
        case "literal_error":
            text = f"{given!r} is not one of {context['expected']}"
        case "too_short":
            text = "is empty"
        case "less_than_equal":
            text = f"{given!r} is more than {context['le']:g}"
        case "greater_than":
            text = f"{given!r} is not more than {context['gt']:g}"
        case "float_parsing":
            text = f"{given!r} is not a number"
        case _ if kind.startswith("date"):
            text = f"{given!r} is not a date such as 2027-02-01"
        case _ if kind.endswith("_type"):
            text = f"must be {_EXPECTED.get(kind, 'text')}, not {_kind(given)}"
        case _:
            text = f"{given!r}: {detail['msg'].lower()}"
    return Mistake(location, text)


_EXPECTED = {"model_type": "a mapping", "dict_type": "a mapping", "tuple_type": "a list", "float_type": "a number"}


def _kind(value: Any) -> str:
    """What a person calls a YAML value."""
    kinds = {dict: "a mapping", list: "a list", type(None): "nothing"}
    return kinds.get(type(value), f"the text {value!r}")


def _keys_at(location: Location) -> tuple[str, ...]:
    """The keys that the mapping at `location` may have, by walking the types down from Matrix."""
    kind: Any = Matrix
    for part in location:
        kind = _inner(kind, part)
    if kind is Matrix:
        return ("project", *_keys(Tables))
    return tuple(_keys(kind)) if isinstance(kind, type) and issubclass(kind, BaseModel) else ()


def _keys(kind: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a type by their names in the file."""
    return {field.alias or name: field for name, field in kind.model_fields.items()}


def _inner(kind: Any, part: str | int) -> Any:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        kind = _keys(kind)[str(part)].annotation
    else:
        arguments = get_args(kind)
        kind = arguments[1] if get_origin(kind) is dict else arguments[0]
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(argument for argument in get_args(kind) if argument is not type(None))
    return kind


def _lines(mistakes: Iterable[Mistake], source: Source, name: str) -> list[str]:
    """The mistakes in the order of the file, each with file, line and path."""
    ordered = sorted(mistakes, key=lambda mistake: source.line_of(mistake.location) or 0)
    return [_line(mistake, source, name) for mistake in ordered]


def _line(mistake: Mistake, source: Source, name: str) -> str:
    line = source.line_of(mistake.location)
    place = name if line is None else f"{name}:{line}"
    return ": ".join(filter(None, (place, path(mistake.location), mistake.text)))


def path(location: Location) -> str:
    """A location as a person writes it: ("images", 2, "platform") is `images[2].platform`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")
