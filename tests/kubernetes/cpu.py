"""The training Job of docker/kubernetes as an operator's overlay makes it for a machine without a GPU."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kubernetes.manifests import FOLDER, Manifest, built, only, overlay
from tests.patience import CHECK

POD = "/spec/template/spec"
CONTAINER = f"{POD}/containers/0"


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the Job runs: `image` as name:tag, `patches` as JSON patches of the Job beside those for a CPU."""

    image: str
    arguments: Sequence[str]
    nodes: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    patches: Sequence[Manifest] = ()

    def documents(self, folder: Path) -> list[Manifest]:
        """What kustomize makes of the base, under the restricted standard; `folder` gets the overlay."""
        name, _, tag = self.image.rpartition(":")
        images = [{"name": "axolotl-attn", "newName": name, "newTag": tag}]
        patch = {"target": {"kind": "Job", "name": "train"}, "patch": json.dumps([*self._patches(), *self.patches])}
        return built(overlay(folder, "base", ["restricted"], images=images, patches=[patch]))

    def _patches(self) -> list[Manifest]:
        variables = {"ATTN_TIMEOUT": CHECK, **self.env}
        return [
            _set(f"{CONTAINER}/args", [*self.arguments]),
            _set(f"{CONTAINER}/env/0/value", str(self.nodes)),
            _set("/spec/completions", self.nodes),
            _set("/spec/parallelism", self.nodes),
            _set("/spec/backoffLimit", 1),
            _set(f"{POD}/volumes/0", {"name": "work", "emptyDir": {}}),
            {"op": "remove", "path": f"{CONTAINER}/resources"},
            *(add(f"{CONTAINER}/env/-", {"name": key, "value": value}) for key, value in variables.items()),
        ]


def add(path: str, value: Any) -> Manifest:
    return {"op": "add", "path": path, "value": value}


def _set(path: str, value: Any) -> Manifest:
    return {"op": "replace", "path": path, "value": value}


def torchrun(program: str) -> list[str]:
    """The arguments of the Job itself, with one process a node, and a program in place of Axolotl."""
    (container,) = only(built(FOLDER / "base"), "Job")["spec"]["template"]["spec"]["containers"]
    words: list[str] = container["args"]
    return [word.replace("per-node=gpu", "per-node=1") for word in words[: words.index("-m")]] + [program]
