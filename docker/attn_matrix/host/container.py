"""What `nox -s run` and `nox -s check` hand to a container of this machine."""

from __future__ import annotations

import os

from attn_matrix.host import machine
from attn_matrix.matrix.model import Image, Matrix


def wants_gpus(matrix: Matrix, image: Image, here: machine.Machine) -> bool:
    """A CPU image needs no GPU, and a machine without one has none to give."""
    return bool(here.gpus) and matrix.platforms[image.platform].device != "cpu"


def attn_variables() -> dict[str, str]:
    """The ATTN_ variables of whoever calls us: they are the container's settings."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith("ATTN_")}
