"""Documents that are packed into one row do not see each other: one step of Axolotl on a CPU, in an image for CUDA.

Where that image has been built: 9 GB, so no test builds it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from attn_matrix.host import engine

from tests.engine.test_images import docker
from tests.engine.test_train import OPTIONS
from tests.gpu.recipes import UNMENDED

IMAGE = "axolotl-attn:sdpa-cu128"


@pytest.fixture(scope="module")
def sdpa_cu128(docker_engine: None) -> str:
    """The image's tag, or a skip."""
    if engine.identity(IMAGE) is None:
        pytest.skip(f"needs the image {IMAGE}: nox -s build -- sdpa-cu128")
    return IMAGE


def step(image: str, folder: Path, *arguments: str, options: tuple[str, ...] = ()) -> tuple[float, float]:
    """Loss and gradient norm of the only step, of what tests/train/packed.py writes with these arguments."""
    folder.mkdir()
    folder.chmod(0o777)  # the container's user is another one
    script = f"python /train/packed.py . {' '.join(arguments)} && axolotl train config.yml"
    environment = ("--env=ATTN_CHECK=off", "--env=HF_HUB_OFFLINE=1", f"--volume={folder}:/workspace")
    done = docker("run", "--rm", *OPTIONS, *environment, *options, image, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    state: dict[str, Any] = json.loads((folder / "out/checkpoint-1/trainer_state.json").read_text())
    (logged,) = (entry for entry in state["log_history"] if "loss" in entry)
    return logged["loss"], logged["grad_norm"]


@pytest.fixture(scope="module")
def alone(sdpa_cu128: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[float, float]:
    """The step with a row for each document."""
    return step(sdpa_cu128, tmp_path_factory.mktemp("alone") / "run", "--unpacked")


def test_what_a_document_says_changes_nothing_for_the_next(
    sdpa_cu128: str, alone: tuple[float, float], tmp_path: Path
) -> None:
    """Neither loss nor gradient depend on documents that are not learned from, and both are those without packing."""
    packed, other = (step(sdpa_cu128, tmp_path / n, f"--filler={n}") for n in "01")
    assert packed == pytest.approx(other, rel=1e-6)
    assert packed == pytest.approx(alone, rel=1e-5)


def test_without_the_mend_they_would_see_each_other(
    sdpa_cu128: str, alone: tuple[float, float], tmp_path: Path
) -> None:
    """So the test above sees a leak, and the mend is what closes it."""
    loss, _ = step(sdpa_cu128, tmp_path / "unmended", "--filler=1", options=(UNMENDED,))
    assert loss != pytest.approx(alone[0], rel=1e-4)
