"""Whether documents packed into one row see each other: one step of Axolotl on rows of which half is not learned from.

    python packed.py DIR [--attention sdpa] [--legacy KEY] [--filler N] [--unpacked]

Every second document is a filler: its tokens are drawn from N, and none of its labels asks for what depends on them.
So neither loss nor gradient may change with N, packed or not; the model, the other documents and the seed are the same.
"""

from __future__ import annotations

import argparse
import json
import random
from importlib import import_module
from pathlib import Path
from typing import Any, Final

tiny_llama = import_module("tiny_llama")  # beside this file

LENGTH: Final = 24  # of a document
DOCUMENTS: Final = 16
TINY: Final = tiny_llama.SHAPES["tiny"]
IGNORED: Final = -100


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny Llama, packed documents and an Axolotl config.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--attention", help="Axolotl's attn_implementation")
    parser.add_argument("--legacy", action="append", default=[], metavar="KEY", help="a boolean of Axolotl's, as true")
    parser.add_argument("--filler", type=int, default=0, metavar="N", help="what the fillers' tokens are drawn from")
    parser.add_argument("--unpacked", action="store_true", help="a row for each document")
    arguments = parser.parse_args()
    directory = arguments.directory.resolve()
    keys = {"attn_implementation": arguments.attention} if arguments.attention else {}
    tiny_llama.write(directory, TINY, keys or {"attn_implementation": "sdpa"})
    write_documents(directory / "text.jsonl", arguments.filler)
    changed = config(tiny_llama.config(directory, TINY, keys), packed=not arguments.unpacked)
    changed |= dict.fromkeys(arguments.legacy, True)
    (directory / "config.yml").write_text(json.dumps(changed, indent=2), encoding="utf-8")


def config(plain: dict[str, Any], *, packed: bool) -> dict[str, Any]:
    """One step over all documents, in rows of eight documents or of one."""
    rows = 2 if packed else DOCUMENTS
    dataset = plain["datasets"][0] | {"type": None}
    changed = plain | {
        "datasets": [dataset],
        "sequence_len": LENGTH * DOCUMENTS // rows,
        "micro_batch_size": rows,
        "max_steps": 1,
        "sample_packing": packed,
        "pad_to_sequence_len": True,
        "dataset_num_proc": 1,
    }
    return {key: value for key, value in changed.items() if value is not None}


def write_documents(path: Path, filler: int) -> None:
    lines = [json.dumps(document(number, filler)) for number in range(DOCUMENTS)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def document(number: int, filler: int) -> dict[str, list[int]]:
    """Tokenized. Axolotl drops a document without labels, so a filler has one: of its second token, after its first.

    No document's first token is a label: in a packed row it would follow the last token of another one.
    """
    words = len(tiny_llama.vocabulary(tiny_llama.texts(TINY)))
    is_filler = number % 2 == 0
    draw = random.Random(f"{number} {filler if is_filler else 'learned'}")
    tokens = [4, 5, *(draw.randrange(4, words) for _ in range(LENGTH - 2))]
    labels = [IGNORED, tokens[1], *([IGNORED] * (LENGTH - 2) if is_filler else tokens[2:])]
    return {"input_ids": tokens, "attention_mask": [1] * LENGTH, "labels": labels}


if __name__ == "__main__":
    main()
