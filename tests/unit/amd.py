"""Machines with AMD GPUs, laid out as Linux shows them: /dev, /sys/class/kfd, /sys/module/amdgpu.

Written by the format of the kernel's kfd_topology.c: a line of `properties` is a name and a whole number; a processor's
node has no SIMD units. The numbers of a GPU are those that people published of such a GPU, but for `unique_id`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

CPU: Final = {"cpu_cores_count": 96, "simd_count": 0, "gfx_target_version": 0, "drm_render_minor": 0, "unique_id": 0}
MI300X: Final = {
    "cpu_cores_count": 0,
    "simd_count": 1216,
    "mem_banks_count": 1,
    "wave_front_size": 64,
    "array_count": 32,
    "gfx_target_version": 90402,
    "vendor_id": 4098,
    "device_id": 29857,
    "location_id": 1280,
    "domain": 0,
    "drm_render_minor": 128,
    "num_xcc": 8,
    "unique_id": 0x21B6D61638A86F8C,
}
# A processor's own small GPU, which has no unique id.
RAPHAEL: Final = {**MI300X, "simd_count": 4, "gfx_target_version": 100306, "drm_render_minor": 129, "unique_id": 0}


def lay_out(
    root: Path, *nodes: Mapping[str, int], control: bool = True, render: tuple[int, ...] = (128, 129), version: str = ""
) -> Path:
    """A machine, or a container on it: `control` and `render` are the device nodes that it has.

    `version` is that of AMD's own driver; without one it is Linux's, which has no file of it.
    """
    for number, properties in enumerate(nodes):
        folder = root / f"sys/class/kfd/kfd/topology/nodes/{number}"
        folder.mkdir(parents=True)
        (folder / "properties").write_text("".join(f"{name} {value}\n" for name, value in properties.items()))
    (root / "sys/module/amdgpu").mkdir(parents=True)
    if version:
        (root / "sys/module/amdgpu/version").write_text(f"{version}\n")
    (root / "proc/sys/kernel").mkdir(parents=True)
    (root / "proc/sys/kernel/osrelease").write_text("6.8.0-45-generic\n")
    (root / "dev/dri").mkdir(parents=True)
    for minor in render:
        (root / f"dev/dri/renderD{minor}").touch()
    if control:
        (root / "dev/kfd").touch()
    return root
