"""Families of models and Axolotl configurations for them: what a user's folder holds before a training starts.

No weights: the rehearsal reads a model's config.json, and these runs never get further than it.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

SPECIAL: Final = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
IDS: Final = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
LAYERS: Final = 8


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A family and how it is trained. The seed draws the model's shape and the lengths of the run."""

    family: str
    attention: str = "sdpa"
    packed: bool = False
    lora: bool = False
    checkpointing: bool = False
    seed: int = 0

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


# Those that train on a CPU: sdpa drops Gemma 2's softcap, GPT-OSS has no sdpa, and flex has no backward there.
ATTENTIONS: Final = {
    "llama": ("sdpa", "eager"),
    "qwen3": ("sdpa", "eager"),
    "gemma2": ("eager",),
    "gemma3_text": ("sdpa", "eager"),
    "phi3": ("sdpa", "eager"),
    "mistral": ("sdpa", "eager"),
    "gpt_oss": ("eager",),
}
# transformers (5.9.0, 5.16.1) does not tell GPT-OSS's masks where packed documents begin: see seeded.py.
NEVER_PACKED: Final = ("gpt_oss",)


def drawn(seed: int) -> Setting:
    """A healthy setting: families take turns, the rest is drawn."""
    draw = random.Random(f"setting {seed}")
    family = list(ATTENTIONS)[seed % len(ATTENTIONS)]
    return Setting(
        family=family,
        attention=draw.choice(ATTENTIONS[family]),
        packed=draw.random() < 0.5 and family not in NEVER_PACKED,
        lora=draw.random() < 0.4,
        checkpointing=draw.random() < 0.3,
        seed=seed,
    )


def write(setting: Setting, folder: Path) -> None:
    """Write `model/`, `text.jsonl` and `config.yml` into `folder`, from which Axolotl is started."""
    files = {
        "model/config.json": model(setting),
        "model/tokenizer.json": tokenizer(),
        "model/tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL},
        "config.yml": config(setting),
        "text.jsonl": {"text": "ab ba"},
    }
    (folder / "model").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def tokenizer() -> dict[str, Any]:
    """A character is a token, in the format of the tokenizers package."""
    words = {token: number for number, token in enumerate([*SPECIAL.values(), " ", "a", "b"])}
    split = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "pre_tokenizer": split,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": SPECIAL["unk_token"]},
    }


def config(setting: Setting) -> dict[str, Any]:
    """The Axolotl configuration, as JSON, which is YAML too."""
    draw = random.Random(f"config {setting.seed}")
    keys: dict[str, Any] = {
        "base_model": "./model",
        "datasets": [{"path": "text.jsonl", "ds_type": "json", "type": "completion"}],
        "output_dir": "./out",
        "sequence_len": draw.choice((160, 200, 256, 4096)),
        "micro_batch_size": draw.choice((1, 2, 3)) if setting.packed else draw.choice((2, 3, 4)),
        "gradient_accumulation_steps": draw.choice((1, 4)),
        "num_epochs": draw.choice((1, 3)),
        "learning_rate": draw.choice((2e-5, 2e-4, 1e-3)),
        "optimizer": draw.choice(("adamw_torch", "adamw_torch_fused", "adafactor")),
        "lr_scheduler": draw.choice(("cosine", "constant", "linear")),
        "weight_decay": draw.choice((0.0, 0.1)),
        "warmup_steps": draw.choice((0, 10)),
        "bf16": False,  # transformers trains in bfloat16 on GPUs alone
        "tf32": False,
        "seed": setting.seed,
        "attn_implementation": setting.attention,
        "sample_packing": setting.packed,
        "gradient_checkpointing": setting.checkpointing,
    }
    return keys | (lora(setting.family, draw) if setting.lora else {})


def lora(family: str, draw: random.Random) -> dict[str, Any]:
    """Axolotl's LoRA kernels are Triton's, which no CPU runs, and they do not know Phi 3's fused projection."""
    off = dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"), False)
    targets = ["qkv_proj", "o_proj"] if family == "phi3" else ["q_proj", "k_proj", "v_proj", "o_proj"]
    own = {"lora_r": 8, "lora_alpha": 16, "lora_dropout": draw.choice((0.0, 0.05)), "lora_target_modules": targets}
    return {"adapter": "lora"} | own | off


def model(setting: Setting) -> dict[str, Any]:
    """The model's config.json."""
    draw = random.Random(f"model {setting.seed}")
    groups, kv_heads = draw.choice((1, 2, 4)), draw.choice((1, 2))
    heads = 2 * groups * kv_heads if setting.family == "gemma2" else max(2, groups * kv_heads)
    head_dim = draw.choice((32, 64, 128))
    shape = {
        "model_type": setting.family,
        "vocab_size": 32000,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "attention_dropout": draw.choice((0.0, 0.0, 0.1)),
        "max_position_embeddings": 2048,
        "torch_dtype": "bfloat16",
        **IDS,
    }
    return shape | _own(setting.family, draw, heads, head_dim)


def _own(family: str, draw: random.Random, heads: int, head_dim: int) -> dict[str, Any]:
    """What a family's config.json has beside the shape."""
    window = draw.choice((32, 48, 100, 2047))
    alternating = [("sliding_attention", "full_attention")[layer % 2] for layer in range(LAYERS)]
    five_to_one = ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(LAYERS)]
    scalar = draw.choice((head_dim, 2 * head_dim))
    own: dict[str, dict[str, Any]] = {
        "llama": {"architectures": ["LlamaForCausalLM"], "rope_theta": 500000.0, "rms_norm_eps": 1e-5},
        "qwen3": {"architectures": ["Qwen3ForCausalLM"], "rope_theta": 1000000.0, "tie_word_embeddings": True},
        "gemma2": {
            "architectures": ["Gemma2ForCausalLM"],
            "sliding_window": window,
            "layer_types": alternating,
            "query_pre_attn_scalar": scalar,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        "gemma3_text": {
            "architectures": ["Gemma3ForCausalLM"],
            "sliding_window": window,
            "layer_types": five_to_one,
            "query_pre_attn_scalar": scalar,
        },
        # Neither key nor value heads are shared in Phi-3-mini, and its config.json has no head_dim.
        "phi3": {
            "architectures": ["Phi3ForCausalLM"],
            "num_key_value_heads": heads,
            "hidden_size": heads * head_dim,
            "sliding_window": window,
            "original_max_position_embeddings": 2048,
        },
        "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": window},
        "gpt_oss": {
            "architectures": ["GptOssForCausalLM"],
            "sliding_window": window,
            "layer_types": alternating,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
    }
    return own[family]
