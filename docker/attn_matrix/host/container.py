"""What `nox -s run` and `nox -s check` pass to a container: GPUs, and the settings in ATTN_ variables."""

from __future__ import annotations

import os

from attn_matrix.host import machine
from attn_matrix.matrix.model import Image, Matrix


def wants_gpus(matrix: Matrix, image: Image, here: machine.Machine) -> bool:
    """Whether to ask the engine for GPUs: the image is for a GPU, and this machine has one."""
    return bool(here.gpus) and matrix.platforms[image.platform].device != "cpu"


def attn_variables() -> dict[str, str]:
    """The ATTN_ variables of our own environment, which are the settings of the check in the container."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith("ATTN_")}
