"""`nox -s check`: which image, and with or without an engine."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import pytest
from attn_matrix.cli import COMMANDS, main
from attn_matrix.commands import check
from attn_matrix.errors import EngineMissing
from attn_matrix.host import engine, environment, machine
from attn_matrix.host.container import attn_variables, devices_for
from attn_matrix.matrix.load import read
from attn_matrix.matrix.select import pick_one

SMALL = read(Path(__file__).parents[1] / "data/valid.yaml")
GPU = machine.Machine((machine.Gpu("NVIDIA H100", "9.0", "580.1"),))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], (None, [])),
        (["--json"], (None, ["--json"])),
        (["fa4-cu128", "--json"], ("fa4-cu128", ["--json"])),
        (["fa4-*"], ("fa4-*", [])),
    ],
)
def test_the_first_argument_is_an_id_unless_it_is_a_switch(
    given: Sequence[str], expected: tuple[str | None, list[str]]
) -> None:
    """Everything else is the container's."""
    assert check.split(given) == expected


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "look", machine.Machine)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What would have been run, in an environment or in a container; both end with a code of their own."""
    seen: list[object] = []

    def in_environment(_root: Path, _matrix: object, image: object, _sources: object, argv: Sequence[str]) -> int:
        seen.extend((image, list(argv)))
        return 92

    def in_container(request: engine.Request) -> int:
        seen.append(request)
        return 94

    monkeypatch.setattr(environment, "check", in_environment)
    monkeypatch.setattr(engine, "run", in_container)
    monkeypatch.setattr(check, "build", lambda *_: None)
    return seen


def test_without_an_engine_the_check_runs_in_an_environment(
    no_gpu: None, asked: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so in one line, with the reason, and passes the exit code on."""

    def require() -> None:
        raise EngineMissing("there is no program 'docker' on PATH", "install it")

    monkeypatch.setattr(engine, "require", require)
    assert main(["check", "--json"]) == 92
    assert asked[1] == ["--json"]
    err = capsys.readouterr().err
    assert "sdpa-cpu-base: no GPU on this machine; -base: without Axolotl, which a check does not need" in err
    said = [line for line in err.splitlines() if "virtual environment" in line]
    assert len(said) == 1
    assert "no program 'docker'" in said[0]


