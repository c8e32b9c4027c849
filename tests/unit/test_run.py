"""`nox -s run`: which files, variables, GPUs and user a container gets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from attn_matrix.cli import main
from attn_matrix.commands import run
from attn_matrix.errors import UsageError
from attn_matrix.host import engine, machine


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[engine.Request]:
    """What would have been run, on a machine without a GPU whose engine runs as root; each run ends with 42."""
    seen: list[engine.Request] = []

    def record(request: engine.Request) -> int:
        seen.append(request)
        return 42

    monkeypatch.setattr(engine, "run", record)
    monkeypatch.setattr(engine, "is_rootless", lambda: False)
    monkeypatch.setattr(machine, "look", machine.Machine)
    for name in [name for name in os.environ if name.startswith("ATTN_")]:
        monkeypatch.delenv(name)
    return seen


def test_the_current_directory_is_the_workspace_and_the_user_is_ours(
    requests: list[engine.Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a command writes there belongs to whoever called it; group 0 may write in the image's folders."""
    monkeypatch.chdir(tmp_path)
    assert main(["run", "sdpa-cpu", "axolotl", "train", "-v", "config.yml"]) == 42
    (request,) = requests
    assert request.command == ["axolotl", "train", "-v", "config.yml"]
    assert request.volumes == [f"{tmp_path}:/workspace"]
    assert request.user == f"{os.getuid()}:0"
    assert (request.gpus, request.environment) == (False, {})


def test_a_rootless_engine_has_our_user_as_its_root(
    requests: list[engine.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There user 0 of a container is whoever runs the engine, and any other is nobody on this machine."""
    monkeypatch.setattr(engine, "is_rootless", lambda: True)
    main(["run", "sdpa-cpu"])
    assert requests[0].user == "0:0"


def test_dockers_own_options_are_handed_on(
    requests: list[engine.Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """-v, -e and --gpus, before the id; -e outdoes an ATTN_ variable of the caller."""
    monkeypatch.setenv("ATTN_CHECK", "off")
    monkeypatch.setenv("ATTN_SLOW", "fail")
    options = ["-v", "hub:/home/attn/.cache", "--volume", "./data:/data:ro", "-e", "A=1", "--env", "ATTN_CHECK=warn"]
    main(["run", f"--workspace={tmp_path}", *options, "--gpus", '"device=0,1"', "sdpa-cu128", "true"])
    (request,) = requests
    assert request.volumes == [f"{tmp_path}:/workspace", "hub:/home/attn/.cache", f"{Path.cwd()}/data:/data:ro"]
    assert request.environment == {"ATTN_CHECK": "warn", "ATTN_SLOW": "fail", "A": "1"}
    assert (request.gpus, request.which_gpus) == (True, "device=0,1")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["/elsewhere:/workspace"], ["/elsewhere:/workspace"]),
        (["/elsewhere:/workspace/:ro"], ["/elsewhere:/workspace/:ro"]),
        (["../up:/up"], ["HERE:/workspace", "UP/up:/up"]),
        (["a/b:/b"], ["HERE:/workspace", "HERE/a/b:/b"]),
        (["name:/c"], ["HERE:/workspace", "name:/c"]),
    ],
)
def test_what_is_mounted(
    given: Sequence[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workspace too, unless another volume takes its place; paths are the caller's, and names are volumes."""
    monkeypatch.chdir(tmp_path)
    known = [path.replace("HERE", str(tmp_path)).replace("UP", str(tmp_path.parent)) for path in expected]
    assert run.volumes(given, tmp_path) == known


@pytest.mark.parametrize("wrong", ["/data", "/data:", ":/data", "/data:data"])
def test_a_volume_that_docker_would_not_understand(wrong: str, tmp_path: Path) -> None:
    """Said with an example, before anything runs."""
    with pytest.raises(UsageError, match=r"is not SOURCE:TARGET, such as"):
        run.volumes([wrong], tmp_path)


def test_a_workspace_that_is_not_there(tmp_path: Path) -> None:
    """Docker would make a folder that belongs to root."""
    with pytest.raises(UsageError, match=r"there is no directory .*/absent"):
        run.volumes([], tmp_path / "absent")


def test_a_name_alone_takes_our_value_and_does_not_show_it(requests: list[engine.Request]) -> None:
    """As docker has it: the echoed command holds no secret, and a name that we do not know is left out."""
    main(["run", "-e", "TOKEN", "-e", "EMPTY=", "-e", "C=1=2", "-e", "UNKNOWN", "sdpa-cpu"])
    (request,) = requests
    ours = {"TOKEN": "secret", "EMPTY": "full"}
    assert request.variables(ours) == {"TOKEN": "secret", "EMPTY": "", "C": "1=2"}
    assert "-e TOKEN -e EMPTY= -e C=1=2" in " ".join(request.as_docker_run())


def test_run_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """`nox -s run -- --help` names each option."""
    with pytest.raises(SystemExit) as caught:
        main(["run", "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert all(option in said for option in ("--volume", "--env", "--gpus", "--workspace", "CMD"))
