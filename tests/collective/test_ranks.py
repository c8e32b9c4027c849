"""Two real ranks: healthy, and with a fault planted in one; and the parent that starts them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attn_matrix import ROOT

from tests.collective.seeded import FAULTS, plant
from tests.patience import CHECK, PATIENCE

# Code, and words of the sentence that the verdict has, by fault.
VERDICTS = {
    "healthy": (0, "2 ranks compute exact integers"),
    "gives-wrong": (92, "computes wrong: 25 numbers of all-reduce"),
    "gathers-wrong": (92, "computes wrong: 25 numbers of all-gather"),
    "gets-wrong": (92, "computes wrong: 25 numbers of all-reduce"),
    "adds-wrong": (92, "adds wrong without any other rank"),
    "hangs": (94, "hangs before all-gather of 0.25 MiB, round 3: 1 of 2 ranks waited for it"),
    "stops": (94, "hangs before reduce-scatter of 0.25 MiB, round 1"),
    "crashes": (94, "crashed before all-reduce of 0.25 MiB, round 1, with SIGSEGV"),
    "raises": (95, "failed in all-reduce of 0.25 MiB: RuntimeError: NCCL error"),
    "is-late": (93, "is slow: its call of all-reduce"),
    "is-slow": (93, "is slow: a sum of its own takes"),
}


@pytest.fixture(scope="module")
def verdicts() -> dict[str, dict[str, Any]]:
    """Of all faults, from one process that imports torch once."""
    command = [sys.executable, "-P", "-m", "tests.collective.forked", *VERDICTS]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'docker'}:{ROOT}"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return {each["fault"]: each for each in map(json.loads, done.stdout.splitlines())}


def test_every_fault_is_planted_and_expected() -> None:
    assert VERDICTS.keys() == {"healthy", *FAULTS}


@pytest.mark.parametrize("fault", VERDICTS)
def test_a_fault_has_its_code_and_its_rank(verdicts: dict[str, dict[str, Any]], fault: str) -> None:
    """The faulty rank is named with its node, and is the first that is."""
    code, words = VERDICTS[fault]
    verdict = verdicts[fault]
    assert (verdict["code"], words in verdict["says"]) == (code, True), verdict
    if fault != "healthy":
        assert verdict["says"].startswith("rank 1 (node "), verdict


def check(folder: Path, *words: str, **env: str) -> tuple[int, dict[str, Any], str]:
    """`check --collective` as a process: the exit code, the JSON of stdout, and stderr."""
    home = folder / "attn"
    home.mkdir()
    shutil.copy(ROOT / "docker/specs/sdpa-cpu-base.json", home / "image.json")
    shutil.copytree(ROOT / "entrypoint", home / "entrypoint", ignore=shutil.ignore_patterns("__pycache__"))
    environ = {"PATH": os.environ["PATH"], "ATTN_REPORT": str(folder / "report.json"), "ATTN_TIMEOUT": CHECK, **env}
    argv = [sys.executable, "-I", "-S", str(home / "entrypoint/__main__.py"), "check", "--collective", *words]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_the_parent_starts_two_ranks_on_a_cpu(tmp_path: Path) -> None:
    code, report, stderr = check(tmp_path, "--json", NCCL_DEBUG="WARN")
    assert code == 0, stderr
    part = report["collective"]
    assert (part["world_size"], part["backend"]) == (2, "gloo")
    assert [row["operation"] for row in part["bandwidth"]] == ["all-reduce", "all-gather", "reduce-scatter"]
    assert all(row["gigabytes_per_second"] > 0 and row["floor"] is None for row in part["bandwidth"])
    assert [rank["ending"] for rank in part["ranks"]] == ["over", "over"]
    assert {rank["variables"]["NCCL_DEBUG"] for rank in part["ranks"]} == {"WARN"}
    assert all(len(event["samples"]) == 20 and not event["wrong"] for r in part["ranks"] for event in r["collectives"])
    assert report["cases"] == []
    assert "bus       4 MiB: all-reduce" in stderr


def test_a_rank_that_dies_ends_the_check_soon(tmp_path: Path) -> None:
    """And its own last words are in the report."""
    code, report, stderr = check(tmp_path, "--json", PYTHONPATH=str(plant(tmp_path / "planted", "crashes")))
    assert code == 94, stderr
    assert "rank 1 (node " in stderr
    assert "crashed before all-reduce of 4 MiB, round 1, with SIGSEGV" in report["reasons"][0]
    assert report["collective"]["ranks"][1]["ending"] == "killed"


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"RANK": "0"}, "RANK is set and WORLD_SIZE, MASTER_ADDR, MASTER_PORT is not"),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, "are no rank of a group"),
        ({"RANK": "one", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, "are no rank of a group"),
    ],
)
def test_half_of_a_group_is_config(tmp_path: Path, environ: dict[str, str], says: str) -> None:
    code, _, stderr = check(tmp_path, **environ)
    assert code == 90
    assert says in stderr


def test_a_rank_that_never_comes_is_missing(tmp_path: Path) -> None:
    """One of two under torchrun's variables: nobody else is there, so nothing was measured."""
    group = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29623", "ATTN_TIMEOUT": "12"}
    code, report, stderr = check(tmp_path, "--json", **group)
    assert (code, report["verdict"]) == (95, "NOT_CHECKED"), stderr
    assert "rank 1" in report["reasons"][0]
