"""The ranks of the two-node Job find each other by its arguments, with docker's names in place of a Service's."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.cpu import torchrun
from tests.kubernetes.manifests import FOLDER, Manifest, built, only
from tests.patience import CHECK, PATIENCE

PROGRAM = Path(__file__).parents[1] / "kubernetes/all_reduce.py"


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.fixture
def network() -> Iterator[str]:
    """A network whose names its containers find, and nothing outside of it."""
    name = f"axolotl-attn-test-{uuid.uuid4().hex[:12]}"
    assert docker("network", "create", "--internal", name).returncode == 0
    yield name
    docker("network", "rm", name)


def start(image: str, network: str, job: Manifest, index: int) -> subprocess.Popen[str]:
    """The pod of that index: the names that Kubernetes would give it, its variables and its arguments."""
    pod = job["spec"]["template"]["spec"]
    variables = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    words = [word.replace("$(NODES)", variables["NODES"]) for word in torchrun("/program/all_reduce.py")]
    name = f"{job['metadata']['name']}-{index}"
    options = [f"--name={network}-{index}", f"--hostname={name}", f"--network-alias={name}.{pod['subdomain']}"]
    options += [f"--network={network}", f"--volume={PROGRAM}:/program/all_reduce.py:ro", f"--env=ATTN_TIMEOUT={CHECK}"]
    command = ["docker", "run", "--rm", *options, image, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_pods_add_up(sdpa_cpu_base: str, network: str) -> None:
    """The second one starts first, so that it has to wait; each of them has checked before."""
    job = only(built(FOLDER / "examples/two-nodes"), "Job")
    pods = {index: start(sdpa_cpu_base, network, job, index) for index in (1, 0)}
    try:
        said = {index: pod.communicate(timeout=PATIENCE) for index, pod in pods.items()}
    finally:
        docker("rm", "--force", *(f"{network}-{index}" for index in pods))

    assert {pod.returncode for pod in pods.values()} == {0}, said
    lines = sorted("".join(out for out, _ in said.values()).splitlines())
    assert [line.partition(" on ")[0] for line in lines] == ["rank 0 of 2", "rank 1 of 2"]
    assert {line.partition(" on ")[2] for line in lines} == {"train-0: 3", "train-1: 3"}
    assert all("PASS" in err for _, err in said.values())
