"""Real Jobs under the restricted standard: each code ends as the policy says, and two pods find each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import IMAGE, Cluster
from tests.kubernetes.cpu import CONTAINER, POD, Training, add, torchrun
from tests.kubernetes.manifests import Manifest

# In front of torch's attention, in every Python of the container but the parent: the scale is 5 % off.
WRONG = """\
import torch.nn.functional as F
real = F.scaled_dot_product_attention
F.scaled_dot_product_attention = lambda q, *args, **kwargs: real(q * 1.05, *args, **kwargs)
"""
ALL_REDUCE = (Path(__file__).parents[1] / "kubernetes/all_reduce.py").read_text(encoding="utf-8")
FILES = {"sitecustomize.py": WRONG, "all_reduce.py": ALL_REDUCE}


def mounted(name: str) -> list[Manifest]:
    """Patches that mount one of FILES at /files."""
    volume = {"name": "files", "configMap": {"name": "files", "items": [{"key": name, "path": name}]}}
    return [
        add(f"{POD}/volumes/-", volume),
        add(f"{CONTAINER}/volumeMounts/-", {"name": "files", "mountPath": "/files"}),
    ]


@pytest.fixture(scope="module")
def files(cluster: Cluster) -> None:
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "files"}, "data": FILES})


def run(cluster: Cluster, documents: list[Manifest]) -> dict[str, Any]:
    """Run a Job to its end; its status, with `reason` of the condition that ended it and the pods' own status."""
    cluster("delete", "job", "train", "--ignore-not-found", "--wait", "--cascade=foreground")
    cluster.apply(*documents)

    def ended() -> dict[str, Any] | None:
        status: dict[str, Any] = cluster.get("job/train")["status"]
        last = [each for each in status.get("conditions", []) if each["type"] in {"Complete", "Failed"}]
        return {**status, "ended": last[0]["type"], "reason": last[0].get("reason", "")} if last else None

    status: dict[str, Any] = cluster.wait(ended, "the Job does not end")
    pods = cluster.get("pods", "--selector=app.kubernetes.io/name=train")["items"]
    states = [pod["status"]["containerStatuses"][0]["state"]["terminated"] for pod in pods]
    return {**status, "codes": [state["exitCode"] for state in states], "messages": [s.get("message") for s in states]}


UNCHECKED = {"ATTN_CHECK": "off"}
CASES = {
    0: Training(image=IMAGE, arguments=["true"]),
    5: Training(image=IMAGE, arguments=["sh", "-c", "exit 5"], env=UNCHECKED),
    90: Training(image=IMAGE, arguments=["true"], env={"ATTN_BACKEND": "fa4"}),
    92: Training(image=IMAGE, arguments=["true"], env={"PYTHONPATH": "/files"}, patches=mounted("sitecustomize.py")),
    # No check on a CPU ends with it, so that the command does.
    94: Training(image=IMAGE, arguments=["sh", "-c", "exit 94"], env=UNCHECKED),
}
# At once where no other node helps; else once more, since backoffLimit is 1 here.
FAILED = {90: ("PodFailurePolicy", 1), 92: ("PodFailurePolicy", 1)}
COUNTED = ("BackoffLimitExceeded", 2)


@pytest.mark.parametrize("code", CASES)
def test_a_code_ends_the_job(cluster: Cluster, files: None, tmp_path: Path, code: int) -> None:
    """As the policy says."""
    status = run(cluster, CASES[code].documents(tmp_path))

    assert set(status["codes"]) == {code}, status
    if code:
        assert (status["ended"], status["reason"], status["failed"]) == ("Failed", *FAILED.get(code, COUNTED))
    else:
        assert (status["ended"], status["succeeded"]) == ("Complete", 1)
    if code in FAILED:  # the summary is the pod's termination message
        assert "sdpa-cpu" in status["messages"][0]


def test_two_pods_add_up(cluster: Cluster, files: None, tmp_path: Path) -> None:
    """The Indexed Job, the headless Service and torchrun's rendezvous, each pod after a check of its own."""
    words = torchrun("/files/all_reduce.py")
    case = Training(image=IMAGE, arguments=words, nodes=2, patches=mounted("all_reduce.py"))
    status = run(cluster, case.documents(tmp_path))

    assert (status["ended"], status["codes"]) == ("Complete", [0, 0]), status
    said = cluster.ok("logs", "--selector=app.kubernetes.io/name=train", "--tail=-1")
    assert "rank 0 of 2 on train-0: 3" in said
    assert "rank 1 of 2 on train-1: 3" in said
