"""`nox -s warm`: what is recorded, and what is no record."""

from __future__ import annotations

from pathlib import Path

import pytest
from attn_matrix.cli import main
from attn_matrix.commands import warm
from attn_matrix.errors import CommandFailed
from attn_matrix.host import engine

from entrypoint.kept import seal


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[engine.Request]:
    """An engine whose check passes, and compiles one kernel into its ATTN_CACHE."""
    made: list[engine.Request] = []

    def run(request: engine.Request) -> int:
        made.append(request)
        kernel = Path(request.volumes[0].partition(":")[0]) / "compiled/key/triton/kernel.cubin"
        kernel.parent.mkdir(parents=True, mode=0o700)
        kernel.write_bytes(b"machine code")
        kernel.with_name("brought.cubin").symlink_to("/opt/attn/triton-cache/key/brought.cubin")  # as in the image
        return 0

    monkeypatch.setattr(engine, "run", run)
    monkeypatch.setattr(engine, "is_rootless", lambda: False)
    monkeypatch.chdir(tmp_path)
    return made


def test_a_directory_is_recorded_and_sealed(
    requests: list[engine.Request], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the check's ATTN_CACHE; everybody may read it, and its last file is in the seal."""
    assert main(["warm", "--into", "record", "flex-cpu-base", "--config", "config.yml"]) == 0
    folder = tmp_path / "record/compiled/key"
    assert list(seal.read(str(folder))) == ["triton/kernel.cubin"]
    assert folder.joinpath("triton").stat().st_mode & 0o777 == 0o755
    (request,) = requests
    assert (request.image, request.environment["ATTN_CACHE"]) == ("axolotl-attn:flex-cpu-base", "/warm")
    assert request.command == ["check", "--config", "config.yml"]
    assert request.volumes == [f"{tmp_path}/record:/warm", f"{tmp_path}:/workspace"]
    assert "holds 1 files of compilers" in capsys.readouterr().err


def test_a_record_begins_with_nothing(requests: list[engine.Request], tmp_path: Path) -> None:
    """What an older check left would be sealed with the rest."""
    (tmp_path / "attn-cache").mkdir()
    (tmp_path / "attn-cache/old").touch()
    assert main(["warm", "flex-cpu-base"]) == 2
    assert main(["warm", "--into", "new", "--image", "mine", "flex-cpu-base"]) == 2
    assert requests == []


def test_a_check_that_fails_records_nothing(
    requests: list[engine.Request], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Nobody knows whether its kernels are right."""
    monkeypatch.setattr(engine, "run", lambda request: 92)
    assert main(["warm", "flex-cpu-base"]) == CommandFailed.exit_code
    assert "nothing was recorded: the check of flex-cpu-base ended with 92" in capsys.readouterr().err
    assert not (tmp_path / "attn-cache/compiled").exists()


def test_without_a_compiler_there_is_nothing_to_record(tmp_path: Path) -> None:
    """SDPA on a CPU, for one."""
    with pytest.raises(CommandFailed, match="no compiler made anything"):
        warm.sealed(tmp_path, "sdpa-cpu")


def test_an_image_is_the_image_with_the_record(requests: list[engine.Request], monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied into a container that never runs, which is removed whatever happens."""
    ran: list[list[str]] = []

    def capture(command: list[str]) -> str:
        ran.append(command)
        return "c0ffee"

    monkeypatch.setattr(engine, "capture", capture)
    monkeypatch.setattr(engine, "call", ran.append)
    assert main(["warm", "--image", "mine:1", "flex-cpu-base"]) == 0
    assert [command[1] for command in ran] == ["create", "cp", "commit", "rm"]
    assert ran[1][-1] == "c0ffee:/opt/attn/compiled"
    assert ran[2][-2:] == ["c0ffee", "mine:1"]
