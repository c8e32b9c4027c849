"""The reports recorded on real GPUs: what those runs proved, kept, and still read by this version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from entrypoint.text import to_text

REPORTS = sorted((Path(__file__).resolve().parents[1] / "data/reports").glob("*.json"))


def test_there_are_reports() -> None:
    """Of each backend that has run on a GPU."""
    assert {f"{name}-cu128" for name in ("sdpa", "flex", "fa2", "fa4", "sage", "s2")} <= {
        path.stem.partition(".")[0] for path in REPORTS
    }


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: str(path.stem))
def test_a_recorded_report_still_reads(path: Path) -> None:
    """A report of an earlier version is rendered by this one, in one screen."""
    report = json.loads(path.read_text())

    text = to_text(report)

    assert report["image"]["id"] in text.splitlines()[0]
    assert report["gpus"][0]["name"] in text
    assert len(text.splitlines()) <= 24


SHOWN = ("fa4-cu128", "sdpa-cu128", "flex-cu128", "sage-cu128")
FAILING = ("sdpa-cu128.h200.cudnn", "sdpa-cu128.h200.efficient")


@pytest.mark.parametrize("name", [*(f"{name}.h200" for name in SHOWN), *FAILING])
def test_the_readme_shows_it(name: str) -> None:
    """To the letter, as this version prints it."""
    folder = Path(__file__).resolve().parents[1]
    readme = (folder.parent / "README.md").read_text()

    assert to_text(json.loads((folder / f"data/reports/{name}.json").read_text())) in readme


def test_no_healthy_kernel_came_near_its_budget() -> None:
    """Sweeps with fresh seeds on a GPU (tests/gpu/sweep.py): 200 and more, not one false alarm, and room to spare."""
    swept = json.loads((Path(__file__).resolve().parents[1] / "data/margins/h200.json").read_text())["backends"]

    assert set(swept) == {"sdpa", "flex", "fa4"}
    assert sum(backend["sweeps"] for backend in swept.values()) >= 200
    assert [alarm for backend in swept.values() for alarm in backend["alarms"]] == []
    worst = {name: case["ratio"] for backend in swept.values() for name, case in backend["cases"].items()}
    assert {name.partition(":")[0] for name in worst if ":" in name} >= {"flash", "cudnn", "efficient", "math"}
    assert max(worst.values()) < 0.75
