"""docker/slurm says what the contract's exit codes mean to Slurm: every code once, as README.md has it."""

from __future__ import annotations

import re
import subprocess

import pytest
from attn_matrix import ROOT

from entrypoint.judge.finding import Code

FOLDER = ROOT / "docker/slurm"
CONF = (FOLDER / "attn.conf").read_text(encoding="utf-8")
# README.md's table: another node type, another node; and what no node changes.
ELSEWHERE = {Code.MISMATCH.value, Code.SLOW.value, Code.GPU_FAULT.value}
NOWHERE = {Code.CONFIG.value, Code.WRONG.value}
# A failure of the check itself is for a person: neither repeated nor held.
REPORTED = {Code.INTERNAL.value}


def codes(key: str) -> set[int]:
    (line,) = re.findall(rf"^{key}=(.*)$", CONF, re.MULTILINE)
    return {int(code) for code in line.split(",")}


def test_the_controller_knows_every_code() -> None:
    assert codes("RequeueExit") == ELSEWHERE
    assert codes("RequeueExitHold") == NOWHERE
    assert ELSEWHERE | NOWHERE | REPORTED | {Code.PASS.value} == {code.value for code in Code}


def test_the_readme_advises_the_same() -> None:
    """ "another node" is requeued, "fail the job" is held."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    advice = {int(code): what for code, what in re.findall(r"^\| (9\d) \|.*\| ([^|]+) \|$", text, re.MULTILINE)}
    assert {code for code, what in advice.items() if what.startswith("another node")} == ELSEWHERE
    assert {code for code, what in advice.items() if what.startswith("fail the job")} == NOWHERE


def test_what_drains_a_node_is_what_another_node_may_do_better() -> None:
    text = (FOLDER / "settings.sh").read_text(encoding="utf-8")
    (drain,) = re.findall(r"^DRAIN=\((.*)\)$", text, re.MULTILINE)
    assert {int(code) for code in drain.split()} == ELSEWHERE


@pytest.mark.parametrize("name", ["prolog", "health-check", "job.sh", "job-pyxis.sh"])
def test_what_slurm_runs_is_a_program(name: str) -> None:
    path = FOLDER / name
    assert path.stat().st_mode & 0o111 == 0o111
    assert path.read_text(encoding="utf-8").startswith("#!/bin/bash\n")
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_fragment_names_the_files_that_are_there() -> None:
    named = set(re.findall(r"/etc/slurm/attn/([\w.-]+)", CONF))
    assert named == {"attn.conf", "prolog", "health-check"}
    assert all((FOLDER / name).is_file() for name in named)


def test_a_job_is_started_by_the_check() -> None:
    """A container of Slurm's or pyxis' does not start ENTRYPOINT, so the scripts name it."""
    for name in ("job.sh", "job-pyxis.sh"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert re.search(r"^exec srun .*(\\\n.*)*\battn-run ", text, re.MULTILINE), name
