"""The noxfile: the sessions of the contract, and environments that are installed once."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import AbstractContextManager, chdir
from pathlib import Path
from types import ModuleType

import pytest
from attn_matrix import ROOT
from attn_matrix.cli import COMMANDS

CONTRACT = {"check", "tests", "plan", "render", "build", "run", "fleet", "lint"}


def test_every_session_of_the_contract_is_there_and_says_what_it_does() -> None:
    """`nox -l` is the index of the project."""
    command = [sys.executable, "-m", "nox", "--list"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    described = dict(re.findall(r"^[*-] (\S+) -> (\S.*)$", text, flags=re.MULTILINE))
    assert described.keys() >= CONTRACT
    assert {name: described.get(name) for name in COMMANDS} == COMMANDS


class Session:
    """Records what would be run, and makes the directory that an environment would be."""

    def __init__(self, venv: Path) -> None:
        self.venv = venv
        self.commands: list[tuple[str, ...]] = []
        self.invoked_from = str(venv)

    def chdir(self, folder: str) -> AbstractContextManager[None]:
        return chdir(folder)

    def run(self, *command: str, **_: object) -> None:
        self.commands.append(command)
        self.venv.mkdir(parents=True, exist_ok=True)


@pytest.fixture
def noxfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The noxfile, with its locks and environments in a directory of the test."""
    import noxfile as module

    monkeypatch.setattr(module, "LOCKS", tmp_path)
    monkeypatch.setattr(module, "VENVS", tmp_path / "venvs")
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    return module


def test_an_environment_is_installed_once_for_each_state_of_its_locks(noxfile: ModuleType, tmp_path: Path) -> None:
    """A second session costs the reading of a file; a changed lock installs again."""
    session = Session(tmp_path / "venvs/host")
    python = noxfile.environment(session, "host", "a")
    assert python == tmp_path / "venvs/host/bin/python"
    assert [("--require-hashes" in command) for command in session.commands] == [False, True]
    noxfile.environment(session, "host", "a")
    assert len(session.commands) == 2
    (tmp_path / "a.txt").write_text("two", encoding="utf-8")
    noxfile.environment(session, "host", "a")
    assert len(session.commands) == 4


def test_the_exit_code_of_a_command_is_noxs_own(noxfile: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """nox alone says 1 for every failure; an orchestrator wants to tell 91 from 94."""
    from nox.command import CommandFailed

    def fail(*_: object) -> None:
        raise CommandFailed("Returned code 91", return_code=91)

    monkeypatch.setattr(noxfile, "environment", lambda *_: Path("python"))
    monkeypatch.setattr(noxfile, "run_in", fail)
    with pytest.raises(SystemExit) as caught:
        noxfile.matrix(Session(Path()), "check")
    assert caught.value.code == 91


def test_paths_are_those_of_whoever_called(
    noxfile: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nox itself goes to the folder of the noxfile; a command runs in the caller's, for a mounted `.` say."""
    seen: list[Path] = []
    monkeypatch.setattr(noxfile, "environment", lambda *_: Path("python"))
    monkeypatch.setattr(noxfile, "run_in", lambda *_: seen.append(Path.cwd()))
    before = Path.cwd()
    noxfile.matrix(Session(tmp_path), "run", "sdpa-cpu")
    assert (seen, Path.cwd()) == ([tmp_path], before)
