"""Runs inside an image: what the real Axolotl and transformers make of the cases on stdin, as JSON lines on stdout.

stdin: {"cases": [{"id", "values", "flags", "model", "capability"}], "families": [model types]}. No GPU: the compute
capability that Axolotl reads is the case's. Each case ends as its error, or as the values that the rules speak of.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

KEYS = (
    "attn_implementation",
    "flash_attention",
    "flex_attention",
    "sdp_attention",
    "sample_packing",
    "lora_qkv_kernel",
)
# What every configuration needs beside attention.
REST = {
    "output_dir": "out",
    "datasets": [{"path": "data.jsonl", "type": "alpaca"}],
    "learning_rate": 0.0001,
    "num_epochs": 1,
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_target_linear": True,
}
DECODERS = ("MODEL_FOR_CAUSAL_LM_MAPPING", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING")


def main() -> None:
    work = json.load(sys.stdin)
    answers = sys.stdout
    os.environ.update(HF_HUB_OFFLINE="1", AXOLOTL_DO_NOT_TRACK="1")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        logging.disable(logging.CRITICAL)
        for case in work["cases"]:
            answers.write(json.dumps({"id": case["id"], **outcome(case)}, default=str) + "\n")
        answers.write(json.dumps({"fields": fields()}) + "\n")
        for model_type in work["families"]:
            answers.write(json.dumps({"family": model_type, **family(model_type)}, default=str) + "\n")


def fields() -> list[str]:
    """The keys of a configuration that Axolotl knows."""
    from axolotl.utils.schemas.config import AxolotlInputConfig

    return sorted(AxolotlInputConfig.model_fields)


def outcome(case: dict[str, Any]) -> dict[str, Any]:
    """The validated configuration in short, or the type and the text of what was raised."""
    import yaml
    from axolotl.cli.config import load_cfg

    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        Path("model").mkdir()
        Path("model/config.json").write_text(json.dumps(case["model"]))
        values = {**REST, **case["values"]}
        values |= {"load_in_4bit": True} if values.get("adapter") == "qlora" else {}
        Path("config.yml").write_text(yaml.safe_dump(values))
        device(case["capability"])
        try:
            cfg = load_cfg("config.yml", **dict(case["flags"]))
        except BaseException as error:  # noqa: BLE001  (whatever it is, it is the outcome)
            return {"error": type(error).__name__, "text": str(error)[:2000]}
        facts = {key: cfg.get(key) for key in KEYS}
        return {"error": None, **facts, "apart": apart(cfg), "asked": asked(cfg)}


def apart(cfg: Any) -> bool | None:
    """Whether packed documents are kept apart, as Axolotl has it: its computed field, which 0.17.0 names otherwise."""
    known = (cfg.get(name) for name in ("attn_decontaminates_packing", "attn_supports_packing"))
    return next((value for value in known if value is not None), None)


def device(capability: str) -> None:
    """Let torch tell of a GPU with this compute capability; "" for none."""
    import torch

    def properties(*_: object) -> Any:
        if not capability[:1].isdigit():
            raise RuntimeError("no GPU")
        major, minor = map(int, capability.split("."))
        return SimpleNamespace(major=major, minor=minor)

    torch.cuda.get_device_properties = properties
    torch.cuda.get_device_capability = lambda *_: (properties().major, properties().minor)


def asked(cfg: Any) -> str | None:
    """The attention that Axolotl's own loader asks transformers for."""
    from axolotl.loaders.model import ModelLoader

    loader = ModelLoader.__new__(ModelLoader)
    loader.cfg, loader.model_kwargs, loader.model_config = cfg, {}, SimpleNamespace()
    loader._set_attention_config()
    name: str | None = loader.model_kwargs.get("attn_implementation")
    return name


def family(model_type: str) -> dict[str, Any]:
    """What transformers' class of a model type takes, its fixed defaults, and whether LoRA kernels know its code."""
    import transformers
    from transformers.models.auto import modeling_auto

    try:
        config = transformers.CONFIG_MAPPING[model_type]()
    except KeyError:
        return {"known": False}
    classes = (getattr(modeling_auto, name).get(type(config), None) for name in DECODERS)
    chosen = next(filter(None, classes), None)
    text = config.get_text_config()
    facts = {key: default_of(text, key) for key in ("head_dim", "v_head_dim", "sliding_window", "layer_types")}
    with contextlib.suppress(Exception):  # a width that follows from others is no default: these give 48
        facts["head_dim"] = default_of(type(text)(hidden_size=768, num_attention_heads=16), "head_dim")
    flags = ("_supports_flash_attn", "_supports_sdpa", "_supports_flex_attn")
    return {
        "known": chosen is not None,
        "takes": [bool(getattr(chosen, flag, False)) for flag in flags],
        "lora_text": lora_text(model_type),
        **facts,
        "layer_types": sorted(set(facts["layer_types"] or ())),
    }


def default_of(config: Any, key: str) -> Any:
    """A configuration's field; None where it has none, or one for each layer."""
    try:
        return getattr(config, key, None)
    except Exception:  # noqa: BLE001  (transformers' own error for fields that differ by layer)
        return None


def lora_text(model_type: str) -> bool | str:
    """Whether patch_self_attn_lora finds the text of q, k, v and of o that it replaces."""
    from axolotl.monkeypatch import lora_kernels
    from axolotl.utils.dict import DictDefault

    cls = None
    try:
        cfg = DictDefault(base_model="x", model_config_type=model_type)
        with_type = SimpleNamespace(model_type=model_type)
        lora_kernels.AutoConfig = SimpleNamespace(from_pretrained=lambda *_, **__: with_type)
        cls = lora_kernels.get_attention_cls_from_config(cfg)
        lora_kernels.patch_self_attn_lora(cfg)
    except AssertionError:
        return False
    except Exception as error:  # noqa: BLE001  (told, and compared as unknown)
        return f"{type(error).__name__}: {error}"[:200]
    return cls is not None


if __name__ == "__main__":
    main()
