"""The attention calls of the run that is about to start, as the check and the choice of a backend are told of them."""

from __future__ import annotations

import json

from entrypoint.light import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from entrypoint.events import Dtype


@dataclass(frozen=True, kw_only=True)
class Shape:
    """q is [rows, length, heads, head_dim], k [rows, length, kv_heads, head_dim], v [.., kv_heads, value_dim].

    `scale` multiplies the logits. `window` lets a position see itself and the window - 1 before it, as transformers
    counts; where `mixed`, only some layers have it and the others see all. `softcap` 0 is none. `packed`: the rows hold
    several documents each. `sinks`: each softmax has a learned logit more, which the shape does not hold.
    """

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    scale: float
    rows: int
    length: int
    dtype: Dtype
    packed: bool = False
    window: int | None = None
    mixed: bool = False
    softcap: float = 0.0
    sinks: bool = False

    def to_json(self) -> str:
        """For a child's command line."""
        return json.dumps(vars(self))


def from_json(text: str) -> Shape:
    """The inverse of Shape.to_json."""
    return Shape(**json.loads(text))
