"""AMD's GPUs as the kernel driver (KFD) lists them in /sys, for the host and the container: the standard library only.

Each node of the topology has a file `properties` with a name and a whole number on each line. This follows the kernel's
kfd_topology.c and files that people published (such as in ROCm/rocm-cli#343); it has not run on an AMD GPU.
"""

from __future__ import annotations

import os

from entrypoint.light import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import Final

    from _typeshed import StrPath

TOPOLOGY: Final = "sys/class/kfd/kfd/topology/nodes"
MODULE: Final = "sys/module/amdgpu"


@dataclass(frozen=True, kw_only=True)
class KfdGpu:
    """`arch` is such as gfx942. `uuid` is as rocminfo prints it, empty for a GPU without one. The device node is
    /dev/dri/renderD<render_minor>."""

    arch: str
    uuid: str
    render_minor: int


def gpus(root: StrPath = "/") -> tuple[KfdGpu, ...]:
    """The GPUs in the order of their nodes, which is that of ROCr's indices.

    In a container the driver refuses to show the properties of a GPU whose device node the control group forbids
    (EPERM); such a GPU is left out, as ROCr leaves it out.
    """
    nodes = os.path.join(root, TOPOLOGY)
    try:
        names = sorted(os.listdir(nodes), key=int)
    except (OSError, ValueError):
        return ()
    found = (_gpu(os.path.join(nodes, name, "properties")) for name in names)
    return tuple(gpu for gpu in found if gpu is not None)


def _gpu(path: str) -> KfdGpu | None:
    """None for a processor, which has no SIMD units, and for what cannot be read."""
    try:
        with open(path) as file:
            pairs = [line.split() for line in file]
        properties = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
    except (OSError, ValueError):
        return None
    version = properties.get("gfx_target_version", 0)
    if not properties.get("simd_count") or not version:
        return None
    unique = properties.get("unique_id", 0)
    uuid = f"GPU-{unique:016x}" if unique else ""
    return KfdGpu(arch=gfx(version), uuid=uuid, render_minor=properties.get("drm_render_minor", -1))


def gfx(version: int) -> str:
    """The architecture's name from the driver's number: 90402 is gfx942 and 90010 gfx90a, minor and step in base 16."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def driver(root: StrPath = "/") -> str | None:
    """The version of AMD's own amdgpu module; of the one that comes with Linux, which has none, that of Linux."""
    for name in (f"{MODULE}/version", "proc/sys/kernel/osrelease"):
        try:
            if os.path.isdir(os.path.join(root, MODULE)):
                with open(os.path.join(root, name)) as file:
                    return file.read().strip()
        except OSError:
            continue
    return None
