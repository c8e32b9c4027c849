"""The kernels that the fa4 image brings, where that image has been built: 8 GB, so no test builds it."""

from __future__ import annotations

import pytest
from attn_matrix.host import engine

from tests.engine.test_images import HARDENED, docker

IMAGE = "axolotl-attn:fa4-cu128-base"
# What a start does, and then every call again that the image was built for.
LOOK_UP_ALL = """
import os, subprocess, sys
from pathlib import Path
from entrypoint import kernels_cache
print("said", kernels_cache.seed(Path("/opt/attn"), os.environ))
prebuild = [sys.executable, "-P", "-m", "entrypoint.probe.fa4.prebuild", "--out", os.environ[kernels_cache.DIRECTORY]]
subprocess.run([*prebuild, "--arch", "sm_90", "--head-dims", *sys.argv[1:]], check=True)
print("compiled", len(kernels_cache.compiled(os.environ)))
"""


@pytest.fixture(scope="session")
def fa4(docker_engine: None) -> str:
    """The image's tag, or a skip."""
    if engine.identity(IMAGE) is None:
        pytest.skip(f"needs the image {IMAGE}: nox -s build -- fa4-cu128-base")
    return IMAGE


def looked_up(image: str, *head_dims: str) -> str:
    """The output of LOOK_UP_ALL, as any user on a read-only root, without a GPU."""
    options = ("--network=none", *HARDENED, "--env=PYTHONPATH=/opt/attn", "--entrypoint=python")
    done = docker("run", "--rm", *options, image, "-P", "-c", LOOK_UP_ALL, *head_dims)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_kernel_for_hopper_is_in_the_image(fa4: str) -> None:
    """FA4 finds what training and the check call, and compiles nothing."""
    assert looked_up(fa4, "64", "128").splitlines() == ["said None", "compiled 0"]


def test_what_is_not_in_the_image_is_compiled_and_kept(fa4: str) -> None:
    """Beside the links; the image's own directory cannot be written."""
    first, last = looked_up(fa4, "40").splitlines()
    assert first == "said None"
    assert int(last.removeprefix("compiled ")) > 0
