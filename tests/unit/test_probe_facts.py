"""Machine facts, on whatever machine the tests run on."""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path

import pytest

from entrypoint.events import DEVICE_FIELDS
from entrypoint.probe import facts


def test_installed_versions_are_those_of_the_distributions() -> None:
    """What is not installed is left out, not reported as unknown."""
    here = {distribution.metadata["Name"].lower(): distribution.version for distribution in distributions()}
    assert facts.installed() == {name: here[name] for name in facts.PACKAGES if name in here}


def test_a_cpu_has_every_device_field() -> None:
    """Null where a CPU has none; memory in bytes."""
    torch = pytest.importorskip("torch")
    device = facts.machine(torch.device("cpu"))["device"]
    assert isinstance(device, dict)
    assert set(device) == set(DEVICE_FIELDS)
    assert (device["uuid"], device["capability"], device["driver"]) == (None, None, None)
    assert 0 < device["memory_free"] <= device["memory_total"]
    assert device["name"]


def test_the_cpus_name_is_its_model(tmp_path: Path) -> None:
    """From the first core's entry."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Example 9000\nprocessor\t: 1\nmodel name\t: Example 9000\n")
    assert facts.cpu_name(cpuinfo) == "Example 9000"


def test_a_cpu_without_a_model_name_is_named_by_its_machine_type(tmp_path: Path) -> None:
    """Such as aarch64, whose kernel writes no model name."""
    assert facts.cpu_name(tmp_path / "missing")
