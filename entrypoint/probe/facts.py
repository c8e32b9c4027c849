"""What this machine is: Python, installed versions, and the device as torch and the driver report it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import TYPE_CHECKING

from entrypoint.events import DeviceFacts, MachineEvent
from entrypoint.machine import devices
from entrypoint.probe.backends import hardware

if TYPE_CHECKING:
    import torch

# Distributions whose versions decide how attention behaves; those that are not installed are left out.
PACKAGES = (
    "torch",
    "triton",
    "flash-attn",
    "flash-attn-3",
    "flash-attn-4",
    "nvidia-cutlass-dsl",
    "quack-kernels",
    "xformers",
    "sageattention",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "nvidia-cublas-cu12",
    "nvidia-cublas",
    # Triton as torch's wheels for ROCm ask for it, by its newer and its older name.
    "triton-rocm",
    "pytorch-triton-rocm",
)


def machine(where: torch.device) -> MachineEvent:
    """Versions and the device; torch's own version says which CUDA it was built for."""
    import torch

    describe = cuda_device if where.type == "cuda" else cpu_device
    return MachineEvent(
        python=platform.python_version(),
        torch=str(torch.__version__),
        packages=installed(),
        device=describe(where),
    )


def installed() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def cuda_device(where: torch.device) -> DeviceFacts:
    """A GPU's facts; the uuid as nvidia-smi or rocminfo writes it, memory in bytes.

    AMD's torch has the gfx name with its features ("gfx942:sramecc+:xnack-"); the capability is the name alone.
    """
    import torch

    index = where.index if where.index is not None else torch.cuda.current_device()
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return DeviceFacts(
        index=index,
        name=properties.name,
        uuid=_amd_uuid(str(properties.uuid)) if on_amd() else f"GPU-{properties.uuid}",
        capability=str(hardware.chip_of(where)) if on_amd() else f"{properties.major}.{properties.minor}",
        driver=driver_version(),
        memory_total=total,
        memory_free=free,
    )


def on_amd() -> bool:
    """Whether torch was built for AMD's GPUs, which it calls `cuda` too."""
    import torch

    return torch.version.hip is not None


def _amd_uuid(uuid: str) -> str:
    """HIP's UUID is the 16 hexadecimal digits of rocminfo's as text, and torch prints the bytes of that text."""
    try:
        digits = bytes.fromhex(uuid.replace("-", "")).decode("ascii")
        return f"GPU-{int(digits, 16):016x}"
    except ValueError:
        return f"GPU-{uuid}"


def cpu_device(where: torch.device) -> DeviceFacts:
    """The CPU's facts; memory is the host's, not a container's limit."""
    page = os.sysconf("SC_PAGE_SIZE")
    return DeviceFacts(
        index=where.index or 0,
        name=devices.processor(),
        uuid=None,
        capability=None,
        driver=None,
        memory_total=os.sysconf("SC_PHYS_PAGES") * page,
        memory_free=os.sysconf("SC_AVPHYS_PAGES") * page,
    )


def driver_version() -> str | None:
    """Such as "580.159.04", from the kernel module's own file, or where that is missing (WSL) from nvidia-ml-py."""
    if on_amd():
        return devices.look(os.environ, vendor=devices.AMD).driver
    return devices.look(os.environ).driver or _driver_from_nvml()


def _driver_from_nvml() -> str | None:
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        return str(nvml.nvmlSystemGetDriverVersion())
    except Exception:  # noqa: BLE001 - NVMLError is only known once the import succeeded; not to know is no failure
        return None
