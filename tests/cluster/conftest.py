"""A cluster that KUBECONFIG names, or a skip with its reason; namespaces and pods in it.

Its nodes have the image already (`kind load docker-image`), under the name in CLUSTER_IMAGE.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.kubernetes.manifests import Manifest, kubectl
from tests.patience import PATIENCE

IMAGE = os.environ.get("CLUSTER_IMAGE", "docker.io/library/axolotl-attn:sdpa-cpu-base")


class Cluster:
    """kubectl in one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def __call__(self, *arguments: str, stdin: str = "", namespace: str = "") -> subprocess.CompletedProcess[str]:
        command = [kubectl(), f"--namespace={namespace or self.namespace}", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def ok(self, *arguments: str, stdin: str = "", namespace: str = "") -> str:
        done = self(*arguments, stdin=stdin, namespace=namespace)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, *what: str, namespace: str = "") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("get", *what, "--output=json", namespace=namespace))
        return found

    def apply(self, *documents: Manifest, namespace: str = "") -> None:
        self.ok("apply", "--filename=-", stdin=yaml.safe_dump_all(documents), namespace=namespace)

    def dry_run(self, *documents: Manifest) -> subprocess.CompletedProcess[str]:
        """What the server would say, strictly: an unknown field is an error."""
        text = yaml.safe_dump_all(documents)
        return self("apply", "--dry-run=server", "--validate=strict", "--filename=-", stdin=text)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Ask until the answer is true; returns it."""
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert time.monotonic() < deadline, what
            time.sleep(1)
        return found


@pytest.fixture(scope="session")
def kubeconfig() -> None:
    """That there is a cluster; what has none is listed by name, as an absent GPU is."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("needs a Kubernetes cluster: KUBECONFIG names none")


@pytest.fixture(scope="module")
def cluster(kubeconfig: None) -> Iterator[Cluster]:
    """A namespace of this module's own, under the restricted Pod Security Standard."""
    found = Cluster(f"attn-test-{uuid.uuid4().hex[:8]}")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": found.namespace, "labels": labels}
    found.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    yield found
    found("delete", "namespace", found.namespace, "--wait=false")
