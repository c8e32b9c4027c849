"""podman plays the training Job as it is, and the pod ends with the codes that the policy is about.

podman 5.4 plays `kind: Job` and 4.3 does not: one before 5.4 gets the Job's pod.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import PROMISED
from tests.kubernetes.cpu import Training
from tests.kubernetes.manifests import Manifest, only
from tests.patience import PATIENCE

IMAGE = "docker.io/library/axolotl-attn:sdpa-cpu-base"
PLAYS_JOBS = (5, 4)
# podman's own limits may be above those of this machine's root, and crun takes no machine with both versions of
# cgroups. runc comes with a Docker Engine.
CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
"""

WITHOUT_NETWORK = [{"op": "remove", "path": "/spec/template/spec/containers/0/ports"}]


class Podman:
    """podman with a storage of its own, which is gone after the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        runtime = 'runtime = "runc"\n' if shutil.which("runc") else ""
        (folder / "containers.conf").write_text(CONFIGURATION + runtime, encoding="utf-8")
        self.environ = os.environ | {"CONTAINERS_CONF": str(folder / "containers.conf")}
        self.command = ["podman", f"--root={folder / 'root'}", f"--runroot={folder / 'run'}"]

    def __call__(self, *arguments: str, check: bool = True) -> str:
        command = [*self.command, *arguments]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    @property
    def version(self) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", self("version", "--format={{.Client.Version}}"))[:2])

    def load(self, image: str) -> None:
        """Take an image over from the Docker Engine."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
            command = [*self.command, "load", "--quiet"]
            subprocess.run(command, env=self.environ, stdin=saved.stdout, capture_output=True, check=True)


@pytest.fixture(scope="module")
def podman(sdpa_cpu_base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """podman, and in it the freshly built image."""
    if not shutil.which("podman"):
        reason = "needs podman (apt install podman catatonit)"
        pytest.fail(reason) if PROMISED else pytest.skip(reason)
    program = Podman(tmp_path_factory.mktemp("podman"))
    program.load(sdpa_cpu_base)
    yield program
    program("pod", "rm", "--all", "--force", check=False)
    program("rmi", "--all", "--force", check=False)


def play(podman: Podman, folder: Path, job: Manifest) -> tuple[int, str]:
    """Run the Job, or with an older podman its pod, to the end; the exit code of its container, and its output."""
    if podman.version < PLAYS_JOBS:
        job = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "train"},
            "spec": job["spec"]["template"]["spec"],
        }
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(job), encoding="utf-8")
    podman("kube", "play", "--network=none", str(file))
    try:
        (name,) = [line for line in podman("ps", "--all", "--format={{.Names}}").split() if line.endswith("-train")]
        code = int(podman("wait", name))
        done = subprocess.run(
            [*podman.command, "logs", name], env=podman.environ, capture_output=True, text=True, check=True
        )
        return code, done.stdout + done.stderr
    finally:
        podman("kube", "down", str(file), check=False)


CASES = {
    0: Training(image=IMAGE, arguments=["true"], patches=WITHOUT_NETWORK),
    5: Training(image=IMAGE, arguments=["sh", "-c", "exit 5"], env={"ATTN_CHECK": "off"}, patches=WITHOUT_NETWORK),
    90: Training(image=IMAGE, arguments=["true"], env={"ATTN_BACKEND": "fa4"}, patches=WITHOUT_NETWORK),
}
SAYS = {0: "PASS", 5: "", 90: "ATTN_BACKEND='fa4'"}


@pytest.mark.parametrize("code", CASES)
def test_the_job_ends_with_the_code(podman: Podman, tmp_path: Path, code: int) -> None:
    """A real check and then the command's code, the command's alone, and a request that can never work."""
    ended, said = play(podman, tmp_path, only(CASES[code].documents(tmp_path), "Job"))

    assert ended == code, said
    assert SAYS[code] in said
