"""What NVML says of a GPU: sensors under load, counters of errors, Xids. Optional: what cannot be read is unknown.

nvidia-ml-py (`pynvml`) is NVIDIA's own binding. None of this is ever a reason for the check to fail, so every call of
it may raise what it likes.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from entrypoint.events import HealthEvent
from entrypoint.probe.eventlog import EventLog
from entrypoint.probe.facts import on_amd

T = TypeVar("T")
N = TypeVar("N", int, float)
# nvml.h: nvmlClocksEventReason…; an idle clock (bit 0) is no finding.
THROTTLE: Final = {
    0x002: "application_clocks",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock",
}
MOST_XIDS: Final = 32


@dataclass(frozen=True, kw_only=True)
class Load:
    """One look at a GPU while kernels run: degrees Celsius, watts, the clock in MHz. None: NVML does not say it."""

    temperature: int | None
    power_watts: float | None
    sm_megahertz: int | None


class Sensors:
    """One GPU's sensors, watched from now on: `sample` while kernels run, `facts` at any time."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._events = _or_none(self._register)
        self._loads: list[Load] = []
        self._throttle: tuple[str, ...] | None = None
        self._xids: list[int] = []

    def sample(self) -> None:
        """Look once. A GPU is throttled under load alone, so this belongs between queueing kernels and waiting."""
        nvml, handle = self._nvml, self._handle
        reasons = _or_none(lambda: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)))
        if reasons is not None:
            held = [name for bit, name in THROTTLE.items() if reasons & bit]
            self._throttle = tuple(dict.fromkeys([*(self._throttle or ()), *held]))
        self._loads.append(
            Load(
                temperature=_or_none(lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
                power_watts=_or_none(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000.0),
                sm_megahertz=_or_none(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            )
        )

    def facts(self) -> HealthEvent:
        """Of what was sampled the highest temperature, the most power and the highest clock."""
        nvml, handle = self._nvml, self._handle
        if not self._loads:
            self.sample()
        remapped = _or_none(lambda: nvml.nvmlDeviceGetRemappedRows(handle)) or (None, None, None, None)
        uncorrected = (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
        return HealthEvent(
            temperature=_highest(load.temperature for load in self._loads),
            power_watts=_highest(load.power_watts for load in self._loads),
            power_limit_watts=_or_none(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000.0),
            sm_megahertz=_highest(load.sm_megahertz for load in self._loads),
            sm_megahertz_max=_or_none(lambda: int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM))),
            throttle=self._throttle,
            ecc_uncorrected=_or_none(lambda: int(nvml.nvmlDeviceGetTotalEccErrors(handle, *uncorrected))),
            row_remap_pending=None if remapped[2] is None else bool(remapped[2]),
            row_remap_failed=None if remapped[3] is None else bool(remapped[3]),
            xids=self._new_xids(),
            other_processes=_or_none(self._others),
        )

    def _register(self) -> Any:
        events = self._nvml.nvmlEventSetCreate()
        self._nvml.nvmlDeviceRegisterEvents(self._handle, self._nvml.nvmlEventTypeXidCriticalError, events)
        return events

    def _new_xids(self) -> tuple[int, ...] | None:
        """All Xids since `Sensors` was made; waiting for none raises a timeout at once."""
        if self._events is None:
            return None
        while len(self._xids) < MOST_XIDS:
            event = _or_none(lambda: self._nvml.nvmlEventSetWait_v2(self._events, 0))
            if event is None:
                break
            self._xids.append(int(event.eventData))
        return tuple(self._xids)

    def _others(self) -> int | None:
        """All but ours, which has its CUDA context already. PIDs do not tell: a container may see the host's."""
        running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        return len(running) - 1 if running else None


class NoSensors:
    """A GPU that cannot be asked, and a CPU: nothing is known, and `reason` says why."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def sample(self) -> None:
        """There is nothing to look at."""

    def facts(self) -> HealthEvent:
        return HealthEvent(reason=self._reason)


def sensors_of(uuid: str | None) -> Sensors | NoSensors:
    """The sensors of the GPU with this UUID as nvidia-smi writes it, whatever index the container gave it."""
    if uuid is None:
        return NoSensors("this device has no NVML")
    if on_amd():
        return NoSensors("they are read through NVIDIA's NVML alone, and this GPU is AMD's")
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        return Sensors(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
    except Exception as error:  # noqa: BLE001 - NVMLError is only known once the import succeeded
        return NoSensors(f"{type(error).__name__}: {error}")


def opening(uuid: str | None) -> Callable[[], Sensors | NoSensors]:
    """Open them in a thread, since NVML waits for the driver and Python need not; the function waits for the rest."""
    opened: list[Sensors | NoSensors] = []
    thread = threading.Thread(target=lambda: opened.append(sensors_of(uuid)), daemon=True)
    thread.start()

    def sensors() -> Sensors | NoSensors:
        thread.join()
        return opened[0]

    return sensors


@contextmanager
def watched(sensors: Sensors | NoSensors, log: EventLog) -> Iterator[None]:
    """Emit `health` now and at the end, an exception's end too: a kernel's crash has an Xid to tell of."""
    log.emit(sensors.facts())
    try:
        yield
    finally:
        log.emit(sensors.facts())


def _highest(values: Iterable[N | None]) -> N | None:
    return max((value for value in values if value is not None), default=None)


def _or_none(read: Callable[[], T]) -> T | None:
    """NVML says of each value by itself that a GPU or a container does not have it."""
    try:
        return read()
    except Exception:  # noqa: BLE001 - as above
        return None
