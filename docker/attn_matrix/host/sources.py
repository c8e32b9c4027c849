"""Where a build takes things from, beside the registry and the package index.

noxfile.py imports this module too, in an environment that holds nothing but nox: standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from attn_matrix.host import engine


@dataclass(frozen=True)
class Sources:
    """Where a build takes things from, beside the registry and the package index.

    `base` replaces the pinned base image of every target; `local_base` allows the engine's own image of the same tag
    where no registry answers. `wheelhouse` is a directory of wheels, looked in first; `ca` a bundle of certificates.
    `builder` replaces the image that compilers come from; `compiled` is a directory as `--wheels` writes it, of wheels
    that then are neither compiled nor downloaded. `from_source`: what images.yaml has prebuilt is compiled too.
    """

    base: str | None = None
    local_base: bool = False
    wheelhouse: Path | None = None
    ca: Path | None = None
    builder: str | None = None
    compiled: Path | None = None
    from_source: bool = False


def default_wheelhouse(environment: Mapping[str, str]) -> Path | None:
    """PIP_FIND_LINKS when it is one directory, as a whole path; pip also takes links and lists of them there."""
    directory = Path(environment.get("PIP_FIND_LINKS") or os.devnull).resolve()
    return _said("wheelhouse", directory, "PIP_FIND_LINKS") if directory.is_dir() else None


def default_bundle(environment: Mapping[str, str]) -> Path | None:
    """SSL_CERT_FILE when there is such a file."""
    file = Path(environment.get("SSL_CERT_FILE") or os.devnull)
    return _said("CA certificates", file, "SSL_CERT_FILE") if file.is_file() else None


def _said(what: str, path: Path, variable: str) -> Path:
    engine.say(f"{what}: {path} (from {variable})")
    return path


def torch_backend(name: str, wheelhouse: Path | None) -> list[str]:
    """uv's switch for PyTorch's own index `name`, unless that is empty or the wheelhouse holds a torch.

    docker/scripts/install-locked, which runs where this module is not, does the same.
    """
    if not name or (wheelhouse and any(wheelhouse.glob("torch-[0-9]*.whl"))):
        return []
    return [f"--torch-backend={name}"]
