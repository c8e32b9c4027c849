"""The built images: what they hold, who they run as, and the real check inside them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.patience import CHECK, PATIENCE

HARDENED = ["--user=12345:0", "--read-only", "--tmpfs=/tmp:exec", "--cap-drop=ALL", "--security-opt=no-new-privileges"]


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False)


def inside(image: str, script: str, *options: str) -> str:
    """The output of a shell script in the image, without the check."""
    done = docker("run", "--rm", "--network=none", "--env=ATTN_CHECK=off", *options, image, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(image: str, *command: str, options: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A container with the real check, which a slow machine gets time for."""
    return docker("run", "--rm", "--network=none", f"--env=ATTN_TIMEOUT={CHECK}", *options, image, *command)


def inspect(image: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(docker("image", "inspect", image).stdout)[0]
    return document


def test_the_real_check_passes_without_network_and_privileges(sdpa_cpu: str) -> None:
    """As any UID, with a read-only root: the report on stdout is a PASS of sdpa, observed in the profiler."""
    done = check(sdpa_cpu, "check", "--json", options=HARDENED)

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["verdict"], report["backend"]["observed"]) == ("PASS", "sdpa")
    assert report["image"]["versions"]["torch"].startswith("2.13.0")
    assert len(report["cases"]) >= 8


def test_a_wrong_kernel_in_a_real_image_is_refused(sdpa_cpu: str, tmp_path: Path) -> None:
    """torch's attention replaced by one with a scale that is 5 % off: 92, found by the real child."""
    tmp_path.chmod(0o755)  # the container's user is another one
    (tmp_path / "sitecustomize.py").write_text(
        "import torch.nn.functional as F\n"
        "real = F.scaled_dot_product_attention\n"
        "F.scaled_dot_product_attention = lambda q, *args, **kwargs: real(q * 1.05, *args, **kwargs)\n"
    )
    mount = (f"--volume={tmp_path}:/patch:ro", "--env=PYTHONPATH=/patch")
    done = check(sdpa_cpu, "echo", "ran", options=mount)

    assert done.returncode == 92, done.stderr
    assert done.stdout == ""
    assert "sdpa computes wrong numbers" in done.stderr


def test_flex_compiles_as_any_user_on_a_read_only_root(flex_cpu: str) -> None:
    """FlexAttention calls g++ and loads the result from /tmp; on a CPU it is forward only, and says so first."""
    done = check(flex_cpu, "check", options=(*HARDENED, "--env=ATTN_ALLOW=forward-only"))

    assert done.returncode == 0, done.stderr
    assert "DEGRADED: Forward only: flex has no gradients on cpu" in done.stderr
    assert "flex observed" in done.stderr


def test_the_torch_layer_is_shared(sdpa_cpu: str, flex_cpu: str) -> None:
    """All but the last few layers of two images of a platform are the same."""
    first, second = (inspect(image)["RootFS"]["Layers"] for image in (sdpa_cpu, flex_cpu))
    torch_layer = 4  # base image, packages, user, torch

    assert len(first) > torch_layer
    assert first[:torch_layer] == second[:torch_layer]


@pytest.mark.parametrize("name", ["title", "version", "revision", "source", "licenses", "base.name", "base.digest"])
def test_the_image_has_oci_labels(sdpa_cpu: str, name: str) -> None:
    """Each is there and says something."""
    assert inspect(sdpa_cpu)["Config"]["Labels"][f"org.opencontainers.image.{name}"]


def test_the_labels_say_what_is_inside(sdpa_cpu: str, flex_cpu: str) -> None:
    """Backends and platform, for tools that never start the image."""
    labels = inspect(flex_cpu)["Config"]["Labels"]

    assert labels["dev.axolotl-attn.backends"] == "flex,sdpa"
    assert labels["dev.axolotl-attn.platform"] == "cpu"


def test_it_is_not_root(sdpa_cpu: str) -> None:
    """By default and by number, so that Kubernetes' runAsNonRoot can see it."""
    assert inspect(sdpa_cpu)["Config"]["User"] == "1000:0"
    assert inside(sdpa_cpu, "id -u").strip() == "1000"


def test_nothing_is_left_behind(sdpa_cpu: str) -> None:
    """No world-writable file, no cache of pip, uv or apt, no list, no setting of an index, no secret."""
    mounted = " -o ".join(f"-path {path}" for path in ("/proc", "/sys", "/tmp", "/var/tmp", "/run/lock"))
    writable = f"find / -xdev \\( {mounted} \\) -prune -o \\( -type f -o -type d \\) -perm -o+w -print"
    left = "find /run/secrets /root/.cache /var/lib/apt/lists /etc/pip.conf /home/attn/.config -type f -size +0"
    listing = inside(sdpa_cpu, f"{writable}; {left} 2>/dev/null; true", "--user=0")

    assert listing.split() == []


def test_the_compilers_are_there(sdpa_cpu: str) -> None:
    """Triton calls gcc and includes Python.h; FlexAttention on a CPU calls g++."""
    inside(sdpa_cpu, "gcc --version && g++ --version && test -f /usr/include/python3.11/Python.h")


def test_bytecode_is_compiled(sdpa_cpu: str) -> None:
    """A read-only root can never write it later, so each start would compile again."""
    folders = ("/opt/attn/entrypoint", "/opt/venv/lib/python3.11/site-packages/torch")
    inside(sdpa_cpu, " && ".join(f"ls {folder}/__pycache__/*.pyc" for folder in folders))
