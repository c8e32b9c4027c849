"""`nox -s run` with a real container: the caller's folder, user, variables and exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from attn_matrix import ROOT

# Where the tests run as root, the caller is somebody else: nothing belongs to this user by chance.
CALLER = os.getuid() or 12345
RUN = f"import os, sys; os.getuid = lambda: {CALLER}; from attn_matrix.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the caller's."""
    os.chown(tmp_path, CALLER, -1)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`attn_matrix run` with `folder` as the workspace, and no check."""
    environ = os.environ | {"PYTHONPATH": f"{ROOT / 'docker'}:{ROOT}", "ATTN_CHECK": "off"}
    command = [sys.executable, "-P", "-c", RUN, "run", f"--workspace={folder}", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=600, check=False)


def test_what_a_command_writes_in_the_workspace_belongs_to_its_caller(sdpa_cpu: str, folder: Path) -> None:
    """The folder is the working directory, and the home of the image is writable too, whoever calls."""
    (folder / "config.yml").write_text("given", encoding="utf-8")
    script = "touch $HOME/.cached && cp config.yml made.yml && mkdir out && touch out/model"

    done = run(folder, sdpa_cpu.rpartition(":")[2], "sh", "-c", script)

    assert done.returncode == 0, done.stderr
    assert (folder / "made.yml").read_text(encoding="utf-8") == "given"
    assert {path.stat().st_uid for path in (folder / "made.yml", folder / "out/model")} == {CALLER}


def test_options_reach_the_container_and_its_exit_code_comes_back(
    sdpa_cpu: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A second volume, read-only, and a variable; stdout is the command's own, stderr has the docker run."""
    data = tmp_path_factory.mktemp("data")
    data.chmod(0o755)
    (data / "text").write_text("from the volume\n", encoding="utf-8")
    script = "cat /data/text; touch /data/new 2>/dev/null || echo $WORD; exit 7"

    done = run(folder, "-v", f"{data}:/data:ro", "-e", "WORD=said", sdpa_cpu.rpartition(":")[2], "sh", "-c", script)

    assert (done.returncode, done.stdout) == (7, "from the volume\nsaid\n")
    assert f"+ docker run --rm --user {CALLER}:0 -v {folder}:/workspace -v {data}:/data:ro" in done.stderr
