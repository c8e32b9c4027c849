"""images.yaml is the place of versions and architectures: what has to repeat one of them elsewhere is compared here."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from attn_matrix import ROOT
from attn_matrix.matrix.load import FILE, read
from attn_matrix.rendered.bake import compiled_for, start_compiled_for

import noxfile
from entrypoint.probe.ahead import GPUS
from entrypoint.probe.backends import hardware, sage
from entrypoint.probe.fa4 import prebuild

MATRIX = read(ROOT / FILE)
PYTHONS = {platform.python for platform in MATRIX.platforms.values()}
OLDEST = min(PYTHONS, key=lambda version: [int(part) for part in version.split(".")])
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ACTION = yaml.safe_load((ROOT / ".github/actions/nox/action.yml").read_text(encoding="utf-8"))
# BaseLoader: YAML 1.1 takes the key `on` for a truth value.
GPU_WORKFLOW = yaml.load((ROOT / ".github/workflows/gpu.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# ---- Python ----


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("mypy", PYPROJECT["tool"]["mypy"]["python_version"]),
        ("ruff", re.sub(r"^py3", "3.", PYPROJECT["tool"]["ruff"]["target-version"])),
        ("the workflows", ACTION["runs"]["steps"][0]["with"]["python-version"]),
        ("noxfile.py's requires-python", text("noxfile.py").partition('requires-python = ">=')[2].partition('"')[0]),
    ],
)
def test_the_python_of_tools_is_the_oldest_that_an_image_has(place: str, found: str) -> None:
    """They read no YAML of ours, and code that they accept has to run in every image."""
    assert found == OLDEST, f"{place} has Python {found}, and {FILE} {OLDEST}"


def test_the_tests_run_on_the_python_that_the_cpu_lock_is_for() -> None:
    """noxfile.py reads it from the bake file."""
    assert noxfile.python_of_cpu() == MATRIX.platforms["cpu"].python


@pytest.mark.parametrize("name", ["docker/Dockerfile", "noxfile.py", "docker/attn_matrix/commands/lock.py"])
def test_no_version_of_python_is_written_where_it_can_be_read(name: str) -> None:
    """A `3.11` beside those of images.yaml. (A comment may give one as an example, and requires-python is above.)"""
    lines = [line for line in text(name).splitlines() if not line.startswith("#")]
    assert [line for line in lines if re.search(r"\b(python)?3\.\d\d\b", line)] == []


# ---- architectures ----


def capabilities(vendor: str) -> set[str]:
    """What torch calls the GPUs of a vendor that images.yaml knows."""
    return {name for each in MATRIX.architectures.values() if each.vendor == vendor for name in each.capabilities}


def test_a_gpu_workflow_can_choose_every_architecture() -> None:
    """In the order of images.yaml."""
    assert GPU_WORKFLOW["on"]["workflow_dispatch"]["inputs"]["gpu"]["options"] == [*MATRIX.architectures]


def test_every_architecture_that_kernels_are_compiled_for_can_be() -> None:
    """prebuild.py adds to it what only a compiler wants to know; and it knows no GPU that images.yaml does not."""
    wanted = {target for image in MATRIX.images for target in compiled_for(MATRIX, image)}
    known = {f"sm_{capability.replace('.', '')}" for capability in capabilities("nvidia")}
    assert wanted <= prebuild.TARGETS.keys() <= known
    for name, target in prebuild.TARGETS.items():
        assert name == "sm_{}{}".format(*target.capability)
        assert target.compiles_to == f"{name}a"


def test_every_architecture_that_triton_compiles_for_stands_for_a_gpu() -> None:
    """ahead.py knows one of each, and none that images.yaml does not."""
    wanted = {target for image in MATRIX.images for target in start_compiled_for(MATRIX, image)}
    known = {f"sm_{capability.replace('.', '')}" for capability in capabilities("nvidia")}
    assert wanted == GPUS.keys() <= known


def test_the_probe_knows_the_same_amd_gpus() -> None:
    """The probe runs in images, where there is no images.yaml. Composable Kernel's are those of flash-attn's wheel."""
    assert capabilities("amd") == hardware.AMD
    assert {name for name in MATRIX.wheels["flash-attn"].architectures if name in hardware.AMD} == hardware.CDNA


def test_sageattention_claims_every_gpu_that_it_is_built_for() -> None:
    """Its adapter names chips by the package's own code, which supports more than our images are built for."""
    versions = {
        platform.pins["sageattention"] for platform in MATRIX.platforms.values() if "sageattention" in platform.pins
    }
    built = {name for each in MATRIX.backends["sage"].architectures for name in MATRIX.architectures[each].capabilities}
    assert versions <= sage.CHIPS.keys()
    for version in versions:
        assert built <= {f"{major}.{minor}" for major, minor in sage.CHIPS[version]}
