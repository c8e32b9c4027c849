"""What transformers' model classes allow and assume, by model_type: data.

Read in transformers 5.5.0 and 5.16.1: `_supports_flash_attn`, `_supports_sdpa` and `_supports_flex_attn` of each
modeling_*.py, and the defaults of each configuration_*.py; the text of q, k, v that Axolotl's LoRA kernels know, in
axolotl/monkeypatch/lora_kernels.py. A model_type that is not here is not known, and what needs it is left open.
"""

from __future__ import annotations

from entrypoint.light import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import Final


@dataclass(frozen=True, kw_only=True)
class Family:
    """`flash`, `sdpa`, `flex`: whether the class takes such an attention. `head_dim`, `window`: the class's default
    where config.json has no such key. `softcap`, `sinks`: whether its layers pass them to attention. `scale`: the key
    that holds another scale than 1/sqrt(head_dim), as `query`: its power -1/2, or `multiplier`: itself; `one`: 1.
    `lora_text`: whether Axolotl's LoRA kernels know the text of its attention."""

    flash: bool = True
    sdpa: bool = True
    flex: bool = True
    head_dim: int | None = None
    value_dim: int | None = None
    window: int | None = None
    softcap: bool = False
    sinks: bool = False
    scale: str = ""
    lora_text: bool = True


_PLAIN: Final = Family()
_UNKNOWN_TEXT: Final = Family(lora_text=False)
_MLA: Final = Family(head_dim=192, value_dim=128, scale="yarn", lora_text=False)
_SPARSE: Final = Family(flash=False, flex=False, head_dim=192, value_dim=128, scale="yarn", lora_text=False)
_NO_FLEX: Final = Family(flex=False)
_NONE: Final = Family(flash=False, sdpa=False, flex=False, lora_text=False)
_GRANITE: Final = Family(scale="multiplier")

FAMILIES: Final[dict[str, Family]] = {
    **dict.fromkeys(("llama", "qwen2", "qwen2_moe", "phimoe", "smollm3", "starcoder2"), _PLAIN),
    **dict.fromkeys(("ernie4_5_moe", "apertus", "arcee", "mixtral", "qwen3_moe", "mistral3"), _PLAIN),
    **dict.fromkeys(("qwen3", "seed_oss", "ernie4_5", "ministral3"), Family(head_dim=128)),
    "qwen3_vl": Family(flex=False, head_dim=128),
    # Axolotl finds no attention class of these by its name.
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), Family(flex=False, lora_text=False)),
    "llava": _UNKNOWN_TEXT,
    "exaone4": Family(window=4096),
    **dict.fromkeys(("mistral", "ministral"), Family(window=4096)),
    **dict.fromkeys(("phi", "olmo2", "lfm2", "gpt_neox", "cohere"), _UNKNOWN_TEXT),
    **dict.fromkeys(("phi3", "glm4_moe"), _UNKNOWN_TEXT),
    **dict.fromkeys(("glm", "glm4"), Family(head_dim=128)),
    "cohere2": Family(window=4096),
    "olmo3": Family(window=4096, lora_text=False),
    "nemotron": _PLAIN,  # no flex before 5.16.1, and 0.16.1's LoRA kernels do not know it: OVERRIDES
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), _MLA),
    "glm4_moe_lite": Family(head_dim=256, value_dim=256, lora_text=False),
    "deepseek_v32": _SPARSE,
    "glm_moe_dsa": Family(flash=False, flex=False, head_dim=256, value_dim=256, lora_text=False),
    "deepseek_v4": Family(flash=False, sdpa=False, flex=False, head_dim=512, sinks=True, lora_text=False),
    "llama4": Family(flash=False, head_dim=128, lora_text=False),
    "mistral4": Family(head_dim=128, value_dim=128, lora_text=False),
    "minimax_m2": Family(head_dim=128, lora_text=False),
    "gemma": Family(head_dim=256),
    "gemma2": Family(head_dim=256, window=4096, softcap=True, scale="query"),
    "gemma3_text": Family(head_dim=256, window=4096, scale="query"),
    "gemma3": Family(head_dim=256, window=4096, scale="query"),
    **dict.fromkeys(("gemma4", "gemma4_text"), Family(head_dim=256, window=512, scale="one")),
    "gpt_oss": Family(sdpa=False, head_dim=64, window=128, sinks=True),
    **dict.fromkeys(("qwen3_next", "qwen3_5", "qwen3_5_moe"), Family(flex=False, head_dim=256)),
    "falcon_h1": Family(flex=False, lora_text=False),
    **dict.fromkeys(("jamba", "bamba"), _NO_FLEX),
    **dict.fromkeys(("falcon", "stablelm"), Family(flex=False, lora_text=False)),
    **dict.fromkeys(("granite", "granitemoe", "granitemoehybrid"), _GRANITE),
    **dict.fromkeys(("mpt", "bloom", "falcon_mamba"), _NONE),
}
# What another version of transformers or of Axolotl has otherwise.
OVERRIDES: Final[dict[tuple[str, str], Family]] = {
    ("0.16.1", "nemotron"): Family(flex=False, lora_text=False),
    ("0.17.0", "nemotron"): Family(flex=False, lora_text=False),
}
# Layers alternate between full attention and a window, where config.json has no layer_types.
ALTERNATING: Final = frozenset({"gemma2", "gpt_oss", "gemma3", "gemma3_text", "gemma4", "gemma4_text"})
# Their positions have more than one axis, so 2-D position_ids may not show where documents begin.
MROPE: Final = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"})


def family(axolotl: str, model_type: str) -> Family | None:
    return OVERRIDES.get((axolotl, model_type)) or FAMILIES.get(model_type)
