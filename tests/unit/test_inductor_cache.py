"""Kernels that Inductor compiled for one CPU are not found by another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from entrypoint.inductor_cache import DEFAULT, DIRECTORY, LIMITS, variables

DOCKERFILE = Path(__file__).parents[2] / "docker" / "Dockerfile"
IMAGE = {DIRECTORY: DEFAULT}


def folder(cpu: str = "Fast CPU avx2 amx", **environ: str) -> str:
    return variables({**IMAGE, **environ}, cpu)[DIRECTORY]


def test_each_cpu_has_a_folder_of_its_own() -> None:
    """In the image's directory, and the same at the next start."""
    assert re.fullmatch(re.escape(DEFAULT) + r"/[0-9a-f]{12}", folder())
    assert folder() == folder()
    assert folder() != folder("Fast CPU avx2")


def test_a_limit_of_the_instruction_set_makes_another_cpu() -> None:
    """Each variable and each value of it."""
    values = [{name: value} for name in LIMITS for value in ("AVX2", "DEFAULT")]

    assert len({folder(), *(folder(**limit) for limit in values)}) == 1 + len(values)


@pytest.mark.parametrize("environ", [{}, {DIRECTORY: ""}, {DIRECTORY: "/mine"}, {DIRECTORY: f"{DEFAULT}/0123456789ab"}])
def test_a_directory_that_is_not_the_images_stays(environ: dict[str, str]) -> None:
    """The user's; none, outside of an image; and the one that this start got from another before it."""
    assert variables(environ, "Fast CPU") == {}


def test_the_images_directory_is_the_dockerfiles() -> None:
    """Else no start would notice that nobody chose another."""
    assert f"{DIRECTORY}={DEFAULT} \\\n" in DOCKERFILE.read_text(encoding="utf-8")
