"""The two places in which the launcher is tested as a black box: a plain process, and a real container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher.launchers import ContainerLauncher, Launcher, ProcessLauncher


@pytest.fixture(params=["process", "container"])
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Launcher]:
    """A launcher whose measuring child is `fake_probe.py`."""
    if request.param == "process":
        yield ProcessLauncher(tmp_path)
    else:
        yield ContainerLauncher(tmp_path, request.getfixturevalue("sdpa_cpu"))


@pytest.fixture
def container(tmp_path: Path, sdpa_cpu: str) -> ContainerLauncher:
    """For what only a container can show."""
    return ContainerLauncher(tmp_path, sdpa_cpu)


@pytest.fixture
def gpu(container: ContainerLauncher) -> ContainerLauncher:
    """A container that seems to hold one GPU, and an image that supports Hopper alone."""
    container.give_gpus(1)
    return container
