"""The faults, by what they are done to."""

from __future__ import annotations

from typing import Final

from tests.engine.faults.fault import Fault
from tests.engine.faults.listed import cache, children, files, gpus, machine, request, signals

LISTED: Final[dict[str, tuple[Fault, ...]]] = {
    "the check's process": children.FAULTS,
    "signals to the container": signals.FAULTS,
    "memory, processors, limits": machine.FAULTS,
    "file systems and streams": files.FAULTS,
    "the cache": cache.FAULTS,
    "GPUs": gpus.FAULTS,
    "what was asked for": request.FAULTS,
}
FAULTS: Final = {fault.name: fault for group in LISTED.values() for fault in group}
