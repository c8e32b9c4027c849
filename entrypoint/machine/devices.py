"""What GPUs the container was given, from /proc, /sys and /dev alone: neither torch nor NVML is imported to know it."""

from __future__ import annotations

import functools
import os

from entrypoint.light import TYPE_CHECKING, dataclass
from entrypoint.machine import kfd

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from _typeshed import StrPath

NVIDIA: Final = "nvidia"
AMD: Final = "amd"
_NODE: Final = "nvidia"  # and the minor number


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
    that are there for others only. `others`: whether another vendor's GPUs are in reach. `hidden`: the variable, with
    its value, that hides every GPU that is there.
    """

    driver: str | None
    listed: tuple[Gpu, ...]
    count: int
    usable: tuple[Gpu, ...]
    closed: tuple[Closed, ...] = ()
    others: bool = False
    hidden: str = ""

    @property
    def identified(self) -> bool:
        """Whether every usable GPU is known by a real UUID."""
        return bool(self.usable) and all(gpu.uuid and "?" not in gpu.uuid for gpu in self.usable)


def look(environ: Mapping[str, str], root: StrPath = "/", vendor: str | None = NVIDIA) -> Devices:
    """The GPUs of a vendor under `root` (a parameter so that tests can lay out a tree of their own)."""
    return _look_amd(environ, root) if vendor == AMD else _look_nvidia(environ, root)


def _look_nvidia(environ: Mapping[str, str], root: StrPath) -> Devices:
    listed = tuple(sorted(_listed(os.path.join(root, "proc/driver/nvidia/gpus")), key=lambda gpu: gpu.minor))
    nodes = _nodes(root)
    given = tuple(gpu for gpu in listed if gpu.minor in nodes)
    # WSL has one /dev/dxg for all GPUs and no node for each.
    count, hidden = _shown(len(nodes) or _there(root, "dev/dxg"), environ, "CUDA_VISIBLE_DEVICES")
    driver = _driver(os.path.join(root, "proc/driver/nvidia/version"))
    others = bool(kfd.gpus(root)) and _there(root, "dev/kfd")
    return Devices(driver=driver, listed=listed, count=count, usable=given, others=others, hidden=hidden)


def _look_amd(environ: Mapping[str, str], root: StrPath) -> Devices:
    """ROCm opens /dev/kfd, and for each GPU the render node that the driver's topology names."""
    every = kfd.gpus(root)
    listed = tuple(Gpu(minor=gpu.render_minor, name=f"AMD {gpu.arch}", uuid=gpu.uuid) for gpu in every)
    control, render = "dev/kfd", {gpu.minor: f"dev/dri/renderD{gpu.minor}" for gpu in listed}
    closed = tuple(
        Closed(path=f"/{node}", group=os.stat(os.path.join(root, node)).st_gid)
        for node in (control, *render.values())
        if _there(root, node) and not _opens(root, node)
    )
    usable = tuple(gpu for gpu in listed if _opens(root, render[gpu.minor])) if _opens(root, control) else ()
    # WSL has one /dev/dxg for all GPUs, and no KFD.
    there = len(usable) or _there(root, "dev/dxg")
    # ROCr's own selection comes first; HIP takes from what is left, by its own variable or else by CUDA's.
    hip = "HIP_VISIBLE_DEVICES" if "HIP_VISIBLE_DEVICES" in environ else "CUDA_VISIBLE_DEVICES"
    count, hidden = _shown(there, environ, "ROCR_VISIBLE_DEVICES", hip)
    others = bool(_nodes(root))
    return Devices(
        driver=kfd.driver(root),
        listed=listed,
        count=count,
        usable=usable,
        closed=closed,
        others=others,
        hidden=hidden,
    )


def _shown(count: int, environ: Mapping[str, str], *variables: str) -> tuple[int, str]:
    """How many of `count` devices the variables leave, and the one that takes the last of them, with its value."""
    hidden = ""
    for variable in variables:
        selection = environ.get(variable)
        if selection is not None and count:
            count = min(count, _selected(selection))
            hidden = "" if count else f"{variable}={selection}"
    return count, hidden


def _there(root: StrPath, node: str) -> bool:
    return os.path.exists(os.path.join(root, node))


def _opens(root: StrPath, node: str) -> bool:
    return os.access(os.path.join(root, node), os.R_OK | os.W_OK)


def _listed(folder: str) -> list[Gpu]:
    found = []
    for name in _names(folder):
        fields = _fields(_text(os.path.join(folder, name, "information")))
        minor = fields.get("Device Minor", "")
        if minor.isdigit():
            found.append(Gpu(minor=int(minor), name=fields.get("Model", ""), uuid=fields.get("GPU UUID", "")))
    return found


def _nodes(root: StrPath) -> frozenset[int]:
    """The minor numbers of NVIDIA's device nodes."""
    minors = (name.removeprefix(_NODE) for name in _names(os.path.join(root, "dev")) if name.startswith(_NODE))
    return frozenset(int(minor) for minor in minors if minor.isdecimal())


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _selected(selection: str) -> int:
    """How many devices a list such as CUDA_VISIBLE_DEVICES leaves: it is read up to the first invalid entry."""
    count = 0
    for entry in map(str.strip, selection.split(",")):
        if not entry or entry.startswith("-"):
            break
        count += 1
    return count


def _driver(path: str) -> str | None:
    """The version in a line such as "NVRM version: NVIDIA UNIX x86_64 Kernel Module  525.60.13  Tue Nov …"."""
    words = _text(path).partition("Kernel Module")[2].partition("\n")[0].split()
    return next(filter(_is_version, words), None)


def _is_version(word: str) -> bool:
    parts = word.split(".")
    return len(parts) in (2, 3) and all(part.isdecimal() for part in parts)


def _fields(text: str) -> dict[str, str]:
    """What stands before and behind the colon of each line."""
    lines = (line.partition(":") for line in text.split("\n"))
    return {name.rstrip(" \t"): value.strip(" \t") for name, colon, value in lines if name and colon}


def _text(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def older(version: str, minimum: str) -> bool:
    """Whether a driver version such as "525.60.13" is older than `minimum`."""
    return _numbers(version) < _numbers(minimum)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@functools.cache  # as for entrypoint.compilers.software
def cpu_name(root: StrPath = "/") -> str:
    """The processor's model and feature flags."""
    fields = _first_core(root)
    return (
        " ".join(fields[key] for key in ("model name", "flags", "CPU part", "Features") if key in fields) or "unknown"
    )


def processor(root: StrPath = "/") -> str:
    """The processor's model alone, for a sentence."""
    return _first_core(root).get("model name") or os.uname().machine


def _first_core(root: StrPath) -> dict[str, str]:
    """Only the first core's lines are read, as the file is long on servers."""
    try:
        with open(os.path.join(root, "proc/cpuinfo"), errors="replace") as file:
            return _fields(file.read(8192).split("\n\n")[0])
    except OSError:
        return {}
