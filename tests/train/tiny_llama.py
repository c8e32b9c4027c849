"""A tiny random Llama with its tokenizer, its text and an Axolotl config: what a training run needs, and no download.

    python tests/train/tiny_llama.py DIR [--attention sdpa]

Needs torch and transformers, as an image with Axolotl has them. The same bytes each time, for the same versions.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any, Final

STEPS: Final = 3
TOKENS: Final = 64  # of a sequence
SPECIAL: Final = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
SENTENCES: Final = [
    f"{count} cats sat on the mat, and {count + 1} dogs ran after {count + 2} birds." for count in range(64)
]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny Llama, its tokenizer, its text and an Axolotl config.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--attention", default="sdpa", help="Axolotl's attn_implementation (default: %(default)s)")
    arguments = parser.parse_args()
    write(arguments.directory.resolve(), arguments.attention)


def write(directory: Path, attention: str) -> None:
    """Write `model/`, `text.jsonl` and `config.yml` under `directory`."""
    model = directory / "model"
    model.mkdir(parents=True, exist_ok=True)
    words = vocabulary()
    write_tokenizer(model, words)
    write_model(model, len(words))
    lines = (json.dumps({"text": sentence}) for sentence in SENTENCES)
    (directory / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (directory / "config.yml").write_text(json.dumps(config(directory, attention), indent=2), encoding="utf-8")


def vocabulary() -> dict[str, int]:
    """The characters of the text, after the special tokens."""
    characters = sorted(set("".join(SENTENCES)))
    return {token: number for number, token in enumerate([*SPECIAL.values(), *characters])}


def write_tokenizer(directory: Path, words: dict[str, int]) -> None:
    """A character is a token."""
    tokenizers, transformers = import_module("tokenizers"), import_module("transformers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL).save_pretrained(directory)


def write_model(directory: Path, words: int) -> None:
    """Two layers, and head_dim 64, which every backend knows; two query heads to one of keys and values."""
    transformers = import_module("transformers")
    transformers.set_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": words,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": TOKENS,
    }
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, **ids)).save_pretrained(directory)


def config(directory: Path, attention: str) -> dict[str, Any]:
    """An Axolotl config, as JSON, which is YAML too."""
    return {
        "base_model": str(directory / "model"),
        "attn_implementation": attention,
        "datasets": [{"path": str(directory / "text.jsonl"), "ds_type": "json", "type": "completion"}],
        "dataset_prepared_path": str(directory / "prepared"),
        "output_dir": str(directory / "out"),
        "val_set_size": 0,
        "sequence_len": TOKENS,
        "micro_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_steps": STEPS,
        "num_epochs": 1,
        "learning_rate": 0.005,
        "lr_scheduler": "constant",
        "optimizer": "adamw_torch",
        "bf16": False,
        "tf32": False,
        "logging_steps": 1,
        "seed": 0,
    }


if __name__ == "__main__":
    main()
