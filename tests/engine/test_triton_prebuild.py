"""Triton's kernels of a start that an image brings, where that image has been built: 9 GB, so no test builds it."""

from __future__ import annotations

import pytest
from attn_matrix.host import engine

from tests.engine.test_images import HARDENED, docker

IMAGE = "axolotl-attn:flex-cu128"
# What a start does, and then every call again that the image was built for. `gone` moves the image's kernels away, as
# another image's are: the links lead nowhere.
LOOK_UP_ALL = """
import os, subprocess, sys
from pathlib import Path
from entrypoint.kept import kernels_cache
directory = Path(os.environ[kernels_cache.TRITON])
print("said", kernels_cache.seed("/opt/attn", os.environ))
if sys.argv[1] == "gone":
    for link in [path for path in directory.rglob("*") if path.is_symlink()]:
        link.unlink()
        link.symlink_to("/gone" / link.relative_to(directory))
command = [sys.executable, "-P", "-m", "entrypoint.probe.triton.prebuild", "--arch", "sm_90", "--backends", "s2"]
subprocess.run([*command, "--cache", str(directory)], check=True)
print("made", len([path for path in directory.rglob("*.cubin") if not path.is_symlink()]))
"""


@pytest.fixture(scope="session")
def flex(docker_engine: None) -> str:
    """The image's tag, or a skip."""
    if engine.identity(IMAGE) is None:
        pytest.skip(f"needs the image {IMAGE}: nox -s build -- flex-cu128")
    return IMAGE


def looked_up(image: str, where: str) -> tuple[str, str]:
    """What LOOK_UP_ALL and what the compilation said, as any user on a read-only root, without a GPU."""
    options = ("--network=none", *HARDENED, "--env=PYTHONPATH=/opt/attn", "--entrypoint=python")
    done = docker("run", "--rm", *options, image, "-P", "-c", LOOK_UP_ALL, where)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_every_kernel_of_a_start_on_hopper_is_in_the_image(flex: str) -> None:
    """Triton loads each from the image's two files of it, and compiles none."""
    out, err = looked_up(flex, "here")
    assert out.splitlines() == ["said None", "made 0"]
    assert "; 0 were compiled" in err


def test_links_that_lead_nowhere_are_in_nobodys_way(flex: str) -> None:
    """A volume of another image: Triton compiles what it does not find, and writes it in the links' place."""
    out, err = looked_up(flex, "gone")
    made = int(out.splitlines()[1].removeprefix("made "))
    assert made > 10
    assert "; 0 were compiled" not in err
