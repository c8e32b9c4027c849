"""What this machine is, as far as choosing an image needs it, and the choice itself.

`look` collects facts, `choose` is pure: facts in, an image and the reason for it out.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attn_matrix.errors import AttnError, CommandFailed
from attn_matrix.host import engine
from attn_matrix.matrix.model import Baseline, Image, Matrix
from entrypoint.machine import kfd
from entrypoint.machine.devices import AMD, NVIDIA

PROC: Final = Path("/proc/driver/nvidia")
ROOT: Final = Path("/")
QUERY: Final = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]


class NothingFits(AttnError):
    """No image of the matrix runs on this machine's GPU: one line for each image and its reason."""

    exit_code = 91  # the container's own MISMATCH


@dataclass(frozen=True)
class Gpu:
    """`capability` is CUDA's, such as "9.0", or AMD's gfx name; `driver` is such as "580.159.04". None when unknown."""

    name: str
    capability: str | None = None
    driver: str | None = None
    vendor: str = NVIDIA


@dataclass(frozen=True)
class Machine:
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True)
class Choice:
    image: Image
    reason: str


def look() -> Machine:
    """The GPUs here, NVIDIA's first: from nvidia-smi, else from what the driver says in /proc (no capability there).

    AMD's come from its kernel driver, so no program of ROCm need be installed.
    """
    return Machine(gpus=(*(_from_smi() or _from_proc(PROC)), *_from_kfd(ROOT)))


def _from_smi() -> tuple[Gpu, ...]:
    if shutil.which(QUERY[0]) is None:
        return ()
    try:
        return parse_smi(engine.capture(QUERY))
    except CommandFailed:  # the program without a driver that works
        return ()


def parse_smi(text: str) -> tuple[Gpu, ...]:
    """GPUs from lines such as `NVIDIA H200, 9.0, 580.159.04`; nvidia-smi writes [N/A] for what it does not know."""
    rows = ([part.strip() for part in line.split(",")] for line in text.splitlines())
    return tuple(Gpu(row[0], _version(row[1]), _version(row[2])) for row in rows if len(row) == 3)


def _version(text: str) -> str | None:
    """A version of numbers and dots; None for [N/A], [Not Supported] or [Unknown Error]."""
    return text if re.fullmatch(r"\d+(\.\d+)*", text) else None


def _from_proc(root: Path) -> tuple[Gpu, ...]:
    """GPUs from `gpus/*/information`, whose first line is such as `Model:  NVIDIA H200`, and `version`."""
    driver = _driver(root / "version")
    return tuple(Gpu(name=name, driver=driver) for name in _models(root))


def _from_kfd(root: Path) -> tuple[Gpu, ...]:
    driver = kfd.driver(root)
    return tuple(Gpu(f"AMD {gpu.arch}", gpu.arch, driver, AMD) for gpu in kfd.gpus(root))


def _models(root: Path) -> Iterator[str]:
    for path in sorted(root.glob("gpus/*/information")):
        fields = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        yield fields.get("Model", "an NVIDIA GPU").strip()


def _driver(path: Path) -> str | None:
    """The first word of the driver's `version` file that is a version, such as 580.159.04."""
    words = path.read_text().split() if path.is_file() else []
    return next((word for word in words if word.replace(".", "").isdigit() and "." in word), None)


def choose(matrix: Matrix, machine: Machine) -> Choice:
    """The image for the first GPU, or a CPU's: the fastest measured one that runs here, else the first in images.yaml.

    It prefers images that are quick to build: a check needs no Axolotl, and a first check should not wait hours for a
    compiler. Raises NothingFits.
    """
    if not machine.gpus:
        return _for_cpu(matrix)
    gpu = machine.gpus[0]
    refused = {image.id: _refusal(matrix, image, gpu) for image in matrix.images}
    fitting = [image for image in matrix.images if refused[image.id] is None]
    if not fitting and gpu.vendor == AMD:
        # Many processors have a small AMD GPU in them, for which nobody makes images.
        return _for_cpu(matrix, f"no image that can be built runs on this machine's {gpu.name}, so its CPU is checked")
    if not fitting:
        reasons = (f"{name}: {reason}" for name, reason in refused.items())
        raise NothingFits(f"no image runs on {gpu.name} (driver {gpu.driver})", *reasons)
    fitting = _quick(matrix, fitting)
    measured = [(_speed(baseline), image) for image in fitting if (baseline := _baseline(matrix, image, gpu))]
    if measured:
        image = max(measured, key=lambda pair: pair[0])[1]
        return Choice(image, f"this machine has {gpu.name}, and {image.default} is the fastest measured there")
    return Choice(fitting[0], f"this machine has {gpu.name}, and nothing was measured there")


def _for_cpu(matrix: Matrix, reason: str = "no GPU on this machine") -> Choice:
    images = [image for image in matrix.images if matrix.platforms[image.platform].device == "cpu"]
    if not images:
        raise NothingFits("no GPU on this machine, and no image for a CPU in images.yaml")
    return Choice(_quick(matrix, images)[0], reason)


def _quick(matrix: Matrix, images: list[Image]) -> list[Image]:
    """The images that are quick to build, or all of them when none is."""
    return [image for image in images if matrix.quick(image)] or images


def _refusal(matrix: Matrix, image: Image, gpu: Gpu) -> str | None:
    """Why `image` cannot run on `gpu`; None when it can. An unknown capability or driver refuses nothing."""
    platform = matrix.platforms[image.platform]
    if platform.device == "cpu":
        return "is for a CPU"
    if (vendor := matrix.vendor(image.platform)) != gpu.vendor:
        return f"is for GPUs of {vendor}"
    if platform.unlocked:
        return f"cannot be built yet: {platform.unlocked.reason}"
    if gpu.capability and not any(gpu.capability in caps for caps in _capabilities(matrix, image)):
        return f"does not run on {'compute capability ' if vendor == NVIDIA else ''}{gpu.capability}"
    if platform.driver and gpu.driver and _numbers(gpu.driver) < _numbers(platform.driver.minimum):
        return f"needs driver {platform.driver.minimum} or newer"
    return None


def _capabilities(matrix: Matrix, image: Image) -> Iterator[tuple[str, ...]]:
    return (matrix.architectures[name].capabilities for name in matrix.image_architectures(image))


def _baseline(matrix: Matrix, image: Image, gpu: Gpu) -> Baseline | None:
    """What was measured on GPUs of this very name: an H200 NVL is not an H200.

    nvidia-smi, the driver's files in /proc and torch, which images.yaml quotes, give a GPU the same name.
    """
    found = (entry for entry in matrix.baselines if entry.gpu == gpu.name and entry.backend == image.default)
    return next(found, None)


def _speed(baseline: Baseline) -> float:
    """The share of the matmul ceiling over forward and backward, whose FLOPs are as 2 to 5."""
    return 7 / (2 / baseline.forward + 5 / baseline.backward)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
