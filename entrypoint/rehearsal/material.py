"""What a rehearsal trains on and with: documents, a tokenizer, and the weights of the small model."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from entrypoint.rehearsal.shrink import VOCABULARY

if TYPE_CHECKING:
    import torch

SPECIAL: Final = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
FIRST_WORD: Final = len(SPECIAL)
# Lengths of documents as shares of a row: a long one, then several that fit beside it.
SHARES: Final = (0.53, 0.21, 0.13, 0.08)
IGNORED: Final = -100
PROMPT: Final = 2  # tokens at a document's beginning that nothing is learned from
SEED: Final = 20
# The standard deviation that scores are meant to have where a norm of their own keeps queries and keys small.
SHARPER: Final = 2.0
# And where they are capped: a cap of 50 changes a score of 1 by less than what rounding does.
CAPPED: Final = 6.0


def documents(rows: int, length: int, *, packed: bool, seed: int = SEED) -> list[dict[str, list[int]]]:
    """Tokenized documents that fill `rows` rows of `length` positions, or one document for each row.

    A document walks through the words in steps of its own, with a stray word now and then: what comes next can be
    learned, and tells documents apart. A first token has no label, as in a packed row another document precedes it.
    """
    draw = random.Random(seed)
    shares = SHARES if packed else (0.95, 0.6, 0.8, 0.4)
    sizes = [max(PROMPT + 2, int(share * length)) for share in shares]
    count = rows * len(sizes) if packed else rows
    return [_document(draw, sizes[number % len(sizes)]) for number in range(count)]


def _document(draw: random.Random, size: int) -> dict[str, list[int]]:
    words = VOCABULARY - FIRST_WORD
    at, step = draw.randrange(words), draw.randrange(1, 8)
    tokens = []
    for _ in range(size):
        at = draw.randrange(words) if draw.random() < 0.1 else (at + step) % words
        tokens.append(FIRST_WORD + at)
    labels = [IGNORED] * PROMPT + tokens[PROMPT:]
    return {"input_ids": tokens, "attention_mask": [1] * size, "labels": labels}


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of VOCABULARY words, none of which is ever read: the documents are tokenized already."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {token: number for number, token in enumerate(SPECIAL.values())}
    words |= {f"w{number}": number for number in range(FIRST_WORD, VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL).save_pretrained(folder)


def write_model(folder: Path, kind: str, values: Mapping[str, Any]) -> Any:
    """Random weights of the small model in bfloat16; the configuration as transformers wrote it.

    Raises whatever the class does with a configuration that it cannot be built from.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **{key: value for key, value in values.items() if key != "model_type"})
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    sharpen(model.named_parameters(), capped=bool(values.get("attn_logit_softcapping")))
    model.to(torch.bfloat16)
    model.save_pretrained(folder)
    return model.config


def sharpen(parameters: Iterable[tuple[str, torch.Tensor]], *, capped: bool) -> None:
    """Make every part of attention count: where queries and keys have a norm of their own, its weights decide how much
    scores differ; a cap shows in large ones; and a sink of zero would weigh as much as one position among hundreds."""
    import torch

    with torch.no_grad():
        for name, parameter in parameters:
            if name.endswith(("q_norm.weight", "q_layernorm.weight", "query_layernorm.weight")):
                parameter.add_(SHARPER - 1.0)  # of 1, or of the 0 that stands for 1 in Gemma's
            if capped and name.endswith("q_proj.weight"):
                parameter.mul_(CAPPED)
            if name.endswith("sinks"):
                parameter.normal_(2.0, 1.0)
