"""Run in an image: ask transformers for FlashAttention and for a model, beside a hub that records what is asked of it.

    python hub_requests.py ASK

ASK is one of ASKS. Prints one JSON object: `asked`, the paths that the hub was asked for, and `error`, the exception's
text with those that it was raised from, or null. The hub is an HTTP server of this process; it knows no file.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from threading import Thread
from typing import Final

asked: list[str] = []


class Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        asked.append(self.path)
        self.send_error(404)

    do_HEAD = do_POST = do_GET  # noqa: N815 - the names of the base class

    def log_message(self, *_: object) -> None:
        """Standard error is for errors."""


def flash_attention(implementation: str) -> None:
    """A model of one's own with an attention that no package here has; without a file of weights."""
    transformers = import_module("transformers")
    sizes = {"vocab_size": 8, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=1)
    transformers.AutoModelForCausalLM.from_config(config, attn_implementation=implementation)


def installed() -> None:
    """What Axolotl 0.19 asks before it starts."""
    found = import_module("axolotl.monkeypatch.attention.fa2_hub_kernel").is_fa2_hub_kernel_available()
    assert not found, "a kernel came from nowhere"


ASKS: Final[dict[str, Callable[[], object]]] = {
    "flash_attention_2": lambda: flash_attention("flash_attention_2"),
    "flash_attention_3": lambda: flash_attention("flash_attention_3"),
    "kernels-community": lambda: flash_attention("kernels-community/flash-attn2"),
    "installed": installed,
    "model": lambda: import_module("transformers").AutoConfig.from_pretrained("someone/their-model"),
}


def main() -> None:
    hub = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=hub.serve_forever, daemon=True).start()
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{hub.server_port}"
    texts = []
    try:
        ASKS[sys.argv[1]]()
    except Exception as raised:  # noqa: BLE001 - whatever it is, the test reads its text
        error: BaseException | None = raised
        while error is not None:
            texts.append(f"{type(error).__name__}: {error}")
            error = error.__cause__ or error.__context__
    print(json.dumps({"asked": asked, "error": "\n".join(texts) or None}))


if __name__ == "__main__":
    main()
