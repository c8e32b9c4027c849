"""The README's commands, run as they stand in a clean copy of the repository, where nothing keeps them from it.

`nox -s build` needs a registry for the base image, so the image is built from the engine's own base before; what
needs a GPU is only parsed (tests/unit/test_readme.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from attn_matrix import ROOT
from attn_matrix.host import machine

from tests.unit.test_readme import commands

FOLDER = "/tmp/tiny"
GPU_IMAGE = "fa4-cu128"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a fresh clone would hold, with the host's environment where this repository has one: that is nox's cache."""
    copy = tmp_path / "axolotl-attn"
    ours = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "shared")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ours)
    if (ROOT / ".venv/host/installed").is_file():
        (copy / ".venv").mkdir()
        (copy / ".venv/host").symlink_to(ROOT / ".venv/host")
    return copy


def shell(script: str, folder: Path, programs: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`script` by bash in `folder`, the directory `programs` first on PATH. It stops at the first failure."""
    environ = os.environ | {"PATH": os.pathsep.join([str(programs), os.environ["PATH"]])} | env
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=1500, check=False)


def test_the_first_command_installs_nox_and_checks_this_machine(
    docker_engine: None, clone: Path, tmp_path: Path
) -> None:
    """With a Python that has pip and nothing else."""
    if machine.look().gpus:
        pytest.skip("needs a machine without a GPU: the image for one takes long to build")
    subprocess.run([sys.executable, "-m", "virtualenv", "--quiet", str(tmp_path / "python")], check=True)
    first = commands("README.md")[0]

    done = shell(first, clone, tmp_path / "python/bin")

    assert done.returncode == 0, done.stdout + done.stderr
    assert first == "pip install nox && nox -s check"
    assert "axolotl-attn sdpa-cpu-base: PASS: sdpa is right in" in done.stderr


def test_the_commands_of_the_second_part_train_a_model(sdpa_cpu: str, clone: Path, tmp_path: Path) -> None:
    """All of them that need no GPU and no registry, one after the other; the model lies where the README says."""
    lines = [line for line in commands("README.md")[1:] if GPU_IMAGE not in line]
    assert lines[0] == f"nox -s build -- {sdpa_cpu.rpartition(':')[2]}"
    assert all(FOLDER in line for line in lines[1:])
    tiny = tmp_path / "tiny"

    # The check has tests of its own, and each of these starts would wait for it.
    script = "\n".join(lines[1:]).replace(FOLDER, str(tiny))
    done = shell(script, clone, Path(sys.executable).parent, ATTN_CHECK="off")

    assert done.returncode == 0, done.stdout + done.stderr
    assert (tiny / "out/checkpoint-3/trainer_state.json").stat().st_uid == os.getuid()
