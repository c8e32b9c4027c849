"""What a server says of the manifests: all are taken, and what our own rules refuse, it refuses."""

from __future__ import annotations

import copy

import pytest
import yaml

from tests.cluster.conftest import Cluster
from tests.kubernetes.broken import BROKEN, LET_THROUGH
from tests.kubernetes.manifests import FILES, FOLDER, KUSTOMIZED, Manifest, built, only, pods, read


def without_namespace(document: Manifest) -> Manifest:
    """For the namespace of the test; the others need not exist."""
    metadata = {name: value for name, value in document["metadata"].items() if name != "namespace"}
    return {**document, "metadata": metadata}


@pytest.mark.parametrize("name", KUSTOMIZED)
def test_the_server_takes_it(cluster: Cluster, name: str) -> None:
    for document in built(FOLDER / name):
        done = cluster.dry_run(without_namespace(document))
        assert done.returncode == 0, (document["kind"], done.stderr)


@pytest.mark.parametrize("name", FILES)
def test_the_server_takes_what_needs_another_project(cluster: Cluster, name: str) -> None:
    """Where that project's kinds are installed."""
    known = cluster.ok("api-resources", "--no-headers")
    for document in read(name):
        if document["kind"] not in known:
            pytest.skip(f"needs a cluster with {document['kind']} of {document['apiVersion'].partition('/')[0]}")
        done = cluster.dry_run(document)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("fault", [name for name in BROKEN if name not in LET_THROUGH])
def test_the_server_refuses_what_our_rules_refuse(cluster: Cluster, fault: str) -> None:
    """Each fits the schema; so the rules are the server's, and not our imagination."""
    job = copy.deepcopy(only(built(FOLDER / "base"), "Job"))
    BROKEN[fault](job["spec"])
    done = cluster.dry_run(job)
    assert done.returncode != 0
    assert "connection" not in done.stderr


def test_restricted_pods_only(cluster: Cluster) -> None:
    """The namespace takes the pod of the component, and not that of the base."""
    taken, refused = (
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "pod"},
            "spec": next(pods(only(built(FOLDER / name), "Job"))),
        }
        for name in ("examples/two-nodes", "base")
    )
    assert cluster.dry_run(taken).returncode == 0
    done = cluster("create", "--dry-run=server", "--filename=-", stdin=yaml.safe_dump(refused))
    assert "violates PodSecurity" in done.stderr
