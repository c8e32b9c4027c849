"""The recorded starts on two GPUs of one host (tests/gpu/several.py): what they said, and that it is still read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attn_matrix import ROOT

from entrypoint.fleet.merge import merge
from entrypoint.fleet.page import render
from entrypoint.fleet.reports import parse
from entrypoint.report.text import to_text

DATA = ROOT / "tests/data"
RECORD: dict[str, list[dict[str, Any]]] = json.loads((DATA / "several/h200-x2.json").read_text(encoding="utf-8"))
ROWS = {row["name"]: row for part in ("checks", "bad", "collective", "faults", "training") for row in RECORD[part]}
# Which recorded run a kept report is of.
REPORTS = {
    "flex-cu128.h200-x2": "flex-cu128-all-0",
    "sdpa-cu128.h200-x2.load": "beside-a-load",
    "sdpa-cu128.h200-x2.wrong": "wrong-on-one",
    "sdpa-cu128.h200-x2.collective": "collective-0",
    "sdpa-cu128.h200-x2.hangs": "rank-hangs",
    "fa4-cu128.h200-x2.training": "training-fa4-cu128",
}
# Containers that were left over from the work before had a GPU.
DISTURBED = "sdpa-cu128-all-0"


def report(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DATA / f"reports/{name}.json").read_text(encoding="utf-8"))
    return document


def verdicts(row: dict[str, Any]) -> list[str]:
    return [gpu["verdict"] for gpu in row["gpus"]]


def test_every_kept_report_of_two_gpus_is_of_a_recorded_run() -> None:
    assert {path.stem for path in (DATA / "reports").glob("*.h200-x2*.json")} == set(REPORTS)


@pytest.mark.parametrize(("name", "run"), REPORTS.items())
def test_a_kept_report_reads_as_it_was(name: str, run: str) -> None:
    """By today's text, merging and page: the verdict, of each GPU too, and what has to be done."""
    kept, row = report(name), ROWS[run]

    assert (kept["verdict"], kept["code"]["number"], kept["reasons"]) == (row["verdict"], row["exit"], row["reasons"])
    assert verdicts(kept) == verdicts(row)
    assert kept["headline"]["what"] in to_text(kept).splitlines()[0]
    fleet = merge([parse(kept, f"{name}.json", "gpu-1")])
    (read,) = fleet.reports
    assert (read.verdict, read.number, len(read.devices)) == (kept["verdict"], row["exit"], len(row["gpus"]))
    assert (kept["headline"]["advice"] in [action.advice for action in fleet.actions]) is (kept["verdict"] != "PASS")
    assert kept["verdict"] in render(fleet)


def test_a_healthy_host_passed_on_one_gpu_and_on_both() -> None:
    found = {row["name"]: (row["verdict"], verdicts(row)) for row in RECORD["checks"]}
    both = {name: verdict for name, verdict in found.items() if "-all-" in name and name != DISTURBED}

    assert found[DISTURBED] == ("DEGRADED", ["PASS", "DEGRADED"])
    assert all(verdict == ("PASS", ["PASS", "PASS"]) for verdict in both.values())
    assert all(verdict == ("PASS", ["PASS"]) for name, verdict in found.items() if "-one-" in name)
    assert len(found) == 12


@pytest.mark.parametrize(
    ("run", "code", "verdict", "says"),
    [
        ("beside-a-load", 0, "DEGRADED", "cuda:1: This NVIDIA H200 is slow, whatever runs on it"),
        ("wrong-on-one", 92, "FAIL", "cuda:1: sdpa computes wrong numbers"),
    ],
)
def test_the_bad_gpu_of_two_was_named(run: str, code: int, verdict: str, says: str) -> None:
    row = ROWS[run]

    assert (row["exit"], row["verdict"], verdicts(row)) == (code, verdict, ["PASS", verdict])
    assert row["reasons"][0].startswith(says)


def test_collectives_were_as_fast_as_the_plain_loop() -> None:
    """Each operation at each size, in both turns."""
    for turn in ("0", "1"):
        for ours, plain in zip(*(ROWS[f"{name}-{turn}"]["bandwidth"] for name in ("collective", "plain")), strict=True):
            assert ours["gigabytes_per_second"] == pytest.approx(plain["gigabytes_per_second"], rel=0.02)
    assert report("sdpa-cu128.h200-x2.collective")["collective"]["nccl"] == ROWS["collective-0"]["nccl"]


@pytest.mark.parametrize(
    ("fault", "code", "verdict", "says"),
    [
        ("hangs", 94, "FAIL", "hangs before all-gather of 256 MiB, round 3"),
        ("gives-wrong", 92, "FAIL", "computes wrong"),
        ("gathers-wrong", 92, "FAIL", "computes wrong"),
        ("adds-wrong", 92, "FAIL", "adds wrong without any other rank"),
        ("crashes", 94, "FAIL", "crashed before all-reduce of 256 MiB, round 1, with SIGSEGV"),
        ("is-late", 0, "DEGRADED", "is slow"),
    ],
)
def test_the_bad_rank_of_two_was_named(fault: str, code: int, verdict: str, says: str) -> None:
    """And no other one."""
    row = ROWS[f"rank-{fault}"]

    assert (row["exit"], row["verdict"]) == (code, verdict)
    assert row["reasons"][0].startswith(f"rank 1 (node attn, cuda:1) {says}")
    assert not [reason for reason in row["reasons"] if reason.startswith("rank 0")]


@pytest.mark.parametrize("row", RECORD["training"], ids=lambda row: str(row["name"]))
def test_a_training_on_both_gpus_was_checked_once(row: dict[str, Any]) -> None:
    """20 steps, which learn."""
    assert (row["exit"], row["steps"], row["checks"], len(row["gpus"])) == (0, 20, 1, 2)
    assert row["rehearsal"]["verdict"] == "PASS"
    assert len(row["losses"]) == 20
    assert row["losses"][-1] < row["losses"][0]
