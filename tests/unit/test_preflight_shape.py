"""The attention calls of a run, from its configuration and its model's config.json."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from entrypoint.preflight.facts import Facts
from entrypoint.preflight.shape import WITH_FLOAT32, shape_of
from entrypoint.shape import Shape, from_json
from tests.unit.preflight_cases import facts

LLAMA = Shape(heads=32, kv_heads=8, head_dim=128, value_dim=128, scale=128**-0.5, rows=1, length=8192, dtype="bfloat16")


def of(model: str | None, **config: Any) -> Facts:
    """The facts of a run of one of tests/data/preflight/models.yaml."""
    return facts({"config": {"attn_implementation": "sdpa", **config}, "model": model}, "sdpa-cu130", "H100")


@pytest.mark.parametrize(
    ("model", "config", "change"),
    [
        ("llama", {}, {}),
        ("llama", {"micro_batch_size": 4, "sequence_len": 2048}, {"rows": 4, "length": 2048}),
        ("llama", {"sequence_len": None}, {"length": 512}),
        ("llama", {"sample_packing": True}, {"packed": True}),
        ("llama", {"bf16": False, "fp16": True}, {"dtype": "float16"}),
    ],
)
def test_the_configuration_gives_rows_length_packing_and_dtype(
    model: str, config: dict[str, Any], change: dict[str, Any]
) -> None:
    """512 positions are Axolotl's own default."""
    shape = shape_of(of(model, **config))
    assert shape is not None
    given = of(model).model
    assert given is not None
    plain = replace(LLAMA, heads=given.heads or 0, kv_heads=given.kv_heads or 0)
    assert shape == replace(plain, **change)


def test_the_model_gives_window_softcap_scale_and_sinks() -> None:
    """Gemma 2's layers alternate; GPT-OSS has sinks; Mistral's window is in all layers."""
    gemma, gpt, mistral = (shape_of(of(name)) for name in ("gemma2", "gpt_oss", "mistral-window"))
    assert gemma is not None
    assert gpt is not None
    assert mistral is not None
    assert (gemma.window, gemma.mixed, gemma.softcap, gemma.scale) == (4096, True, 50.0, 256**-0.5)
    assert (gpt.window, gpt.mixed, gpt.sinks, gpt.head_dim) == (128, True, True, 64)
    assert (mistral.window, mistral.mixed) == (4096, False)


def test_a_shape_that_is_not_known_is_none() -> None:
    """No config.json yet, or numbers of another dtype than was asked about."""
    assert shape_of(of(None)) is None
    single = of("llama", bf16=False)
    assert shape_of(single) is None
    shape = shape_of(single, WITH_FLOAT32)
    assert shape is not None
    assert shape.dtype == "float32"


def test_it_survives_a_command_line() -> None:
    assert from_json(replace(LLAMA, window=1024, mixed=True).to_json()) == replace(LLAMA, window=1024, mixed=True)
