"""The recorded reports: still read by this version, and shown by the pages as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from attn_matrix import ROOT

from entrypoint.report.text import to_text

DATA = ROOT / "tests/data"
REPORTS = sorted((DATA / "reports").glob("*.json"))
# The pages that show reports, and how a report's first line begins.
PAGES = ("README.md", ".github/VERDICTS.md", ".github/MEASURED.md")
FIRST_LINE = re.compile(r"^axolotl-attn (\S+): (?:PASS|DEGRADED|FAIL|NOT_CHECKED)\b", re.MULTILINE)


def test_there_are_reports() -> None:
    """Of each backend that has run on a GPU."""
    assert {f"{name}-cu128" for name in ("sdpa", "flex", "fa2", "fa4", "sage", "s2")} <= {
        path.stem.partition(".")[0] for path in REPORTS
    }


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: str(path.stem))
def test_a_recorded_report_still_reads(path: Path) -> None:
    """A report of an earlier version is rendered by this one, in one screen, with its image, device and advice."""
    report = json.loads(path.read_text())

    text = to_text(report)

    assert report["image"]["id"] in text.splitlines()[0]
    assert all(gpu["name"] in text for gpu in report["gpus"])
    assert report["headline"]["advice"] in text
    assert len(text.splitlines()) <= 24


def shown(page: str) -> list[str]:
    """The recorded texts on `page`: the parts of its `text` blocks that begin with a report's first line."""
    blocks = re.findall(r"^```text\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    parts = (part for block in blocks for part in re.split(r"^(?=axolotl-attn \S+: )", block, flags=re.MULTILINE))
    return [part.strip() for part in parts if FIRST_LINE.match(part)]


def test_every_report_on_a_page_is_a_recorded_one() -> None:
    """To the letter, as this version prints it; no page holds a report that nobody has recorded."""
    recorded = {to_text(json.loads(path.read_text())).strip() for path in REPORTS}

    assert len(shown(".github/VERDICTS.md")) >= 5
    assert [part for page in PAGES for part in shown(page) if part not in recorded] == []


def test_a_report_on_a_page_is_of_the_image_that_it_names() -> None:
    """No stand-in: its torch is built for the image's platform, and no package of the image is missing."""
    pages = [part for page in PAGES for part in shown(page)]
    for report in (json.loads(path.read_text()) for path in REPORTS):
        if to_text(report).strip() in pages:
            name, versions = report["image"]["id"], report["image"]["versions"]
            built_for = versions["torch"].partition("+")[2]
            assert built_for in {"", report["image"]["platform"]}, name  # "": nothing was measured, so it is the pin
            assert None not in versions.values(), name


def test_no_healthy_kernel_came_near_its_budget() -> None:
    """Sweeps with fresh seeds on a GPU (tests/gpu/sweep.py): 200 and more, not one false alarm, and room to spare."""
    swept = json.loads((DATA / "margins/h200.json").read_text())["backends"]

    assert set(swept) == {"sdpa", "flex", "fa4"}
    assert sum(backend["sweeps"] for backend in swept.values()) >= 200
    assert [alarm for backend in swept.values() for alarm in backend["alarms"]] == []
    worst = {name: case["ratio"] for backend in swept.values() for name, case in backend["cases"].items()}
    assert {name.partition(":")[0] for name in worst if ":" in name} >= {"flash", "cudnn", "efficient", "math"}
    assert max(worst.values()) < 0.75


def test_nor_one_whose_rows_are_sampled() -> None:
    """Long calls and those of known runs, in the cu128 images; what found no memory was not measured."""
    record = json.loads((DATA / "margins/cu128.h200.sampled.json").read_text())
    swept = record["backends"]

    assert set(swept) == {"sdpa", "flex", "s2", "fa4", "xformers"}
    assert [alarm for backend in swept.values() for alarm in backend["alarms"]] == []
    assert max(case["ratio"] for backend in swept.values() for case in backend["cases"].values()) < 0.5
    assert all(
        backend["sweeps"] == record["asked"] or backend["seconds"] > record["limit"] for backend in swept.values()
    )
    refused = [reason for backend in swept.values() for reason in backend["refused"].values()]
    assert all("out of memory" in reason for reason in refused)
