"""`check --junit FILE` and its like, as a process and in a container: what is written, and what it does not cost."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.launcher.launchers import Launcher, ProcessLauncher

FORMS = ("html", "junit", "prometheus", "nfd", "npd")


def written(launcher: Launcher, form: str) -> str:
    return (launcher.data / form).read_text(encoding="utf-8")


def test_a_check_writes_each_form_that_it_is_told_to(launcher: Launcher) -> None:
    """Of the very same report; the node is the one that the orchestrator names."""
    options = [f"--{form}={launcher.inside}/{form}" for form in FORMS]
    launcher.behave("wrong")
    result = launcher.run("check", "--json", *options, NODE_NAME="gpu-7")
    assert result.code == 92
    assert json.loads(result.stdout)["node"] == "gpu-7"
    assert launcher.report()["node"] == "gpu-7"
    assert written(launcher, "npd").startswith("FAIL 92 sdpa computes wrong numbers")
    assert "axolotl-attn.verdict=FAIL\n" in written(launcher, "nfd")
    assert 'axolotl_attn_check_verdict{image="sdpa-cpu",backend="sdpa",verdict="FAIL"} 1.0' in written(
        launcher, "prometheus"
    )
    assert ET.fromstring(written(launcher, "junit")).attrib["failures"] == "2"
    assert "sdpa-cpu on gpu-7</h1>" in written(launcher, "html")
    assert "FAIL 92</span>" in written(launcher, "html")


def test_a_start_that_is_refused_writes_them_too(launcher: Launcher) -> None:
    """Else the file of an earlier check would stand for it."""
    result = launcher.run("check", "--npd", f"{launcher.inside}/npd", ATTN_BACKND="sdpa")
    assert result.code == 90
    assert written(launcher, "npd").startswith("NOT_CHECKED 90 ATTN_BACKND is not a variable")


def test_a_file_that_cannot_be_written_is_a_note(launcher: Launcher) -> None:
    """The verdict, its code, and the other files stay."""
    result = launcher.run("check", "--junit", "/proc/junit.xml", "--npd", f"{launcher.inside}/npd")
    assert result.code == 0
    assert "check --junit could not write /proc/junit.xml (" in result.stderr
    assert any("--junit" in note for note in launcher.report()["notes"])
    assert written(launcher, "npd").startswith("PASS 0 ")


@pytest.mark.parametrize(
    ("behaviour", "code"), [("healthy", 0), ("wrong", 1), ("crash in import", 2), ("unusable device", 2)]
)
def test_the_codes_of_nvsentinel(launcher: Launcher, behaviour: str, code: int) -> None:
    """0: passed, 1: the node is unfit, 2: nothing is known of the node; the report keeps our own."""
    launcher.behave(behaviour)
    assert launcher.run("check", "--exit-codes=nvsentinel").code == code
    assert (launcher.report()["code"]["number"] == 0) == (code == 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--junit"], "check --junit names no file."),
        (["--junit="], "check --junit names no file."),
        (["--exit-codes=slurm"], "check --exit-codes=slurm is not known."),
        (["--jnit=x"], "check does not take '--jnit=x'. Did you mean '--junit'?"),
    ],
)
def test_a_misspelt_option_is_an_error(launcher: Launcher, arguments: list[str], says: str) -> None:
    result = launcher.run("check", *arguments)
    assert result.code == 90
    assert says in result.stderr


def test_a_start_loads_none_of_it(tmp_path: Path) -> None:
    """What nobody asked for costs no start a millisecond."""
    launcher, python = ProcessLauncher(tmp_path), tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -X importtime "$@"\n')
    python.chmod(0o755)
    launcher.python = str(python)
    asked = launcher.run("check", "--npd", f"{launcher.inside}/npd")
    assert "entrypoint.writers.npd" in asked.stderr
    assert "entrypoint.writers.junit" not in asked.stderr
    plain = launcher.run("true")
    assert "entrypoint.report.text" in plain.stderr
    assert "entrypoint.writers" not in plain.stderr
