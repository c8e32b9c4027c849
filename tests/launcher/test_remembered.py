"""What a start loads whose verdict is remembered: each module costs every start its time, whatever it is for.

`nox -s bench -- parent` measures the time; this keeps it without a clock.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.launcher.launchers import ProcessLauncher
from tests.launcher.test_preflight import launcher
from tests.launcher.test_rehearsal import train

__all__ = ["launcher"]  # the fixture

# Milliseconds of processor time that a start would take longer, where a bare Python takes 7, and why it need not.
HEAVY = {
    "typing": "3; a type checker alone reads what it is for (entrypoint/light.py)",
    "dataclasses": "8, and more for each class that it compiles",
    "inspect": "7",
    "pathlib": "4, with urllib and fnmatch; os.path does",
    "hashlib": "3, for OpenSSL; entrypoint/kept/digest.py does",
    "subprocess": "4; no child is started",
    "traceback": "2; nothing has failed",
    "entrypoint.events": "17, for the lines of children",
    "entrypoint.report.document": "23; the report is the remembered one",
    "entrypoint.children.child": "27",
}
# A start without a configuration does without these too.
LIGHTER = {
    "contextlib": "0.3; entrypoint/light.py has what is used of it",
    "importlib": "1, with its util; nothing else needs it",
    "runpy": "1; the image starts a file, not a folder",
    "difflib": "0.6; nothing is misspelt",
    "entrypoint.judge": "0.2; nothing is judged",
    "entrypoint.machine.libcuda": "0.3; there is no GPU",
    "entrypoint.preflight": "5; there is no configuration",
    "entrypoint.children.rehearse": "7; nor a run",
}


def loaded(launcher: ProcessLauncher, *command: str) -> set[str]:
    """The modules of a start of `command`, where the launcher has started it before."""
    entrypoint = launcher.folder / "attn/entrypoint/__main__.py"
    argv = [launcher.python, "-I", "-S", "-X", "importtime", str(entrypoint), *command]
    variables = {"ATTN_REPORT": f"{launcher.inside}/report.json", "ATTN_CACHE": f"{launcher.inside}/cache"}
    done = subprocess.run(argv, env={"PATH": os.environ["PATH"], **variables}, capture_output=True, check=True)
    lines = [line for line in done.stderr.decode().splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def test_without_a_configuration(launcher: ProcessLauncher) -> None:
    launcher.run("true", ATTN_CACHE=f"{launcher.inside}/cache")

    modules = loaded(launcher, "true")

    assert launcher.report()["cached"] is True
    assert {"json", "entrypoint.kept.cache"} <= modules
    assert modules & {*HEAVY, *LIGHTER} == set()


def test_with_a_configuration_and_its_rehearsal(launcher: ProcessLauncher) -> None:
    train(launcher, ATTN_CACHE=f"{launcher.inside}/cache")
    program = str(Path(launcher.python).with_name("axolotl"))

    modules = loaded(launcher, program, "train", f"{launcher.inside}/config.yml")

    assert launcher.report()["cached"] is True
    assert launcher.report()["rehearsal"]["cached"] is True
    assert {"yaml.reader", "entrypoint.children.rehearse"} <= modules
    assert modules & {*HEAVY} == set()