def test_with_an_engine_the_image_is_built_and_run(
    no_gpu: None, asked: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check's arguments and the ATTN_ variables go into the container; a CPU image gets no GPU."""
    monkeypatch.setattr(engine, "require", lambda: None)
    monkeypatch.setenv("ATTN_TIMEOUT", "7")
    assert main(["check", "sdpa-cpu", "--json"]) == 94
    request = asked[0]
    assert isinstance(request, engine.Request)
    assert (request.image, request.command, request.gpus) == ("axolotl-attn:sdpa-cpu", ["check", "--json"], False)
    assert request.environment["ATTN_TIMEOUT"] == "7"
    assert request.environment["NODE_NAME"] == platform.node()  # a container's own is a number


def test_a_file_that_the_check_writes_is_one_of_this_machine(
    no_gpu: None, asked: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its folder is mounted, and it belongs to whoever called; nothing else of this machine is handed in."""
    monkeypatch.setattr(engine, "require", lambda: None)
    monkeypatch.setattr(engine, "is_rootless", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert main(["check", "sdpa-cpu", "--json", "--html", "page.html", f"--npd={tmp_path}/npd"]) == 94
    request = asked[0]
    assert isinstance(request, engine.Request)
    assert request.command == ["check", "--json", "--html=/written/1/page.html", "--npd=/written/2/npd"]
    assert request.volumes == [f"{tmp_path}:/written/1", f"{tmp_path}:/written/2"]
    assert request.user == f"{os.getuid()}:0"


@pytest.mark.parametrize(
    ("given", "says"), [(["--html"], "--html names no file"), (["--npd=/nowhere/x"], "there is no folder /nowhere")]
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_built(
    given: list[str], says: str, asked: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    """In the container it would be lost with it."""
    assert main(["check", "sdpa-cpu", *given]) == 2
    assert says in capsys.readouterr().err
    assert asked == []


@pytest.mark.parametrize(
    ("given", "backends"),
    [(["--help"], "(nox -s plan lists them)"), (["flex-cpu", "--json", "--help"], "(flex, sdpa)"), (["-h"], "(nox")],
)
def test_help_costs_nothing(
    given: list[str],
    backends: str,
    asked: list[object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No GPU is looked for, no engine is asked, nothing is built: the host's help and the container's are text."""
    for module, name in ((machine, "look"), (engine, "require"), (check, "build")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("help started something"))
    assert main(["check", *given]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: attn_matrix check ")
    assert COMMANDS["check"] in " ".join(out.split())
    assert "usage: docker run " in out
    assert "ATTN_CHECK" in out
    assert backends in out
    assert asked == []


def test_help_for_an_unknown_image_names_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    """As for every other command."""
    assert main(["check", "sdpa-cpuu", "--help"]) == 2
    assert "did you mean 'sdpa-cpu'?" in capsys.readouterr().err


def test_only_our_variables_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's PATH or HOME are not the container's."""
    for name in list(attn_variables()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("ATTN_CHECK", "warn")
    monkeypatch.setenv("OTHER", "1")
    assert attn_variables() == {"ATTN_CHECK": "warn"}


@pytest.mark.parametrize(
    ("name", "here", "expected"),
    [("fa4-cu128", GPU, True), ("fa4-cu128", machine.Machine(), False), ("sdpa-cpu", GPU, False)],
)
def test_gpus_go_to_gpu_images_on_gpu_machines(name: str, here: machine.Machine, expected: bool) -> None:
    """An engine without the NVIDIA toolkit refuses a request for GPUs, so none is made in vain."""
    assert devices_for(SMALL, pick_one(SMALL, name), here).gpus is expected


def test_run_wants_one_image(capsys: pytest.CaptureFixture[str]) -> None:
    """A glob that matches several is an error that lists them."""
    assert main(["run", "sdpa-*", "true"]) == 2
    assert "matches sdpa-cpu, sdpa-cpu-base, sdpa-cu128" in capsys.readouterr().err


def test_a_configuration_of_this_machine_is_mounted(
    no_gpu: None, asked: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is the working directory, read as our user; the hub's cache goes with it where there is one."""
    monkeypatch.setattr(engine, "require", lambda: None)
    monkeypatch.setattr(engine, "is_rootless", lambda: True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "run.yml").write_text("a: 1\n")

    for words in (["--config", str(tmp_path / "run.yml"), "--json"], [f"--config={tmp_path / 'run.yml'}", "--json"]):
        assert main(["check", "sdpa-cpu", *words]) == 94
        request = asked.pop()
        assert isinstance(request, engine.Request)
        assert request.command == ["check", "--config", "run.yml", "--json"]
        assert (request.volumes, request.user) == ([f"{tmp_path}:/workspace:ro"], "0:0")

    (tmp_path / "hub").mkdir()
    assert main(["check", "sdpa-cpu", "--config", str(tmp_path / "run.yml")]) == 94
    request = asked.pop()
    assert isinstance(request, engine.Request)
    assert f"{tmp_path / 'hub'}:/hub:ro" in request.volumes
    assert request.environment["HF_HUB_CACHE"] == "/hub"


def test_with_a_configuration_the_image_that_fits_has_axolotl(
    no_gpu: None,
    asked: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A check takes the one without; a `-base` that is named with a configuration is an error that says so."""
    monkeypatch.setattr(engine, "require", lambda: None)
    monkeypatch.setattr(engine, "is_rootless", lambda: True)
    (tmp_path / "run.yml").write_text("a: 1\n")

    assert main(["check", "--config", str(tmp_path / "run.yml")]) == 94
    request = asked.pop()
    assert isinstance(request, engine.Request)
    assert request.image == "axolotl-attn:sdpa-cpu"

    assert main(["check", "sdpa-cpu-base", "--config", str(tmp_path / "run.yml")]) == 2
    assert "sdpa-cpu-base is without Axolotl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"), [(["--config", "/no/c.yml"], "no file /no/c.yml"), (["--config"], "no file")]
)
def test_a_configuration_that_is_not_there_is_said_before_anything_is_built(
    words: list[str], says: str, asked: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "sdpa-cpu", *words]) == 2
    assert says in capsys.readouterr().err
    assert asked == []


def test_a_configuration_needs_an_engine(
    no_gpu: None,
    asked: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The environment of a check is without Axolotl, so nothing could be said of the run."""

    def require() -> None:
        raise EngineMissing("there is no program 'docker' on PATH", "install it")

    monkeypatch.setattr(engine, "require", require)
    (tmp_path / "run.yml").write_text("a: 1\n")

    assert main(["check", "--config", str(tmp_path / "run.yml")]) == 2
    err = capsys.readouterr().err
    assert "no program 'docker' on PATH, and the check in a virtual environment is without Axolotl" in err
    assert asked == []
