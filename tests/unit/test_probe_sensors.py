"""What NVML says, from an NVML that says what the test wants."""

from __future__ import annotations

import io
import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from entrypoint.events import HealthEvent
from entrypoint.probe import sensors as probed
from entrypoint.probe.eventlog import EventLog


class Nvml:
    """A stand-in for pynvml with one healthy H200 under load, whose values a test changes; None is not supported."""

    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM = 0, 1
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 1, 0
    nvmlEventTypeXidCriticalError = 8  # noqa: N815 - pynvml's own name

    def __init__(self) -> None:
        self.values: dict[str, Any] = {
            "nvmlInit": 0,
            "nvmlDeviceGetHandleByUUID": "handle",
            "nvmlEventSetCreate": "events",
            "nvmlDeviceRegisterEvents": 0,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4,
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetPowerUsage": 698_000,
            "nvmlDeviceGetEnforcedPowerLimit": 700_000,
            "nvmlDeviceGetClockInfo": 1755,
            "nvmlDeviceGetMaxClockInfo": 1980,
            "nvmlDeviceGetTotalEccErrors": 0,
            "nvmlDeviceGetRemappedRows": (0, 0, 0, 0),
            "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=1), SimpleNamespace(pid=2)],
        }
        self.xids: list[int] = []

    def nvmlEventSetWait_v2(self, events: str, milliseconds: int) -> Any:  # noqa: N802 - as above
        assert (events, milliseconds) == ("events", 0), "the check never waits for an error"
        if not self.xids:
            raise RuntimeError("Timeout")
        return SimpleNamespace(eventData=self.xids.pop(0))

    def __getattr__(self, name: str) -> Any:
        def call(*_: object) -> Any:
            if self.values.get(name) is None:
                raise RuntimeError("Not Supported")
            return self.values[name]

        return call


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    fake = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", cast(ModuleType, fake))
    return fake


def test_a_gpu_under_load(nvml: Nvml) -> None:
    """Degrees, watts, megahertz, names of what held the clocks back, and one process beside ours."""
    assert probed.sensors_of("GPU-0").facts() == HealthEvent(
        temperature=61,
        power_watts=698.0,
        power_limit_watts=700.0,
        sm_megahertz=1755,
        sm_megahertz_max=1980,
        throttle=("sw_power_cap",),
        ecc_uncorrected=0,
        row_remap_pending=False,
        row_remap_failed=False,
        xids=(),
        other_processes=1,
        reason=None,
    )


@pytest.mark.parametrize("uuid", [None, "GPU-0"])
def test_a_machine_without_nvml_knows_the_reason_alone(uuid: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU has no UUID to ask NVML for, and a GPU's NVML may be missing."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    facts = probed.sensors_of(uuid).facts()
    assert facts.reason
    assert facts == HealthEvent(reason=facts.reason)


def test_a_value_that_is_not_supported_is_unknown(nvml: Nvml) -> None:
    """A consumer card has no ECC: null, and the others are as they were."""
    nvml.values |= {"nvmlDeviceGetTotalEccErrors": None, "nvmlDeviceGetRemappedRows": None, "nvmlEventSetCreate": None}
    facts = probed.sensors_of("GPU-0").facts()
    unknown = (facts.ecc_uncorrected, facts.row_remap_pending, facts.row_remap_failed, facts.xids)
    assert unknown == (None, None, None, None)
    assert facts.temperature == 61


def test_no_nvml_is_a_reason(nvml: Nvml) -> None:
    """Unknown stays unknown, and nothing is raised."""
    nvml.values["nvmlInit"] = None
    facts = probed.sensors_of("GPU-0").facts()
    assert facts.reason == "RuntimeError: Not Supported"
    assert facts.ecc_uncorrected is None


def test_samples_add_up(nvml: Nvml) -> None:
    """The highest temperature and clock, and every reason that held a clock back; an idle clock (bit 0) is none."""
    sensors = probed.sensors_of("GPU-0")
    for degrees, clock, reasons in ((70, 1900, 0x1), (88, 900, 0x20), (80, 1000, 0x60)):
        nvml.values |= {"nvmlDeviceGetTemperature": degrees, "nvmlDeviceGetClockInfo": clock}
        nvml.values["nvmlDeviceGetCurrentClocksThrottleReasons"] = reasons
        sensors.sample()
    facts = sensors.facts()
    assert (facts.temperature, facts.sm_megahertz) == (88, 1900)
    assert facts.throttle == ("sw_thermal_slowdown", "hw_thermal_slowdown")


def test_failed_rows_and_pending_ones_are_told_apart(nvml: Nvml) -> None:
    """NVML's order: corrected, uncorrected, pending, failed."""
    nvml.values["nvmlDeviceGetRemappedRows"] = (5, 6, 1, 0)
    facts = probed.sensors_of("GPU-0").facts()
    assert (facts.row_remap_pending, facts.row_remap_failed) == (True, False)


def test_xids_of_a_crash_are_told_at_its_end(nvml: Nvml) -> None:
    """`health` comes twice, the second time although a kernel broke the device."""
    stream = io.StringIO()

    def crash() -> None:
        with probed.watched(probed.opening("GPU-0")(), EventLog(stream)):
            nvml.xids += [31, 45]
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        crash()
    before, after = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (before["event"], before["xids"]) == ("health", [])
    assert (after["event"], after["xids"]) == ("health", [31, 45])
