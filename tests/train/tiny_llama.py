"""A random Llama with its tokenizer, its text and an Axolotl config: what a training run needs, and no download.

    python tests/train/tiny_llama.py DIR [--attention sdpa]
    python tests/train/tiny_llama.py DIR --shape small --keys '{"flex_attention": true, "sample_packing": true}'

`tiny` trains on a CPU in seconds; `small` has 8 layers, head_dim 128 and sequences of 2,048 tokens, for a GPU.

Needs torch and transformers, as an image with Axolotl has them. The same bytes each time, for the same versions.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and its run. `documents` is how many lines of text there are, of at most `longest` characters: tokens."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    tokens: int
    steps: int
    documents: int
    longest: int
    bf16: bool
    saves: bool


SHAPES: Final = {
    "tiny": Shape(
        layers=2,
        hidden=128,
        heads=2,
        kv_heads=1,
        head_dim=64,
        tokens=64,
        steps=3,
        documents=64,
        longest=64,
        bf16=False,
        saves=True,
    ),
    "small": Shape(
        layers=8,
        hidden=1024,
        heads=8,
        kv_heads=4,
        head_dim=128,
        tokens=2048,
        steps=30,
        documents=2048,
        longest=1900,
        bf16=True,
        saves=False,
    ),
}
SPECIAL: Final = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a Llama, its tokenizer, its text and an Axolotl config.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--attention", default="sdpa", help="Axolotl's attn_implementation (default: %(default)s)")
    parser.add_argument("--keys", type=json.loads, metavar="JSON", help="in its place, these keys of the config")
    parser.add_argument("--shape", choices=SHAPES, default="tiny", help="of model and run (default: %(default)s)")
    arguments = parser.parse_args()
    keys = arguments.keys or {"attn_implementation": arguments.attention}
    write(arguments.directory.resolve(), SHAPES[arguments.shape], keys)


def write(directory: Path, shape: Shape, keys: dict[str, Any]) -> None:
    """Write `model/`, `text.jsonl` and `config.yml` under `directory`."""
    model = directory / "model"
    model.mkdir(parents=True, exist_ok=True)
    lines_of_text = texts(shape)
    words = vocabulary(lines_of_text)
    write_tokenizer(model, words)
    write_model(model, shape, len(words))
    lines = (json.dumps({"text": text}) for text in lines_of_text)
    (directory / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (directory / "config.yml").write_text(json.dumps(config(directory, shape, keys), indent=2), encoding="utf-8")


def texts(shape: Shape) -> list[str]:
    """The lines that the model is trained on."""
    return [document(number, shape.longest) for number in range(shape.documents)]


def document(number: int, longest: int) -> str:
    """A line that counts on from `number`; the lengths differ from one to the next, up to `longest` characters."""
    sentence = "{0} cats sat on the mat, and {1} dogs ran after {2} birds."
    repeats = 1 + number * 7 % max(1, longest // len(sentence))
    counts = range(number, number + repeats)
    return " ".join(sentence.format(count, count + 1, count + 2) for count in counts)[:longest]


def vocabulary(lines: list[str]) -> dict[str, int]:
    """The characters of the text, after the special tokens."""
    characters = sorted(set("".join(lines)))
    return {token: number for number, token in enumerate([*SPECIAL.values(), *characters])}


def write_tokenizer(directory: Path, words: dict[str, int]) -> None:
    """A character is a token."""
    tokenizers, transformers = import_module("tokenizers"), import_module("transformers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL).save_pretrained(directory)


def write_model(directory: Path, shape: Shape, words: int) -> None:
    """Grouped heads and a head_dim that every backend knows."""
    transformers = import_module("transformers")
    transformers.set_seed(0)
    model: dict[str, Any] = {
        "vocab_size": words,
        "hidden_size": shape.hidden,
        "intermediate_size": 2 * shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.tokens,
    }
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**model, **ids)).save_pretrained(directory)


def config(directory: Path, shape: Shape, keys: dict[str, Any]) -> dict[str, Any]:
    """An Axolotl config, as JSON, which is YAML too. `keys` are those of attention and packing."""
    return {
        "base_model": str(directory / "model"),
        "datasets": [{"path": str(directory / "text.jsonl"), "ds_type": "json", "type": "completion"}],
        "dataset_prepared_path": str(directory / "prepared"),
        "output_dir": str(directory / "out"),
        "val_set_size": 0,
        "sequence_len": shape.tokens,
        "micro_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_steps": shape.steps,
        "num_epochs": 1,
        "learning_rate": 0.005,
        "lr_scheduler": "constant",
        "optimizer": "adamw_torch",
        "bf16": shape.bf16,
        "tf32": False,
        "logging_steps": 1,
        "seed": 0,
        **({} if shape.saves else {"save_strategy": "no"}),
        **keys,
    }


if __name__ == "__main__":
    main()
