"""Machine facts, on whatever machine the tests run on."""

from __future__ import annotations

from importlib.metadata import distributions
from types import SimpleNamespace

import pytest

from entrypoint.events import DeviceFacts
from entrypoint.probe import facts


def test_installed_versions_are_those_of_the_distributions() -> None:
    """What is not installed is left out, not reported as unknown."""
    here = {distribution.metadata["Name"].lower(): distribution.version for distribution in distributions()}
    assert facts.installed() == {name: here[name] for name in facts.PACKAGES if name in here}


def test_a_cpu_has_every_device_field() -> None:
    """Null where a CPU has none; memory in bytes."""
    torch = pytest.importorskip("torch")
    device = facts.machine(torch.device("cpu")).device
    assert (device.uuid, device.capability, device.driver) == (None, None, None)
    assert 0 < device.memory_free <= device.memory_total
    assert device.name


def test_a_gpu_is_described_as_nvidia_smi_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Index, the uuid with its prefix, the capability as major.minor, and free and total memory the right way round."""
    torch = pytest.importorskip("torch")
    properties = SimpleNamespace(name="NVIDIA H200", uuid="1b0c3a2e-0000", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (100, 140))
    monkeypatch.setattr(facts, "driver_version", lambda: "580.159.04")
    assert facts.cuda_device(torch.device("cuda:1")) == DeviceFacts(
        index=1,
        name="NVIDIA H200",
        uuid="GPU-1b0c3a2e-0000",
        capability="9.0",
        driver="580.159.04",
        memory_total=140,
        memory_free=100,
    )
