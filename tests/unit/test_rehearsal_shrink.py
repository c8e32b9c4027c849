"""The small model: one layer of each kind, heads as they are, and all that is less is said."""

from __future__ import annotations

from typing import Any

import pytest

from entrypoint.rehearsal.prepare import reads_head_dim
from entrypoint.rehearsal.shrink import HIDDEN, VOCABULARY, NotShrinkable, chosen_layers, shrink

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "head_dim": 128,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128009],
    "image_token_index": 128256,
    "rope_scaling": {"factor": 8.0},
}
FIVE_TO_ONE = ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(26)]


def test_heads_and_their_channels_are_the_model_s() -> None:
    small = shrink(LLAMA, free_head_dim=True, length=256)
    assert (small.heads, small.kv_heads, small.head_dim) == (32, 8, 128)
    assert small.values["hidden_size"] == HIDDEN
    assert small.values["rope_scaling"] == {"factor": 8.0}
    assert small.reduced == (
        "2 of 32 layers",
        f"hidden size {HIDDEN} instead of 4096",
        f"{VOCABULARY} of 128256 tokens",
    )


def test_where_head_dim_is_hidden_size_over_heads_their_number_goes_down_in_proportion() -> None:
    small = shrink({**LLAMA, "head_dim": None}, free_head_dim=False, length=256)
    assert (small.heads, small.kv_heads, small.head_dim) == (4, 1, 128)
    assert small.values["hidden_size"] == small.heads * small.head_dim
    assert "head_dim" not in small.values or small.values["head_dim"] is None
    assert "4 of 32 heads (1 of 8 of keys and values)" in small.reduced


def test_every_token_that_the_configuration_names_is_one_of_the_few() -> None:
    values = shrink(LLAMA, free_head_dim=True, length=256).values
    named = [values[key] for key in values if key.endswith(("_token_id", "_token_index"))]
    assert len(named) == 4
    assert all(isinstance(token, int) and 0 <= token < VOCABULARY for token in named)


@pytest.mark.parametrize(
    ("kinds", "layers", "chosen"),
    [
        (None, 32, (0, 1)),
        (None, 1, (0,)),
        (FIVE_TO_ONE, 26, (0, 5)),
        (["linear_attention"] * 3 + ["full_attention"], 4, (0, 3)),
        (["full_attention"] * 8, 8, (0, 1)),
    ],
)
def test_each_kind_of_layer_is_there(kinds: list[str] | None, layers: int, chosen: tuple[int, ...]) -> None:
    assert chosen_layers(kinds, layers) == chosen


def test_lists_with_an_entry_for_each_layer_keep_those_of_the_chosen_ones() -> None:
    full = {**LLAMA, "num_hidden_layers": 26, "layer_types": FIVE_TO_ONE, "no_rope_layers": list(range(26))}
    small = shrink(full, free_head_dim=True, length=256)
    assert small.values["layer_types"] == ["sliding_attention", "full_attention"] == list(small.kinds)
    assert small.values["no_rope_layers"] == [0, 5]
    assert small.reduced[0] == "2 of 26 layers (sliding_attention, full_attention)"


def test_all_of_the_few_experts_are_chosen() -> None:
    """A choice that rounding can turn would make the comparison a lottery."""
    full = {**LLAMA, "num_local_experts": 32, "num_experts_per_tok": 4, "n_group": 8, "topk_group": 4}
    small = shrink(full, free_head_dim=True, length=256)
    assert (small.values["num_local_experts"], small.values["num_experts_per_tok"]) == (2, 2)
    assert (small.values["n_group"], small.values["topk_group"]) == (1, 1)
    assert "2 of 32 experts, each of them chosen for every token" in small.reduced


def test_a_window_that_is_too_long_to_be_seen_stays_and_is_said() -> None:
    full = {**LLAMA, "sliding_window": 4096}
    assert shrink(full, free_head_dim=True, length=4097).values["sliding_window"] == 4096
    said = shrink(full, free_head_dim=True, length=2048).reduced
    assert "the window of 4096 is longer than the 2048 positions, so it hides nothing here" in said
    assert not any("window" in line for line in shrink(full, free_head_dim=True, length=4097).reduced)


def test_the_parts_of_a_head_of_mla_stay_and_what_they_are_made_of_is_less() -> None:
    own = {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "head_dim": 64, "kv_lora_rank": 512}
    small = shrink({**LLAMA, **own}, free_head_dim=True, length=256)
    kept = {key: value for key, value in own.items() if key != "kv_lora_rank"}
    assert small.values.items() >= kept.items()
    assert (small.head_dim, small.values["kv_lora_rank"]) == (192, 128)


def test_what_is_small_already_is_not_said_to_be_less() -> None:
    few = {**LLAMA, "num_hidden_layers": 2, "hidden_size": 128, "vocab_size": 64}
    assert shrink(few, free_head_dim=True, length=256).reduced == ()


@pytest.mark.parametrize(
    ("code", "reads"),
    [
        ('self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads', True),
        ("self.head_dim = config.head_dim", True),
        ("self.qk_nope_head_dim = config.qk_nope_head_dim", True),
        ("self.head_dim = config.hidden_size // config.num_attention_heads", False),
        ('self.head_size = config.hidden_size // heads\ndim = getattr(config, "head_dim", None)', False),
    ],
)
def test_whether_a_class_takes_its_width_from_head_dim_is_read_in_its_code(code: str, reads: bool) -> None:
    assert reads_head_dim(code) is reads


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"text_config": {"hidden_size": 1}}, "one part of several"),
        ({"num_hidden_layers": None}, "has no num_hidden_layers"),
        ({"layer_types": ["a", "b", "c", "d", "e"] * 6 + ["a", "b"]}, "5 kinds of layers"),
    ],
)
def test_what_cannot_be_made_small_is_said(change: dict[str, Any], why: str) -> None:
    with pytest.raises(NotShrinkable, match=why):
        shrink({**LLAMA, **change}, free_head_dim=True, length=256)
