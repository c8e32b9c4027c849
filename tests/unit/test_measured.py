"""MEASURED.md's tables are those of the recorded runs, and the runs are what the page says of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from entrypoint.auto.choice import TIE
from tests.gpu import tables

PAGE = tables.PAGE.read_text(encoding="utf-8")
AUTO = [
    pytest.param(row, id=f"{path.stem}-{row['name']}")
    for path in sorted((tables.DATA / "auto").glob("*.json"))
    for row in json.loads(path.read_text(encoding="utf-8"))["shapes"]
    if row.get("choice")
]


def test_the_tables_are_those_of_the_records() -> None:
    """After a new record: `python -m tests.gpu.tables`."""
    assert {found[2] for found in tables.MARKER.finditer(PAGE)} == set(tables.TABLES)
    assert tables.written(PAGE) == PAGE


def test_a_table_is_written_anew_and_what_is_around_it_stays() -> None:
    found = tables.written("before\n\n<!-- table: gpus -->\n\n| an | old |\n| row | 1 |\n\nafter\n")

    assert found == f"before\n\n<!-- table: gpus -->\n\n{tables.gpus()}\nafter\n"
    assert tables.written(found) == found


def test_a_marker_of_no_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="starst"):
        tables.written("<!-- table: starst -->\n\n")


@pytest.mark.parametrize("row", AUTO)
def test_what_auto_took_is_what_it_timed_as_the_fastest(row: dict[str, Any]) -> None:
    """But for a tie, in which the image's order decides."""
    entered = [item for item in row["choice"]["candidates"] if not item["reason"]]
    totals = {item["backend"]: sum(item["milliseconds"].values()) for item in entered}

    assert [item["backend"] for item in entered if item["taken"]] == [row["choice"]["backend"]]
    assert totals[row["choice"]["backend"]] <= min(totals.values()) * (1 + TIE)


@pytest.mark.parametrize("row", AUTO)
def test_the_regret_is_of_the_longer_times(row: dict[str, Any]) -> None:
    """Of those that are right for the shape."""
    wrong = {item["backend"] for item in row["choice"]["candidates"] if item["reason"]}
    longer = {name: sum(parts.values()) for name, parts in row.get("exhaustive", {}).items() if name not in wrong}

    assert ("regret" in row) is (row["choice"]["backend"] in longer)
    if "regret" in row:
        assert row["taken"] == row["choice"]["backend"]
        assert row["regret"] == pytest.approx(longer[row["taken"]] / min(longer.values()) - 1)


def test_the_page_says_which_images_keep_their_promise() -> None:
    """Of a start with empty caches, as long as that is what was measured."""
    runs = tables.record("starts/cu128.h200.json")["starts"]
    beyond = {image: tables.beyond(tables.seconds(runs, image, "start")) for image in tables.images(runs)}
    backends = {image.partition("-")[0]: float(text) for image, text in beyond.items()}
    kept = [name for name, seconds in backends.items() if seconds <= tables.PROMISED[name]]

    assert f"**kept by {' and '.join(kept)}**" in " ".join(PAGE.split())


def test_the_readme_has_the_seconds_of_each_depth() -> None:
    """As the tables have them."""
    readme = (tables.ROOT / "README.md").read_text(encoding="utf-8")
    runs = tables.record("starts/cu128.h200.json")["starts"]
    for depth in ("start", "deep"):
        beyond = {image: tables.beyond(tables.seconds(runs, image, depth)) for image in tables.images(runs)}
        (row,) = [line for line in readme.splitlines() if line.startswith(f"| `{depth}` | 115")]
        said = dict(cell.split() for cell in row.split("|")[3].split(","))
        assert said == {image.partition("-")[0]: seconds for image, seconds in beyond.items()}
