"""A mend wraps one function of an installed module, in the module's own file, and says when there is none to wrap."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DOCKER = Path(__file__).resolve().parents[2] / "docker"
WRAPPER = DOCKER / "mends/hub_kernels.py"
# A package whose get_kernel says that it has asked the hub, imported as transformers does.
MODULE = 'def get_kernel(repo_id: str, version: int = 1) -> str:\n    return f"fetched {repo_id} {version}"\n'
CALL = "from kernels import get_kernel; print(get_kernel('org/flash-attn2', version=3))"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site-packages with a stand-in of the package `kernels`."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels/__init__.py").write_text("from kernels.utils import get_kernel\n")
    (tmp_path / "kernels/utils.py").write_text(MODULE)
    return tmp_path


def mend(site: Path, function: str = "get_kernel") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DOCKER / "scripts/mend"), str(site), "kernels/utils.py", function, str(WRAPPER)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def call(site: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Ask the package for a kernel in a process of its own, with no USE_HUB_KERNELS but the one in `environ`."""
    inherited = {name: value for name, value in os.environ.items() if name != "USE_HUB_KERNELS"}
    env = {**inherited, "PYTHONPATH": str(site), **environ}
    return subprocess.run([sys.executable, "-c", CALL], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("value", ["0", "off", "no"])
def test_a_switched_off_hub_is_not_asked(site: Path, value: str) -> None:
    """Before the mend the kernel is fetched in spite of the variable; after it the request is refused by name."""
    assert call(site, USE_HUB_KERNELS=value).stdout == "fetched org/flash-attn2 3\n"

    assert mend(site).returncode == 0
    refused = call(site, USE_HUB_KERNELS=value)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"RuntimeError: org/flash-attn2 is not fetched: USE_HUB_KERNELS={value} keeps" in refused.stderr


@pytest.mark.parametrize("environ", [{}, {"USE_HUB_KERNELS": "1"}, {"USE_HUB_KERNELS": "yes"}])
def test_a_switched_on_hub_is_asked(site: Path, environ: dict[str, str]) -> None:
    """As transformers reads it: without the variable, or with a true value, kernels come from the hub."""
    mend(site)

    assert call(site, **environ).stdout == "fetched org/flash-attn2 3\n"


def test_a_mend_is_made_once(site: Path) -> None:
    """A second build step over the same layer adds nothing."""
    mend(site)
    once = (site / "kernels/utils.py").read_text()

    assert mend(site).returncode == 0
    assert (site / "kernels/utils.py").read_text() == once


def test_a_package_that_is_absent_needs_no_mend(tmp_path: Path) -> None:
    """The -base images hold no `kernels`."""
    assert mend(tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_function_that_is_gone_ends_the_build(site: Path) -> None:
    """A new version of the package may have moved it: then somebody has to look whether the defect is still there."""
    done = mend(site, "fetch_kernel")

    assert done.returncode == 1
    assert "utils.py has no function fetch_kernel any more" in done.stderr
    assert (site / "kernels/utils.py").read_text() == MODULE
