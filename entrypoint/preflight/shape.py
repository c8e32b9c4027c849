"""The shape of the run's attention calls, from its configuration and its model's config.json. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from entrypoint.light import TYPE_CHECKING
from entrypoint.preflight.facts import Facts
from entrypoint.preflight.model import alternates
from entrypoint.shape import Shape

if TYPE_CHECKING:
    from typing import Final

    from entrypoint.events import Dtype

# Axolotl's own default (utils/schemas/config.py).
SEQUENCE_LEN: Final = 512
DTYPES: Final[dict[str, Dtype]] = {"bf16": "bfloat16", "fp16": "float16"}
WITH_FLOAT32: Final[dict[str, Dtype]] = {**DTYPES, "fp32": "float32"}


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
