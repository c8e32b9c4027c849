"""Tables on stdout: by rich in a terminal, fitted to it and in colour; plain in a pipe, where no line is wrapped.

A pipe needs no rich, which would take half a second for a thousand rows.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# The colours of cells that say how something went.
STYLES: Final = {"ok": "green", "holds": "green", "FAIL": "bold red", "DOES NOT HOLD": "bold red"}
GAP: Final = 2


@dataclass(frozen=True)
class Table:
    """Rows of cells, of which one may have several lines; `head` names the columns, or is empty.

    The columns in `right` are aligned to the right, the last `wrapped` ones wrap, and all is moved in by `indent`.
    """

    rows: Sequence[Sequence[str]]
    head: Sequence[str] = ()
    right: Collection[int] = ()
    wrapped: int = 1
    indent: int = 0


Part = Table | str


def show(*parts: Part) -> None:
    """Print tables and lines to stdout. Nothing in them is markup: `flash-attn-4[cu13]` is a package."""
    if sys.stdout.isatty():
        from rich.console import Console

        _print(Console(highlight=False, markup=False, emoji=False), parts)
    else:
        print(plain(*parts), flush=True)


def plain(*parts: Part) -> str:
    """Each row on a line of its own, or on as many as its cells have; no line ends in blanks."""
    return "\n".join(line.rstrip() for part in parts for line in ([part] if isinstance(part, str) else _lines(part)))


def fitted(*parts: Part, width: int) -> str:
    """What a terminal of `width` characters shows, without its colours."""
    from rich.console import Console

    console = Console(width=width, color_system=None, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        _print(console, parts)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _lines(table: Table) -> Iterator[str]:
    rows = [[cell.splitlines() or [""] for cell in row] for row in (*([table.head] if table.head else []), *table.rows)]
    widths = [max(len(line) for cell in column for line in cell) for column in zip(*rows, strict=True)]
    for row in rows:
        for index in range(max(len(cell) for cell in row)):
            line = (cell[index] if index < len(cell) else "" for cell in row)
            placed = (
                text.rjust(width) if column in table.right else text.ljust(width)
                for column, (text, width) in enumerate(zip(line, widths, strict=True))
            )
            yield " " * table.indent + (" " * GAP).join(placed)


def _print(console: Console, parts: Sequence[Part]) -> None:
    for part in parts:
        console.print(part if isinstance(part, str) else _rich(part))


def _rich(table: Table) -> RenderableType:
    from rich import table as rich
    from rich.padding import Padding
    from rich.text import Text

    made = rich.Table(
        box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=bool(table.head), header_style="bold"
    )
    count = max(len(row) for row in (table.head, *table.rows))
    for index in range(count):
        made.add_column(
            Text(table.head[index]) if table.head else "",
            justify="right" if index in table.right else "left",
            no_wrap=index < count - table.wrapped,
            overflow="fold",
        )
    for row in table.rows:
        made.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return Padding.indent(made, table.indent)
