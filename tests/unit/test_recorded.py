"""The reports recorded on real GPUs: what those runs proved, kept, and still read by this version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from entrypoint.text import to_text

REPORTS = sorted((Path(__file__).resolve().parents[1] / "data/reports").glob("*.json"))


def test_there_are_reports() -> None:
    """Of each backend that has run on a GPU."""
    assert {"sdpa-cu128", "flex-cu128", "fa4-cu128"} <= {path.stem.partition(".")[0] for path in REPORTS}


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: str(path.stem))
def test_a_recorded_report_still_reads(path: Path) -> None:
    """A report of an earlier version is rendered by this one, in one screen."""
    report = json.loads(path.read_text())

    text = to_text(report)

    assert report["image"]["id"] in text.splitlines()[0]
    assert report["gpus"][0]["name"] in text
    assert len(text.splitlines()) <= 24


@pytest.mark.parametrize("name", ["fa4-cu128.h200", "sdpa-cu128.h200", "flex-cu128.h200", "sdpa-cu128.h200.cudnn"])
def test_the_readme_shows_it(name: str) -> None:
    """To the letter, as this version prints it."""
    folder = Path(__file__).resolve().parents[1]
    readme = (folder.parent / "README.md").read_text()

    assert to_text(json.loads((folder / f"data/reports/{name}.json").read_text())) in readme
