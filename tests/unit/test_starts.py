"""The recorded starts with a configuration (tests/gpu/rehearsals.py), beside what MEASURED.md says of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attn_matrix import ROOT

PAGE = (ROOT / ".github/MEASURED.md").read_text(encoding="utf-8")
RECORDS = {path.name: json.loads(path.read_text()) for path in sorted((ROOT / "tests/data/starts").glob("*.json"))}
RUNS = {
    f"{name}-{number}-{run['name']}": run
    for name, record in RECORDS.items()
    for number, run in enumerate(record["runs"])
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_the_page_has_each_start_as_it_was(run: dict[str, Any]) -> None:
    """Verdict and code, and the seconds of the container."""
    code = f" ({run['exit']})" if run["exit"] else ""
    allowed = f", ATTN_ALLOW={run['allowed']}" if run["allowed"] else ""
    rows = [row for row in PAGE.splitlines() if row.startswith(f"| {run['name']}{allowed} |")]

    assert any(f"| {run['verdict']}{code} |" in row and row.endswith(f"| {run['container']:.1f} |") for row in rows)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_no_recorded_rehearsal_was_a_false_alarm(run: dict[str, Any]) -> None:
    """All of these configurations train (tests/data/training); packed without an attention is refused before."""
    rehearsal = run["rehearsal"]

    assert rehearsal is None or rehearsal["verdict"] == "PASS"
    assert all(row["ratio"] < 0.5 for row in (rehearsal or {}).get("differences", ()))
