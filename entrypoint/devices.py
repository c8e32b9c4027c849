"""What GPUs the container was given, from /proc and /dev alone: neither torch nor NVML is imported to know it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_DRIVER: Final = re.compile(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s")
_FIELD: Final = re.compile(r"^([^:\n]+?)[ \t]*:[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_NODE: Final = re.compile(r"^nvidia(\d+)$")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """An NVIDIA GPU that the kernel driver lists. `uuid` holds question marks until the driver has woken it."""

    minor: int
    name: str
    uuid: str


@dataclass(frozen=True, kw_only=True)
class Devices:
    """`listed`: every GPU the driver shows. `usable`: those of them with a device node in the container. `count`: how
    many CUDA will offer, which needs no listing: some runtimes give the nodes without /proc/driver/nvidia."""

    driver: str | None
    listed: tuple[Gpu, ...]
    count: int
    usable: tuple[Gpu, ...]

    @property
    def identified(self) -> bool:
        """Whether every usable GPU is known by a real UUID."""
        return bool(self.usable) and all(gpu.uuid and "?" not in gpu.uuid for gpu in self.usable)


def look(environ: Mapping[str, str], root: Path = Path("/")) -> Devices:
    """The NVIDIA GPUs under `root` (a parameter so that tests can lay out a tree of their own)."""
    listed = tuple(sorted(_listed(root / "proc/driver/nvidia/gpus"), key=lambda gpu: gpu.minor))
    nodes = _nodes(root / "dev")
    given = tuple(gpu for gpu in listed if gpu.minor in nodes)
    # WSL has one /dev/dxg for all GPUs and no node for each.
    count = len(nodes) or int((root / "dev/dxg").exists())
    selection = environ.get("CUDA_VISIBLE_DEVICES")
    if selection is not None:
        count = min(count, _selected(selection))
    return Devices(driver=_driver(root / "proc/driver/nvidia/version"), listed=listed, count=count, usable=given)


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
    """How many devices CUDA_VISIBLE_DEVICES leaves: CUDA stops reading the list at the first invalid entry."""
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
    return _first_core(root).get("model name") or platform.machine()


def _first_core(root: Path) -> dict[str, str]:
    """Only the first core's lines are read, as the file is long on servers."""
    try:
        with (root / "proc/cpuinfo").open(errors="replace") as file:
            return dict(_FIELD.findall(file.read(8192).split("\n\n")[0]))
    except OSError:
        return {}
