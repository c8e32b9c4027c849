"""What GPUs the container was given, from /proc, /sys and /dev alone: neither torch nor NVML is imported to know it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from entrypoint import kfd
from entrypoint.light import dataclass

NVIDIA: Final = "nvidia"
AMD: Final = "amd"
_DRIVER: Final = re.compile(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s")
_FIELD: Final = re.compile(r"^([^:\n]+?)[ \t]*:[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_NODE: Final = re.compile(r"^nvidia(\d+)$")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that the kernel driver lists; `minor` is of its device node: /dev/nvidia<minor>, /dev/dri/renderD<minor>.

    NVIDIA's `uuid` holds question marks until the driver has woken the GPU; AMD's is empty for a GPU without one.
    """

    minor: int
    name: str
    uuid: str


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A device node that the container has and this user may not open; `group` is the number of the group that may."""

    path: str
    group: int


@dataclass(frozen=True, kw_only=True)
class Devices:
    """The GPUs of one vendor.

    `listed`: every GPU the driver shows. `usable`: those of them with a device node in the container. `count`: how many
    torch will offer, which needs no listing: some runtimes give the nodes without /proc/driver/nvidia. `closed`: nodes
    that are there for others only. `others`: whether another vendor's GPUs are in reach.
    """

    driver: str | None
    listed: tuple[Gpu, ...]
    count: int
    usable: tuple[Gpu, ...]
    closed: tuple[Closed, ...] = ()
    others: bool = False

    @property
    def identified(self) -> bool:
        """Whether every usable GPU is known by a real UUID."""
        return bool(self.usable) and all(gpu.uuid and "?" not in gpu.uuid for gpu in self.usable)


def look(environ: Mapping[str, str], root: Path = Path("/"), vendor: str | None = NVIDIA) -> Devices:
    """The GPUs of a vendor under `root` (a parameter so that tests can lay out a tree of their own)."""
    return _look_amd(environ, root) if vendor == AMD else _look_nvidia(environ, root)


def _look_nvidia(environ: Mapping[str, str], root: Path) -> Devices:
    listed = tuple(sorted(_listed(root / "proc/driver/nvidia/gpus"), key=lambda gpu: gpu.minor))
    nodes = _nodes(root / "dev")
    given = tuple(gpu for gpu in listed if gpu.minor in nodes)
    # WSL has one /dev/dxg for all GPUs and no node for each.
    count = len(nodes) or int((root / "dev/dxg").exists())
    selection = environ.get("CUDA_VISIBLE_DEVICES")
    if selection is not None:
        count = min(count, _selected(selection))
    driver = _driver(root / "proc/driver/nvidia/version")
    others = bool(kfd.gpus(root)) and (root / "dev/kfd").exists()
    return Devices(driver=driver, listed=listed, count=count, usable=given, others=others)


def _look_amd(environ: Mapping[str, str], root: Path) -> Devices:
    """ROCm opens /dev/kfd, and for each GPU the render node that the driver's topology names."""
    every = kfd.gpus(root)
    listed = tuple(Gpu(minor=gpu.render_minor, name=f"AMD {gpu.arch}", uuid=gpu.uuid) for gpu in every)
    control, render = root / "dev/kfd", {gpu.minor: root / f"dev/dri/renderD{gpu.minor}" for gpu in listed}
    closed = tuple(
        Closed(path=f"/{path.relative_to(root)}", group=path.stat().st_gid)
        for path in (control, *render.values())
        if path.exists() and not _opens(path)
    )
    usable = tuple(gpu for gpu in listed if _opens(render[gpu.minor])) if _opens(control) else ()
    # WSL has one /dev/dxg for all GPUs, and no KFD.
    count = len(usable) or int((root / "dev/dxg").exists())
    # ROCr's own selection comes first; HIP takes from what is left, by its own variable or else by CUDA's.
    hip = environ.get("HIP_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES"))
    for selection in (environ.get("ROCR_VISIBLE_DEVICES"), hip):
        if selection is not None:
            count = min(count, _selected(selection))
    others = bool(_nodes(root / "dev"))
    return Devices(driver=kfd.driver(root), listed=listed, count=count, usable=usable, closed=closed, others=others)


def _opens(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


def _listed(folder: Path) -> list[Gpu]:
    found = []
    for information in folder.glob("*/information"):
        fields = dict(_FIELD.findall(_text(information)))
        minor = fields.get("Device Minor", "")
        if minor.isdigit():
            found.append(Gpu(minor=int(minor), name=fields.get("Model", ""), uuid=fields.get("GPU UUID", "")))
    return found


def _nodes(folder: Path) -> frozenset[int]:
    try:
        names = os.listdir(folder)
    except OSError:
        return frozenset()
    return frozenset(int(match.group(1)) for match in map(_NODE.match, names) if match)


def _selected(selection: str) -> int:
    """How many devices a list such as CUDA_VISIBLE_DEVICES leaves: it is read up to the first invalid entry."""
    count = 0
    for entry in map(str.strip, selection.split(",")):
        if not entry or entry.startswith("-"):
            break
        count += 1
    return count


def _driver(path: Path) -> str | None:
    match = _DRIVER.search(_text(path))
    return match.group(1) if match else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def older(version: str, minimum: str) -> bool:
    """Whether a driver version such as "525.60.13" is older than `minimum`."""
    return _numbers(version) < _numbers(minimum)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def cpu_name(root: Path = Path("/")) -> str:
    """The processor's model and feature flags."""
    fields = _first_core(root)
    return (
        " ".join(fields[key] for key in ("model name", "flags", "CPU part", "Features") if key in fields) or "unknown"
    )


def processor(root: Path = Path("/")) -> str:
    """The processor's model alone, for a sentence."""
    return _first_core(root).get("model name") or os.uname().machine


def _first_core(root: Path) -> dict[str, str]:
    """Only the first core's lines are read, as the file is long on servers."""
    try:
        with (root / "proc/cpuinfo").open(errors="replace") as file:
            return dict(_FIELD.findall(file.read(8192).split("\n\n")[0]))
    except OSError:
        return {}
