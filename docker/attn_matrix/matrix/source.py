"""YAML as plain Python values plus the line of each, so that a mistake can name its place.

Every scalar stays text: `2.10` is a version and `2027-02-01` a date, and only the types in `attn_matrix.matrix.model`
may say so. A key given twice, which PyYAML accepts silently, is a mistake here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

Location = tuple[str | int, ...]

# libyaml's parser is about ten times as fast; a PyYAML built without it still works.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Mistake:
    """What is wrong at `location`, such as ("images", 2, "platform"); the empty location is the whole file."""

    location: Location
    text: str


@dataclass
class Source:
    """A parsed document: its plain value, the line of each location, and the mistakes that parsing itself found."""

    value: Any = None
    lines: dict[Location, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def line_of(self, location: Location) -> int | None:
        """The line of `location`, or of the nearest thing around it that is written in the file."""
        while location not in self.lines and location:
            location = location[:-1]
        return self.lines.get(location)


def parse(text: str) -> Source:
    """Parse one YAML document. Text that is not YAML gives a Source with one mistake and no value."""
    source = Source()
    try:
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        source.mistakes.append(_syntax(source, error))
        return source
    if node is None:
        return source
    try:
        source.value = _plain(node, (), source)
    except RecursionError:
        source.mistakes.append(Mistake((), "not usable YAML: an alias that holds itself"))
    return source


def _syntax(source: Source, error: yaml.YAMLError) -> Mistake:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        source.lines[()] = mark.line + 1
    said = [getattr(error, name, None) for name in ("context", "problem")]
    problem = ", ".join(text for text in said if text) or str(error).splitlines()[0]
    return Mistake((), f"not valid YAML: {problem}")


def _plain(node: yaml.Node, location: Location, source: Source) -> Any:
    source.lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, location, source)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*location, index), source) for index, item in enumerate(node.value)]
    return None if node.tag == "tag:yaml.org,2002:null" else node.value


def _mapping(node: yaml.MappingNode, location: Location, source: Source) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        if key in result:
            first, again = source.lines[(*location, key)], key_node.start_mark.line + 1
            source.mistakes.append(Mistake((*location, key), f"given twice, in lines {first} and {again}"))
            continue
        source.lines[(*location, key)] = key_node.start_mark.line + 1
        result[key] = _plain(value_node, (*location, key), source)
    return result
