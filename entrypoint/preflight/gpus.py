"""The compute capability of an NVIDIA GPU by the name that its driver shows in /proc, where no library is asked.

Source: NVIDIA's list, https://developer.nvidia.com/cuda-gpus. A name that is not here is not known, and what needs the
capability is judged once the check has asked the GPU itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from entrypoint.light import TYPE_CHECKING
from entrypoint.machine.devices import Devices

if TYPE_CHECKING:
    from typing import Final

_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "7.0": ("V100",),
    "7.5": ("T4", "RTX 2080 Ti", "RTX 2080", "RTX 2070", "RTX 2060", "Quadro RTX 6000", "Quadro RTX 8000"),
    "8.0": ("A100", "A800", "A30"),
    "8.6": ("A10", "A10G", "A16", "A40", "RTX A6000", "RTX A5000", "RTX A4000", "RTX 3090", "RTX 3080", "RTX 3060"),
    "8.9": ("L4", "L40", "L40S", "RTX 4090", "RTX 4080", "RTX 6000 Ada Generation"),
    "9.0": ("H100", "H200", "H800", "H20", "GH200"),
    "10.0": ("B200", "GB200"),
    "10.3": ("B300", "GB300"),
    "12.0": ("RTX 5090", "RTX 5080", "RTX PRO 6000 Blackwell"),
}
_CAPABILITIES: Final = {name: capability for capability, names in _NAMES.items() for name in names}


def capability(name: str) -> str | None:
    """ "9.0" of "NVIDIA H100 80GB HBM3"; None for a name that is not known."""
    known = sorted(_CAPABILITIES, key=len, reverse=True)
    found = re.search(rf"\b({'|'.join(map(re.escape, known))})\b", name)
    return _CAPABILITIES[found.group()] if found else None


def before_torch(devices: Devices) -> tuple[str, ...]:
    """The capability of each GPU of the run; () when one is not known, or when they are unlike: CUDA's order is not the
    driver's, and CUDA_VISIBLE_DEVICES may take some of them."""
    known = [capability(gpu.name) for gpu in devices.usable]
    certain = len(known) >= devices.count and len(set(known)) == 1
    return tuple(filter(None, known))[: devices.count] if certain else ()
