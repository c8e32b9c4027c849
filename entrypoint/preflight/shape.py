"""The attention calls of the run that is about to start: the shape that the check and the choice of a backend use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

from entrypoint.events import Dtype
from entrypoint.preflight.facts import Facts
from entrypoint.preflight.model import alternates

# Axolotl's own default (utils/schemas/config.py).
SEQUENCE_LEN: Final = 512
DTYPES: Final[dict[str, Dtype]] = {"bf16": "bfloat16", "fp16": "float16"}
WITH_FLOAT32: Final[dict[str, Dtype]] = {**DTYPES, "fp32": "float32"}


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
        return json.dumps(asdict(self))


def from_json(text: str) -> Shape:
    """The inverse of Shape.to_json."""
    return Shape(**json.loads(text))


def shape_of(facts: Facts, dtypes: Mapping[str, Dtype] = DTYPES) -> Shape | None:
    """The shape of the run; None where config.json is not there, does not tell it, or its dtype is none of `dtypes`."""
    model = facts.model
    if model is None or facts.dtype not in dtypes:
        return None
    if model.heads is None or model.kv_heads is None or model.head_dim is None or model.scale is None:
        return None
    length = facts.get("sequence_len")
    return Shape(
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        value_dim=model.value_dim or model.head_dim,
        scale=model.scale,
        rows=facts.rows,
        length=length if isinstance(length, int) and length > 0 else SEQUENCE_LEN,
        dtype=dtypes[facts.dtype],
        packed=facts.pack,
        window=model.window,
        mixed=model.window is not None and (model.mixed or alternates(model)),
        softcap=model.softcap or 0.0,
        sinks=model.sinks,
    )
