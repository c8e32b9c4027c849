"""The driver's library, mounted as container runtimes do it, is found by the check and by the command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.launcher.launchers import ContainerLauncher

DEBIAN = f"/usr/lib/{os.uname().machine}-linux-gnu"
SHOW = ("sh", "-c", 'echo "$TRITON_LIBCUDA_PATH $LD_LIBRARY_PATH"')


@pytest.fixture
def gpu(container: ContainerLauncher) -> ContainerLauncher:
    """A container with the device node of an NVIDIA GPU, which docker makes of /dev/null, and no library."""
    container.options = ["--device=/dev/null:/dev/nvidia0"]
    container.spec |= {"device": "cuda", "vendor": "nvidia"}
    container.spec |= {"architectures": {"hopper": ["9.0"]}, "supported": ["hopper"]}
    container.spec["backends"] = [{**container.spec["backends"][0], "architectures": ["hopper"]}]
    return container


def give_library(gpu: ContainerLauncher, path: str) -> None:
    """A file of that name, mounted at `path`."""
    library = Path(gpu.folder) / "library"
    library.touch()
    gpu.options.append(f"--volume={library}:{path}:ro")


@pytest.mark.parametrize(
    ("folder", "shown"),
    [(DEBIAN, f"{DEBIAN} \n"), ("/usr/local/nvidia/lib64",) * 2, ("/opt/driver",) * 2],
)
def test_the_command_finds_the_library_that_no_cache_lists(gpu: ContainerLauncher, folder: str, shown: str) -> None:
    """On a read-only root: Triton is told the folder, and the loader where it would not look by itself."""
    give_library(gpu, f"{folder}/libcuda.so.1")
    gpu.options += ["--read-only", "--tmpfs=/tmp:exec"]

    result = gpu.run(*SHOW)

    assert result.code == 0, result.stderr
    assert result.stdout.decode() == (shown if shown.endswith("\n") else f"{shown} {shown}\n")


def test_it_is_found_without_the_check_too(gpu: ContainerLauncher) -> None:
    give_library(gpu, "/opt/driver/libcuda.so.1")

    assert gpu.run(*SHOW, ATTN_CHECK="off").stdout == b"/opt/driver /opt/driver\n"


def test_a_container_without_the_library_is_a_mismatch(gpu: ContainerLauncher) -> None:
    """91 with the cause, before torch starts."""
    result = gpu.run("echo", "ran", NVIDIA_DRIVER_CAPABILITIES="utility")

    assert (result.code, result.stdout) == (91, b"")
    assert "NVIDIA_DRIVER_CAPABILITIES=utility leaves it out" in result.stderr.splitlines()[0]
