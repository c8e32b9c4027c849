"""What `nox -s run` and `nox -s check` pass to a container: GPUs, the settings in ATTN_ variables, and who we are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attn_matrix.host import engine, machine
from attn_matrix.matrix.model import Image, Matrix
from entrypoint.machine.devices import AMD

# The images' working directory.
WORKSPACE: Final = "/workspace"


@dataclass(frozen=True)
class Devices:
    """The GPUs that a container is given: `gpus` are all of NVIDIA's, by the engine; AMD's are device files.

    `groups` are the numbers of the groups that may open `paths` on this machine: the image has no such names.
    """

    gpus: bool = False
    paths: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


def devices_for(matrix: Matrix, image: Image, here: machine.Machine, root: Path = Path("/")) -> Devices:
    """None for a CPU image, on a machine without a GPU, and where the GPUs are another maker's."""
    vendor = matrix.vendor(image.platform)
    if not any(gpu.vendor == vendor for gpu in here.gpus):
        return Devices()
    return _amd(root) if vendor == AMD else Devices(gpus=True)


def _amd(root: Path) -> Devices:
    """ROCm's compute interface and the folder of render nodes. Group 0 is the image's own."""
    paths = [path for name in ("dev/kfd", "dev/dri") if (path := root / name).exists()]
    nodes = [root / "dev/kfd", *sorted(root.glob("dev/dri/renderD*"))]
    groups = {str(node.stat().st_gid): None for node in nodes if node.exists() and node.stat().st_gid}
    return Devices(paths=tuple(f"/{path.relative_to(root)}" for path in paths), groups=tuple(groups))


def our_user() -> str:
    """Whom the container's files belong to: our user. Group 0 is who may write in the images' own folders."""
    return f"{0 if engine.is_rootless() else os.getuid()}:0"


def attn_variables() -> dict[str, str]:
    """The ATTN_ variables of our own environment, which are the settings of the check in the container."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith("ATTN_")}
