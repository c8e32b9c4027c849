"""A real compiler, torch's Inductor, with the folder that a start gives it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.patience import PATIENCE

# One kernel in C++. Without precompiled headers, which Inductor keeps elsewhere and makes in each container anew.
TRAINING = """
import torch
x = torch.ones(64)
assert torch.allclose(torch.compile(lambda x: torch.sin(x) + 1)(x), torch.sin(x) + 1)
"""
SETTINGS = ("ATTN_CHECK=off", "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS=0", "TORCHINDUCTOR_COMPILE_THREADS=1")
# In the place of the compiler: it writes down what it is asked for.
RECORDER = '#!/bin/sh\necho "$*" >>/data/calls\nexec /usr/bin/g++ "$@"\n'


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A volume that any user may write, with the recorder in it."""
    (tmp_path / "g++").write_text(RECORDER)
    (tmp_path / "g++").chmod(0o755)
    tmp_path.chmod(0o777)
    return tmp_path


def train(image: str, data: Path, *options: str) -> subprocess.Popen[str]:
    mounts = [f"--volume={data}:/data", f"--volume={data / 'g++'}:/usr/local/bin/g++:ro"]
    variables = [f"--env={setting}" for setting in SETTINGS]
    argv = ["docker", "run", "--rm", "--network=none", *mounts, *variables, *options, image, "python", "-c", TRAINING]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def compiled(data: Path, *started: subprocess.Popen[str]) -> int:
    """How many kernels were compiled by the time that these have ended, and ended well."""
    for process in started:
        _, error = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, error
    return sum(".main.cpp" in call for call in (data / "calls").read_text().splitlines())


def test_a_second_container_compiles_nothing_again(sdpa_cpu: str, data: Path) -> None:
    """Also where the volume is mounted elsewhere: absolute paths lead through the link in /tmp."""
    assert compiled(data, train(sdpa_cpu, data, "--env=ATTN_CACHE=/data/cache")) == 1
    elsewhere = (f"--volume={data / 'cache'}:/elsewhere", "--env=ATTN_CACHE=/elsewhere")
    assert compiled(data, train(sdpa_cpu, data, *elsewhere)) == 1


def test_another_instruction_set_compiles_anew(sdpa_cpu: str, data: Path) -> None:
    """Its folder is another one: the first one's kernel would compute wrong numbers."""
    kept = "--env=ATTN_CACHE=/data/cache"
    assert compiled(data, train(sdpa_cpu, data, kept)) == 1
    assert compiled(data, train(sdpa_cpu, data, kept, "--env=ATEN_CPU_CAPABILITY=default")) == 2
    assert len([*(data / "cache/compiled").iterdir()]) == 2


def test_containers_that_start_together_compile_once(sdpa_cpu: str, data: Path) -> None:
    """Together, on one volume: all end well, and the kernel is compiled once."""
    assert compiled(data, *(train(sdpa_cpu, data, "--env=ATTN_CACHE=/data/cache") for _ in range(3))) == 1


@pytest.mark.parametrize("option", ["--tmpfs=/cache:size=1m,mode=1777,exec", "--tmpfs=/cache:ro,mode=1777"])
def test_a_directory_that_keeps_nothing_stops_nothing(sdpa_cpu: str, data: Path, option: str) -> None:
    """Full or read-only: the compiler has a folder of the container's own."""
    assert compiled(data, train(sdpa_cpu, data, option, "--env=ATTN_CACHE=/cache")) == 1
