"""The training Job of docker/kubernetes as an operator's overlay makes it for a machine without a GPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.kubernetes.manifests import Manifest, built, overlay
from tests.patience import CHECK

POD = "/spec/template/spec"
CONTAINER = f"{POD}/containers/0"


def training(
    folder: Path,
    image: str,
    arguments: Sequence[str],
    *,
    nodes: int = 1,
    env: dict[str, str] | None = None,
    components: Sequence[str] = (),
    more: Sequence[Manifest] = (),
) -> list[Manifest]:
    """The base with the components, `image` (name:tag) and `arguments` in place of its own, and further JSON patches."""
    name, _, tag = image.rpartition(":")
    variables = {"ATTN_TIMEOUT": CHECK, **(env or {})}
    patch = [
        _set(f"{CONTAINER}/args", [*arguments]),
        _set(f"{CONTAINER}/env/0/value", str(nodes)),
        _set("/spec/completions", nodes),
        _set("/spec/parallelism", nodes),
        _set("/spec/backoffLimit", 1),
        _set(f"{POD}/volumes/0", {"name": "work", "emptyDir": {}}),
        {"op": "remove", "path": f"{CONTAINER}/resources"},
        *(_set(f"{CONTAINER}/env/-", {"name": key, "value": value}, "add") for key, value in variables.items()),
        *more,
    ]
    images = [{"name": "axolotl-attn", "newName": name, "newTag": tag}]
    return built(overlay(folder, "base", components, images=images, patches=[_patch(patch)]))


def _set(path: str, value: Any, operation: str = "replace") -> Manifest:
    return {"op": operation, "path": path, "value": value}


def _patch(operations: list[Manifest]) -> Manifest:
    """A patch as kustomize takes it: its text is YAML, which JSON is too."""
    return {"target": {"kind": "Job", "name": "train"}, "patch": json.dumps(operations)}
