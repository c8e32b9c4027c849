"""The recorded starts with a configuration (tests/gpu/rehearsals.py), beside what MEASURED.md says of them.

The tables of the cu128 images are made from their records (tests/unit/test_measured.py).
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from attn_matrix import ROOT

PAGE = (ROOT / ".github/MEASURED.md").read_text(encoding="utf-8")
RECORDS = {path.name: json.loads(path.read_text()) for path in sorted((ROOT / "tests/data/rehearsals").glob("*.json"))}
RUNS = {
    f"{name}-{number}-{run['name']}": run
    for name, record in RECORDS.items()
    for number, run in enumerate(record["runs"])
}
OF_CU130 = {name: run for name, run in RUNS.items() if run["image"] == "fa4-cu130"}
PLANTED = {name: run for name, run in RUNS.items() if run not in OF_CU130.values() and run["name"] in {"leak", "crash"}}
# Other processes on the same GPU held all of its memory.
CROWDED = {name: run for name, run in RUNS.items() if "memory runs out" in run["reasons"][0]}
HEALTHY = {name: run for name, run in RUNS.items() if run not in [*PLANTED.values(), *CROWDED.values()]}
SAID = {"leak": "packed documents see each other", "crash": "Expected IntTuple, whose leaves are integers"}


@pytest.mark.parametrize("run", OF_CU130.values(), ids=OF_CU130)
def test_the_page_has_each_start_as_it_was(run: dict[str, Any]) -> None:
    """Verdict and code, and the seconds of the container."""
    code = f" ({run['exit']})" if run["exit"] else ""
    allowed = f", ATTN_ALLOW={run['allowed']}" if run["allowed"] else ""
    rows = [row for row in PAGE.splitlines() if row.startswith(f"| {run['name']}{allowed} |")]

    assert any(f"| {run['verdict']}{code} |" in row and row.endswith(f"| {run['container']:.1f} |") for row in rows)


@pytest.mark.parametrize("run", HEALTHY.values(), ids=HEALTHY)
def test_no_recorded_rehearsal_was_a_false_alarm(run: dict[str, Any]) -> None:
    """All of these configurations train (tests/data/training); packed without an attention is refused before."""
    rehearsal = run["rehearsal"]

    assert rehearsal is None or rehearsal["verdict"] == "PASS"
    assert all(row["ratio"] < 0.5 for row in (rehearsal or {}).get("differences", ()))


@pytest.mark.parametrize("run", PLANTED.values(), ids=PLANTED)
def test_each_planted_fault_was_named(run: dict[str, Any]) -> None:
    """The mends taken away, in three images of cu128, and one of them emptied."""
    assert (run["verdict"], run["exit"], run["rehearsal"]["verdict"]) == ("FAIL", 92, "FAIL")
    assert SAID[run["name"]] in run["reasons"][0]


def test_every_recipe_of_the_recorded_images_was_rehearsed() -> None:
    """But for those of xformers-cu128 that had no turn; and three leaks, a crash and one crowded run."""
    ran = {(run["image"], run["name"]) for run in HEALTHY.values() if run["rehearsal"]}
    recipes = {
        (image, f"{each['backend']}-{'packed' if each['packing'] else 'padded'}")
        for image in {run["image"] for run in RECORDS["cu128.h200.json"]["runs"]}
        for each in json.loads((ROOT / f"docker/specs/{image}.json").read_text(encoding="utf-8"))["recipes"]
    }
    xformers = {("xformers-cu128", name) for name in ("flex-packed", "flex-padded", "sdpa-packed")}

    assert recipes - ran == xformers
    assert (len(PLANTED), len(CROWDED)) == (4, 1)


def test_a_crowded_run_was_alone_with_other_processes() -> None:
    """What its own process held is under a hundredth of the GPU's memory."""
    (run,) = CROWDED.values()

    assert run["exit"] == 90
    assert "this process has 954.00 MiB memory in use" in run["rehearsal"]["reason"]
    assert "end what else holds the device's memory" in run["reasons"][0]
