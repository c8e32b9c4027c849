"""The base image that a build starts from: the pinned one, another one that was asked for, or the engine's own."""

from __future__ import annotations

from dataclasses import dataclass

from attn_matrix.host import engine
from attn_matrix.host.sources import Sources
from attn_matrix.matrix.model import Base
from attn_matrix.rendered.bake import OCI


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
