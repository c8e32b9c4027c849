"""The seeded defects: in which setting each acts, and what the rehearsal must say.

`word` is in the reason, as a regular expression: what a person reads points at the mistake, or at attention at least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.rehearsal.container import LIMIT
from tests.rehearsal.families import Setting


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the start's report says of a defect in `setting`: its code, and `word` in the reason.

    `limit`: its ATTN_TIMEOUT, in seconds.
    """

    setting: Setting
    code: int = 92
    word: str = "attention"
    limit: int = LIMIT


# Four heads on two kv heads, and a scale that is not that of head_dim in the families that have their own.
SEED: Final = 70


def _on(family: str, word: str = "attention", code: int = 92, limit: int = LIMIT, **keys: bool | str) -> Expected:
    return Expected(setting=Setting(family=family, seed=SEED, **keys), word=word, code=code, limit=limit)  # type: ignore[arg-type]


LEAK: Final = "packed documents see each other"
CRASH: Final = "Expected IntTuple"
SEEDED: Final[dict[str, Expected]] = {
    "documents see each other": _on("llama", LEAK, packed=True),
    "the second document sees the first": _on("qwen3", LEAK, packed=True, lora=True),
    "documents overlap by one token": _on("llama", LEAK, packed=True, attention="eager"),
    "no packed documents found": _on("qwen3", LEAK, packed=True),
    "causal lost": _on("llama"),
    "one future token seen": _on("qwen3"),
    "diagonal hidden": _on("phi3"),
    "last tile of keys dropped": _on("llama", checkpointing=True),
    "window dropped": _on("mistral"),
    "window one short": _on("gemma3_text"),
    "window one long": _on("mistral", lora=True),
    "window of the mask one long": _on("gemma3_text", attention="eager"),
    "scale dropped": _on("llama"),
    "scale 1/d": _on("qwen3", lora=True),
    "scale 2 % off": _on("llama", packed=True),
    "the model's own scale ignored": _on("gemma3_text"),
    "softcap dropped": _on("gemma2", attention="eager"),
    "softcap not in the gradient": _on("gemma2", attention="eager"),
    "sinks dropped": _on("gpt_oss", attention="eager"),
    "kv heads interleaved": _on("llama"),
    "keys and values of the first row for all": _on("phi3"),
    "second half of the heads zero": _on("mistral"),
    "heads rotated in the output": _on("qwen3", packed=True),
    "NaN where a row is padding": _on("llama", "finite|NaN"),
    "weights of 5 bits": _on("llama"),
    "inputs rounded to bfloat16": _on("llama"),
    "dropout although 0": _on("qwen3", checkpointing=True),
    "output of the call before": _on("llama"),
    "gradient of q cut": _on("llama", "gradient"),
    "gradient of k cut": _on("qwen3", "gradient", lora=True),
    "gradient of v cut": _on("llama", "gradient", packed=True),
    "no gradient at all": _on("mistral", "gradient", lora=True),
    "gradient of v 2 % small": _on("llama", "gradient"),
    "gradient of k NaN": _on("gemma3_text", "finite|NaN"),
    "gradients of a group not summed": _on("qwen3", "gradient"),
    "softmax's gradient lacks its row sum": _on("phi3", "gradient"),
    "another path with gradients": _on("llama", checkpointing=True),
    "wrong once the weights have changed": _on("llama", "step"),
    "crash at the first step": _on("llama", CRASH),
    "crash in the backward": _on("qwen3", CRASH, packed=True),
    "crash at the second step": _on("llama", CRASH, lora=True),
    "segmentation fault": _on("llama", "SIGSEGV", 95),
    "hang": _on("llama", "hung", 95, limit=120),
    "a hub asked": _on("llama", "huggingface.co", 90),
    "another kernel than asked": _on("llama", "sdpa"),
}
# Found without planting: GptOssModel.forward makes its masks without position_ids, so packed documents are one to them.
UNPLANTED: Final[dict[str, Expected]] = {
    "GPT-OSS packed": _on("gpt_oss", LEAK, attention="eager", packed=True),
}
EXPECTED: Final = SEEDED | UNPLANTED
