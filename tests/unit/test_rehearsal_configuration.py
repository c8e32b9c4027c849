"""The user's configuration, changed in what a rehearsal must replace and in nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from entrypoint.rehearsal.configuration import LENGTHS, STEPS, Places, length_of, rehearsed, why_not

PLACES = Places(model="/tmp/m", data="/tmp/d", prepared="/tmp/p", output="/tmp/o")
KEPT: dict[str, Any] = {
    "attn_implementation": "flash_attention_2",
    "adapter": "qlora",
    "load_in_4bit": True,
    "bf16": "auto",
    "sample_packing": True,
    "gradient_checkpointing": True,
    "optimizer": "paged_adamw_8bit",
    "micro_batch_size": 4,
    "plugins": ["axolotl.integrations.liger.LigerPlugin"],
    "strict": True,
}
REPLACED: dict[str, Any] = {
    "base_model": "meta-llama/Llama-3.1-8B",
    "datasets": [{"path": "org/data", "type": "alpaca"}],
    "output_dir": "/workspace/out",
    "hub_model_id": "me/mine",
    "wandb_project": "secret",
    "save_steps": 100,
    "special_tokens": {"pad_token": "<|end_of_text|>"},
    "gradient_accumulation_steps": 8,
    "max_steps": 10_000,
    "warmup_steps": 100,
    "val_set_size": 0.05,
    "deepspeed": "zero3.json",
    "sequence_len": 8192,
}
FILE = {**KEPT, **REPLACED}


def made(file: dict[str, Any], flags: tuple[tuple[str, Any], ...] = (), device: str = "cuda:0") -> Any:
    return rehearsed(file, {**file, **dict(flags)}, flags, PLACES, device)


def test_what_decides_attention_stays() -> None:
    assert made(FILE).values.items() >= KEPT.items()


def test_nothing_that_reaches_out_is_left() -> None:
    values = made(FILE).values
    assert (values["base_model"], values["output_dir"], values["max_steps"]) == ("/tmp/m", "/tmp/o", STEPS)
    assert values.keys() & {"hub_model_id", "wandb_project", "save_steps", "special_tokens", "deepspeed"} == set()
    assert (values["val_set_size"], values["save_strategy"], values["gradient_accumulation_steps"]) == (0, "no", 1)
    assert "warmup_steps" not in values


def test_what_is_less_is_said() -> None:
    length = LENGTHS["cuda"]
    said = (
        f"rows of {length} instead of 8192 positions",
        "a step after each batch instead of after 8",
        "deepspeed is off",
    )
    assert made(FILE).event.reduced == said
    assert made({**KEPT, "sequence_len": 512}).event.reduced == ()


def test_flags_stay_but_for_those_that_would_set_it_again() -> None:
    flags = (
        ("base_model", "x"),
        ("learning_rate", "1e-4"),
        ("trl__beta", 0.1),
        ("wandb_name", "n"),
        ("deepspeed", "x"),
    )
    assert made(FILE, flags).flags == (("learning_rate", "1e-4"), ("trl__beta", 0.1))


def test_a_flag_decides_the_length() -> None:
    assert made({"sequence_len": 8192}, (("sequence_len", 128),)).values["sequence_len"] == 128


@pytest.mark.parametrize(
    ("device", "wanted", "rows", "length"),
    [
        ("cuda:0", 8192, 1, 2048),
        ("cuda:0", 512, None, 512),
        ("cuda:0", 8192, 16, 1024),
        ("cpu", 8192, 2, 256),
        ("cpu", None, 8, 128),
        ("cpu", 8192, 512, 64),
    ],
)
def test_rows_are_as_long_as_a_check_can_afford(device: str, wanted: int | None, rows: int | None, length: int) -> None:
    """Some attentions get a batch's rows as one, so many of them are shorter."""
    assert length_of({"sequence_len": wanted, "micro_batch_size": rows}, device) == length


def test_overrides_of_the_model_do_not_undo_its_size() -> None:
    file = {"model_config": {"num_hidden_layers": 32, "attention_dropout": 0.0, "vocab_size": 7}}
    assert made(file).values["model_config"] == {"attention_dropout": 0.0}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"rl": "dpo"}, "rl"),
        ({"pretraining_dataset": [{"path": "x"}]}, "streamed"),
        ({"processor_type": "AutoProcessor"}, "multimodal"),
        ({"context_parallel_size": 2}, "spread over 2 GPUs"),
        ({"reward_model": True}, "reward"),
    ],
)
def test_other_kinds_of_training_are_not_rehearsed(values: dict[str, Any], why: str) -> None:
    assert why in (why_not(values) or "")


def test_a_plain_one_is() -> None:
    assert why_not({**FILE, "context_parallel_size": 1, "rl": None, "streaming": False}) is None
