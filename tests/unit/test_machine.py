"""What this machine is, and the image that fits it."""

from __future__ import annotations

from pathlib import Path

import pytest
from attn_matrix.host import machine
from attn_matrix.host.machine import Gpu, Machine, NothingFits, choose
from attn_matrix.matrix.load import load, read

VALID = Path(__file__).parents[1] / "data/valid.yaml"
SMALL = read(VALID)
H100 = Gpu("NVIDIA H100", "9.0", "580.159.04")
A100 = Gpu("NVIDIA A100", "8.0", "580.159.04")


def test_without_a_gpu_a_cpu_image_fits() -> None:
    """The first image of a CPU platform."""
    choice = choose(SMALL, Machine())
    assert (choice.image.id, choice.reason) == ("sdpa-cpu", "no GPU on this machine")


def test_the_fastest_measured_backend_wins() -> None:
    """fa4 has a baseline on this GPU, sdpa, which comes first in images.yaml, has none."""
    choice = choose(SMALL, Machine((H100,)))
    assert choice.image.id == "fa4-cu128"
    assert "fastest measured" in choice.reason


def test_of_two_measured_backends_the_faster_one_wins() -> None:
    """Over forward and backward together: fast in one direction alone does not win."""
    line = "  - {gpu: NVIDIA H100, backend: sdpa, case: s8192, forward: 0.45, backward: 0.45, margin: 1, source: me}\n"
    faster = load(VALID.read_text(encoding="utf-8") + line)
    assert choose(faster, Machine((H100,))).image.id == "sdpa-cu128"


def test_a_name_that_begins_with_a_measured_one_is_another_gpu() -> None:
    """An H100 NVL has other clocks and memory than the H100 that was measured."""
    choice = choose(SMALL, Machine((Gpu("NVIDIA H100 NVL", "9.0", "580.159.04"),)))
    assert (choice.image.id, choice.reason) == (
        "sdpa-cu128",
        "this machine has NVIDIA H100 NVL, and nothing was measured there",
    )


def test_an_architecture_that_a_backend_lacks_is_left_out() -> None:
    """fa4 does not train on Ampere."""
    assert choose(SMALL, Machine((A100,))).image.id == "sdpa-cu128"


@pytest.mark.parametrize(
    ("gpu", "reason"),
    [
        (Gpu("NVIDIA H100", "9.0", "470.1"), "needs driver 525.60.13 or newer"),
        (Gpu("NVIDIA T4", "7.5", "580.1"), "does not run on compute capability 7.5"),
    ],
)
def test_nothing_that_fits_is_an_error_with_each_reason(gpu: Gpu, reason: str) -> None:
    """A GPU that no image supports never falls back to a CPU image silently."""
    with pytest.raises(NothingFits) as caught:
        choose(SMALL, Machine((gpu,)))
    assert gpu.name in caught.value.lines[0]
    assert f"sdpa-cu128: {reason}" in caught.value.lines
    assert "sdpa-cpu: is for a CPU" in caught.value.lines


def test_what_is_unknown_refuses_nothing() -> None:
    """/proc knows no compute capability: the container looks for itself."""
    assert choose(SMALL, Machine((Gpu("NVIDIA X"),))).image.id == "sdpa-cu128"


def test_drivers_compare_as_numbers() -> None:
    """1000 is newer than 525, which as text it is not."""
    assert choose(SMALL, Machine((Gpu("NVIDIA H100", "9.0", "1000.1"),))).image.id == "fa4-cu128"


def test_smi_lines_become_gpus() -> None:
    """Names hold spaces; what is no row of three is none of ours."""
    text = "NVIDIA H200, 9.0, 580.159.04\nNVIDIA A100-SXM4-80GB, 8.0, 580.159.04\nNo devices were found\n"
    expected = (Gpu("NVIDIA H200", "9.0", "580.159.04"), Gpu("NVIDIA A100-SXM4-80GB", "8.0", "580.159.04"))
    assert machine.parse_smi(text) == expected


@pytest.mark.parametrize("unknown", ["[N/A]", "[Not Supported]", "[Unknown Error]", ""])
def test_what_smi_does_not_know_is_unknown(unknown: str) -> None:
    """It refuses nothing, and is no number to compare with."""
    (gpu,) = machine.parse_smi(f"NVIDIA H200, {unknown}, {unknown}\n")
    assert gpu == Gpu("NVIDIA H200", None, None)
    assert choose(SMALL, Machine((gpu,))).image.id == "sdpa-cu128"


def test_proc_gives_names_and_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nvidia-smi is not installed the kernel module's own files are read."""
    (tmp_path / "gpus/0000:1b:00.0").mkdir(parents=True)
    information = "Model: \t\t NVIDIA H200\nIRQ:   \t\t 0\nGPU UUID: \t GPU-1\n"
    (tmp_path / "gpus/0000:1b:00.0/information").write_text(information, encoding="utf-8")
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue\nGCC version:  gcc 12.3.0\n"
    (tmp_path / "version").write_text(version, encoding="utf-8")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "PROC", tmp_path)
    assert machine.look() == Machine((Gpu("NVIDIA H200", None, "580.159.04"),))


def test_a_machine_without_a_driver_has_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An nvidia-smi that fails, as one in an image without a driver does, is no GPU."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n", encoding="utf-8")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "PROC", tmp_path / "none")
    assert machine.look() == Machine()


def test_a_check_waits_for_no_compiler_and_no_trainer() -> None:
    """Of the whole matrix: the fastest image that is quick to build, and on a CPU the one without Axolotl."""
    whole = read(Path(__file__).parents[2] / "images.yaml")
    h200 = Gpu("NVIDIA H200", "9.0", "580.159.04")
    assert choose(whole, Machine((h200,))).image.id == "fa4-cu128-base"
    assert choose(whole, Machine()).image.id == "sdpa-cpu-base"
