"""The command line: one catch of our errors, and nothing imported that a command does not need."""

import subprocess
import sys
from pathlib import Path

import pytest
from attn_matrix import ROOT
from attn_matrix.cli import COMMANDS, main


def test_an_error_is_told_on_stderr_and_by_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each mistake, no traceback."""
    (tmp_path / "images.yaml").write_text("[]\n", encoding="utf-8")
    assert main(["--root", str(tmp_path), "plan"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: images.yaml:1: holds a list: it must be a mapping with the keys project, ")


def test_an_unknown_image_has_its_own_error(capsys: pytest.CaptureFixture[str]) -> None:
    """It names the closest."""
    assert main(["plan", "fa4-cu129"]) == 2
    assert capsys.readouterr().err == "error: no image 'fa4-cu129'; did you mean 'fa4-cu128'?\n"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Without importing any of them."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n    {name} " not in out] == []


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"check"}))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each module registers the command that the table promises, and its help has the table's summary."""
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: attn_matrix {command} ")
    assert COMMANDS[command] in " ".join(out.split())


def test_plan_imports_nothing_that_it_does_not_need() -> None:
    """It must start fast, and on a machine that has neither."""
    unwanted = "{'docker', 'rich', 'torch', 'attn_matrix.host.engine', 'attn_matrix.rendered.files'}"
    code = f"import sys; from attn_matrix.cli import main; main(['plan']); print({unwanted} & set(sys.modules))"
    path = f"{ROOT / 'docker'}:{ROOT}"
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, env={"PYTHONPATH": path}, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
