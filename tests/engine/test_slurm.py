"""The files of docker/slurm in a real Slurm: what its controller does with our exit codes, and what drains a node.

The check of a node is fake: it exits with the code that a test has written for that node. After a requeue Slurm lets a
job wait for two minutes, which a test cuts short as an administrator would (scontrol update StartTime=now).
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from attn_matrix import ROOT

from tests.launcher.launchers import wait_until

HERE = Path(__file__).with_name("slurm")
IMAGE = "axolotl-attn-test:slurm"
# In the node's words while a job's processes end, and after that.
DRAINED = {"draining", "drained"}


@dataclass(frozen=True)
class Cluster:
    """A running container; `run` is a command in it."""

    name: str

    def run(self, *command: str, stdin: str = "") -> str:
        argv = ["docker", "exec", "--interactive", self.name, *command]
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def tell(self, node: str, code: int) -> None:
        """What the check of a node says from now on."""
        self.run("tee", f"/attn/codes/{node}", stdin=str(code))

    def submit(self, script: str, *options: str) -> str:
        """The number of a new batch job."""
        options = ("--parsable", "--output=/dev/null", *options)
        return self.run("sbatch", *options, stdin=f"#!/bin/bash\n{script}\n")

    def job(self, number: str) -> dict[str, str]:
        words = self.run("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def node(self, name: str) -> tuple[str, str]:
        """State and reason."""
        state, _, reason = self.run("sinfo", "-h", "-n", name, "-o", "%T|%E").partition("|")
        return state, reason

    def checks(self) -> list[str]:
        """Node, code and job of each check that ran."""
        return self.run("cat", "/attn/checks").splitlines()

    def start_now(self, number: str) -> None:
        self.run("scontrol", "update", f"jobid={number}", "StartTime=now")


@pytest.fixture(scope="module")
def image(docker_engine: None) -> str:
    done = subprocess.run(["docker", "build", "--tag", IMAGE, str(HERE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return IMAGE


@pytest.fixture
def cluster(image: str) -> Iterator[Cluster]:
    """Two idle nodes, n1 and n2, whose checks pass."""
    name = f"axolotl-attn-test-slurm-{uuid.uuid4().hex[:12]}"
    command = ["docker", "run", "--detach", "--rm", f"--name={name}", "--hostname=slurm"]
    subprocess.run([*command, f"--volume={ROOT}/docker/slurm:/source:ro", image], check=True, capture_output=True)
    started = Cluster(name)
    try:
        wait_until(lambda: _states(started) == ["idle", "idle"])
        yield started
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True)


def _states(cluster: Cluster) -> list[str]:
    argv = ["docker", "exec", cluster.name, "sinfo", "-h", "-N", "-o", "%T"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split()


def test_a_job_that_meets_a_bad_gpu_ends_on_another_node(cluster: Cluster) -> None:
    """94 puts it back into the queue, the Prolog drains the node where it would start again, and it moves on."""
    breaks = 'if [ "$SLURMD_NODENAME" = n1 ]; then echo 94 >/attn/codes/n1; exit 94; fi'
    number = cluster.submit(breaks)
    wait_until(lambda: cluster.job(number)["Restarts"] == "1")
    assert cluster.job(number)["ExitCode"] == "94:0"
    assert cluster.node("n1")[0] == "idle"

    cluster.start_now(number)
    wait_until(lambda: cluster.node("n1")[0] in DRAINED and cluster.job(number)["Restarts"] == "2")
    cluster.start_now(number)
    wait_until(lambda: cluster.job(number)["JobState"] == "COMPLETED")

    assert cluster.job(number)["NodeList"] == "n2"
    assert cluster.node("n1")[1] == "axolotl-attn 94: axolotl-attn fake: FAIL (94 FAKE): as n1 was told."
    assert cluster.node("n2")[0] == "idle"
    assert [line for line in cluster.checks() if line.endswith(f" {number}")] == [
        f"n1 0 {number}",
        f"n1 94 {number}",
        f"n2 0 {number}",
    ]


def test_every_code_of_the_contract_has_its_consequence(cluster: Cluster) -> None:
    """Requeued, held, or over; and a node is not drained by what a job says of it."""
    jobs = {code: cluster.submit(f"exit {code}") for code in (0, 5, 90, 91, 92, 93, 95)}
    ends = {0: "COMPLETED", 5: "FAILED", 90: "SPECIAL_EXIT", 92: "SPECIAL_EXIT", 95: "FAILED"}
    for code, state in ends.items():
        wait_until(lambda code=code, state=state: cluster.job(jobs[code])["JobState"] == state)  # type: ignore[misc]
    for code in (91, 93):
        wait_until(lambda code=code: cluster.job(jobs[code])["Restarts"] == "1")  # type: ignore[misc]
        assert cluster.job(jobs[code])["JobState"] == "PENDING"
    assert {cluster.node("n1")[0], cluster.node("n2")[0]} == {"idle"}


def test_what_is_no_fault_of_the_node_does_not_drain_it(cluster: Cluster) -> None:
    """The check of n1 fails with 95, its own failure, and the job starts there all the same."""
    cluster.tell("n1", 95)
    number = cluster.submit("true", "--nodelist=n1")
    wait_until(lambda: cluster.job(number)["JobState"] == "COMPLETED")
    assert f"n1 95 {number}" in cluster.checks()
    assert cluster.node("n1")[0] == "idle"


def test_an_idle_node_that_fails_is_drained(cluster: Cluster) -> None:
    """slurmd runs the HealthCheckProgram; here every two seconds."""
    cluster.tell("n2", 93)
    cluster.run("sed", "-i", "s/^HealthCheckInterval=.*/HealthCheckInterval=2/", "/etc/slurm/attn/attn.conf")
    cluster.run("scontrol", "reconfigure")
    wait_until(lambda: cluster.node("n2")[0] in DRAINED)
    assert cluster.node("n2")[1].startswith("axolotl-attn 93: axolotl-attn fake")
    assert cluster.node("n1")[0] == "idle"
    assert "n2 93 idle" in cluster.checks()
