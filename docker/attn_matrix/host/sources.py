"""Where a build takes things from, beside the registry and the package index, and the base image it starts from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from attn_matrix.host import engine
from attn_matrix.matrix.model import Base
from attn_matrix.rendered.bake import OCI


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


@dataclass(frozen=True)
class BaseUsed:
    """The base image that a build starts from; `digest` is empty when neither its reference nor the engine says it."""

    reference: str
    name: str
    digest: str

    def settings(self) -> tuple[str, ...]:
        """What bake has to be told of it."""
        return (
            f"args.BASE={self.reference}",
            f"labels.{OCI}.base.name={self.name}",
            f"labels.{OCI}.base.digest={self.digest}",
        )


def default_wheelhouse(environment: Mapping[str, str]) -> Path | None:
    """PIP_FIND_LINKS when it is one directory; pip also takes links and lists of them there."""
    directory = Path(environment.get("PIP_FIND_LINKS") or os.devnull)
    return _said("wheelhouse", directory, "PIP_FIND_LINKS") if directory.is_dir() else None


def default_bundle(environment: Mapping[str, str]) -> Path | None:
    """SSL_CERT_FILE when there is such a file."""
    file = Path(environment.get("SSL_CERT_FILE") or os.devnull)
    return _said("CA certificates", file, "SSL_CERT_FILE") if file.is_file() else None


def _said(what: str, path: Path, variable: str) -> Path:
    engine.say(f"{what}: {path} (from {variable})")
    return path


def torch_backend(name: str, wheelhouse: Path | None) -> list[str]:
    """uv's switch for PyTorch's own index, unless the wheelhouse holds a torch."""
    if not name or (wheelhouse and any(wheelhouse.glob("torch-[0-9]*.whl"))):
        return []
    return [f"--torch-backend={name}"]


def base_used(pinned: Base, sources: Sources) -> BaseUsed:
    """The one asked for, else the pinned one, else, if that is allowed, the engine's own image of the same tag."""
    if sources.base:
        name, _, digest = sources.base.partition("@")
        return BaseUsed(sources.base, name, digest or engine.identity(sources.base) or "")
    here = engine.identity(pinned.image) if sources.local_base else None
    if here is None or engine.identity(pinned.reference) or engine.in_registry(pinned.reference):
        return BaseUsed(pinned.reference, pinned.image, pinned.digest or "")
    engine.say(f"NOT THE PINNED BASE: no registry answers, so this builds on the engine's own {pinned.image} ({here})")
    return BaseUsed(pinned.image, pinned.image, here)
