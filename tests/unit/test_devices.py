"""Which GPUs a container was given, read from a /proc and /dev laid out for the test."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from entrypoint.machine.devices import cpu_name, look, older, processor

VERSION = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (root@host)
GCC version:  gcc version 13.2.0
"""
CPU = "processor\t: 0\nmodel name\t: Fast CPU\nflags\t\t: avx2 amx\n\nprocessor\t: 1\n"
SELECTIONS = [("", 0), ("-1", 0), ("0", 1), ("0,1", 1), ("GPU-1aaa", 1), ("0,-1,1", 1)]
VERSIONS = [("525.60.12", True), ("525.60.13", False), ("1000.1", False), ("470.9", True)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with a driver and two GPUs, of which the container got the second."""
    driver = tmp_path / "proc/driver/nvidia"
    for minor in range(2):
        gpu = driver / f"gpus/0000:0{minor}:00.0"
        gpu.mkdir(parents=True)
        text = f"Model: \t\t NVIDIA H200\nIRQ:   \t\t 1\nGPU UUID: \t GPU-{minor}aaa-bbb\nDevice Minor: \t {minor}\n"
        (gpu / "information").write_text(text)
    (driver / "version").write_text(VERSION)
    (tmp_path / "dev").mkdir()
    for node in ("nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / "dev" / node).touch()
    return tmp_path


def test_only_gpus_with_a_device_node_are_usable(root: Path) -> None:
    """/proc lists the host's GPUs; the nodes in /dev say which ones the container got."""
    devices = look({}, root)

    assert devices.driver == "580.159.04"
    assert [gpu.minor for gpu in devices.listed] == [0, 1]
    assert [(gpu.name, gpu.uuid) for gpu in devices.usable] == [("NVIDIA H200", "GPU-1aaa-bbb")]
    assert (devices.count, devices.identified) == (1, True)


@pytest.mark.parametrize(("selection", "count"), SELECTIONS)
def test_cuda_visible_devices_narrows(root: Path, selection: str, count: int) -> None:
    """As CUDA reads it: up to the first invalid entry, and never more than there are."""
    devices = look({"CUDA_VISIBLE_DEVICES": selection}, root)

    assert devices.count == count
    assert devices.hidden == ("" if count else f"CUDA_VISIBLE_DEVICES={selection}")


def test_a_gpu_that_is_not_there_is_not_hidden(root: Path) -> None:
    """The variable is not why: it is named only where it takes the last one."""
    (root / "dev/nvidia1").unlink()
    assert look({"CUDA_VISIBLE_DEVICES": ""}, root).hidden == ""


def test_a_sleeping_gpu_is_not_identified(root: Path) -> None:
    """Before the driver wakes a GPU its UUID is question marks, which would be the same on every node."""
    for information in root.glob("proc/driver/nvidia/gpus/*/information"):
        information.write_text("GPU UUID: \t GPU-????????-????\nDevice Minor: \t 1\n")

    assert not look({}, root).identified


def test_nodes_without_a_listing_count(tmp_path: Path) -> None:
    """Some sandboxes give the device nodes without /proc/driver/nvidia."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()

    devices = look({}, tmp_path)

    assert (devices.count, devices.identified, devices.driver) == (1, False, None)


def test_a_machine_without_a_driver_has_no_gpu(tmp_path: Path) -> None:
    """No /proc/driver/nvidia, no /dev: nothing found, nothing raised."""
    devices = look({}, tmp_path)

    assert (devices.count, devices.driver, devices.listed) == (0, None, ())


@pytest.mark.parametrize(("version", "is_older"), VERSIONS)
def test_driver_versions_compare_as_numbers(version: str, is_older: bool) -> None:
    """1000 is newer than 525, which text comparison would deny."""
    assert older(version, "525.60.13") is is_older


def test_cpu_name_reads_the_first_core(tmp_path: Path) -> None:
    """Model and flags, which decide what kernels a CPU gets."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(CPU)

    assert cpu_name(tmp_path) == "Fast CPU avx2 amx"
    assert processor(tmp_path) == "Fast CPU"


def test_a_processor_without_a_model_name_is_named_by_its_kind(tmp_path: Path) -> None:
    """Arm's file has no such line, and in some sandboxes there is no file."""
    assert processor(tmp_path) == platform.machine()
