"""From a verdict on a node to a taint, and back: the CronJob, the condition, the rule.

Needs Node Readiness Controller, node-problem-detector's image in reach, and nodes labelled as the GPU operator does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import IMAGE, Cluster
from tests.kubernetes.cpu import Training, add
from tests.kubernetes.manifests import FOLDER, Manifest, built, overlay, read
from tests.patience import CHECK

NAMESPACE = "attn-node-check"
TAINT = "readiness.k8s.io/axolotl-attn"
POD = "/spec/jobTemplate/spec/template/spec"


def check_on_a_cpu(folder: Path) -> list[Manifest]:
    """The node check of a node without a GPU, at no time but when the test starts it."""
    name, _, tag = IMAGE.rpartition(":")
    operations = [
        {"op": "remove", "path": f"{POD}/containers/0/resources"},
        add(f"{POD}/containers/0/env/-", {"name": "ATTN_TIMEOUT", "value": CHECK}),
        add("/spec/suspend", True),
    ]
    return built(
        overlay(
            folder,
            "node-check",
            images=[{"name": "axolotl-attn", "newName": name, "newTag": tag}],
            patches=[{"target": {"kind": "CronJob"}, "patch": json.dumps(operations)}],
        )
    )


@pytest.fixture(scope="module")
def nodes(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two workers whose verdicts become conditions and taints; afterwards all of it is gone."""
    if "NodeReadinessRule" not in cluster.ok("api-resources", "--no-headers"):
        pytest.skip("needs a cluster with Node Readiness Controller")
    gpus = cluster.get("nodes", "--selector=nvidia.com/gpu.present=true")["items"]
    if len(gpus) < 2:
        pytest.skip("needs a cluster with two nodes of the label nvidia.com/gpu.present=true")
    documents = check_on_a_cpu(tmp_path_factory.mktemp("check"))
    try:
        cluster.apply(*documents, namespace=NAMESPACE)
        cluster.apply(*built(FOLDER / "node-condition"), namespace=NAMESPACE)
        cluster.apply(*read("node-taint/rule.yaml"))
        yield [node["metadata"]["name"] for node in gpus]
    finally:
        cluster("delete", "nodereadinessrule", "axolotl-attn", "--ignore-not-found")
        cluster("delete", "clusterrole,clusterrolebinding", "attn-node-condition", "--ignore-not-found")
        cluster("delete", "priorityclass", "attn-node-check", "--ignore-not-found")
        cluster("delete", "namespace", NAMESPACE, "--ignore-not-found")


def state(cluster: Cluster, node: str) -> tuple[str, bool]:
    """The condition AttentionProblem of a node, and whether it has the taint."""
    found = cluster.get(f"node/{node}")
    conditions = {each["type"]: str(each["status"]) for each in found["status"]["conditions"]}
    taints = {each["key"] for each in found["spec"].get("taints", [])}
    return conditions.get("AttentionProblem", ""), TAINT in taints


def wait_for(cluster: Cluster, node: str, problem: str, *, tainted: bool) -> None:
    cluster.wait(lambda: state(cluster, node) == (problem, tainted), f"{node} does not become {problem}, {tainted}")


def write_verdict(cluster: Cluster, node: str, text: str) -> None:
    """Put a verdict on a node, as its check does; only a pod of that namespace can."""
    spec: dict[str, Any] = {
        "nodeName": node,
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "write",
                "image": IMAGE,
                "command": ["sh", "-c", 'echo "$0" >/verdict/verdict', text],
                "securityContext": {"runAsUser": 0},
                "volumeMounts": [{"name": "verdict", "mountPath": "/verdict"}],
            }
        ],
        "volumes": [{"name": "verdict", "hostPath": {"path": "/var/lib/axolotl-attn"}}],
    }
    cluster("delete", "pod", "write", "--ignore-not-found", namespace=NAMESPACE)
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "write"}, "spec": spec}
    cluster.apply(document, namespace=NAMESPACE)
    cluster.ok("wait", "pod/write", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=300s", namespace=NAMESPACE)


def test_a_new_node_waits_for_its_check(cluster: Cluster, nodes: list[str]) -> None:
    """Unknown and tainted; then the CronJob's own pod runs there in spite of it, and the node is free."""
    for node in nodes:
        wait_for(cluster, node, "Unknown", tainted=True)

    spec = {"completions": len(nodes), "parallelism": len(nodes)}
    patch = json.dumps({"spec": {"jobTemplate": {"spec": spec}}})
    cluster.ok("patch", "cronjob", NAMESPACE, "--type=merge", f"--patch={patch}", namespace=NAMESPACE)
    cluster.ok("create", "job", f"--from=cronjob/{NAMESPACE}", "now", namespace=NAMESPACE)

    for node in nodes:
        wait_for(cluster, node, "False", tainted=False)


def test_a_bad_node_gets_no_pod_until_it_is_mended(cluster: Cluster, nodes: list[str], tmp_path: Path) -> None:
    """The replacement goes to the other one."""
    bad, *_ = nodes
    write_verdict(cluster, bad, "FAIL 94 sdpa crashed with SIGSEGV.")
    wait_for(cluster, bad, "True", tainted=True)

    cluster("delete", "job", "train", "--ignore-not-found", "--wait", "--cascade=foreground")
    cluster.apply(*Training(image=IMAGE, arguments=["true"], env={"ATTN_CHECK": "off"}).documents(tmp_path))
    cluster.ok("wait", "job/train", "--for=condition=complete", "--timeout=300s")
    (pod,) = cluster.get("pods", "--selector=app.kubernetes.io/name=train")["items"]
    assert pod["spec"]["nodeName"] != bad

    write_verdict(cluster, bad, "PASS 0 sdpa is right.")
    wait_for(cluster, bad, "False", tainted=False)
