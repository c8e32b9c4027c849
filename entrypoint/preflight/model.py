"""What attention needs to know of a model, from its config.json: shapes, window, scale, softcap, sinks, dropout."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from entrypoint.light import TYPE_CHECKING, dataclass
from entrypoint.preflight.config import Config
from entrypoint.preflight.families import ALTERNATING, Family, family

if TYPE_CHECKING:
    from typing import Any, Final

    from _typeshed import StrPath

# Their window counts only with use_sliding_window, which is false where it is absent.
_OPT_IN: Final = ("qwen2", "qwen3")


@dataclass(frozen=True, kw_only=True)
class Model:
    """`head_dim` is q's and k's, `value_dim` v's; None where config.json does not tell. `window`: the sliding window of
    layers that have one; `mixed`: config.json lists layers without it too. `scale` multiplies the logits, None where
    config.json does not tell; `plain_scale`: whether it is 1/sqrt(head_dim). `wrapped`: the language model is one part
    of several (text_config); `vision`: another one sees images. `family` is None for an unknown type."""

    type: str
    text_type: str
    family: Family | None
    head_dim: int | None
    value_dim: int | None
    heads: int | None
    kv_heads: int | None
    window: int | None
    mixed: bool
    scale: float | None
    plain_scale: bool
    softcap: float | None
    sinks: bool
    dropout: float
    wrapped: bool
    vision: bool


def find(config: Config, environ: Mapping[str, str]) -> tuple[str | None, str]:
    """config.json of the configuration's base_model, or None and why there is none yet."""
    values = config.values
    name = values.get("base_model_config") or values.get("base_model")
    if not isinstance(name, str) or not name:
        return None, "the configuration names no base_model"
    if os.path.isdir(name):
        file = os.path.join(name, "config.json")
        return (file, "") if os.path.isfile(file) else (None, f"{name} has no config.json")
    folder = os.path.join(_hub(environ), f"models--{name.replace('/', '--')}")
    revision = values.get("revision_of_model") or "main"
    try:
        with open(os.path.join(folder, "refs", str(revision))) as reference:
            commit = reference.read().strip()
    except OSError:
        commit = str(revision)
    file = os.path.join(folder, "snapshots", commit, "config.json")
    if os.path.isfile(file):
        return file, ""
    return None, f"{name} is neither a folder here nor in the hub's cache {_hub(environ)}"


def _hub(environ: Mapping[str, str]) -> str:
    """huggingface_hub's cache folder (its constants.py)."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(name):
            return os.path.expanduser(environ[name])
    cache = environ.get("XDG_CACHE_HOME") or f"{environ.get('HOME', '')}/.cache"
    return os.path.join(os.path.expanduser(environ.get("HF_HOME") or f"{cache}/huggingface"), "hub")


def load(file: StrPath, config: Config, axolotl: str) -> Model | None:
    """The model of a config.json under the configuration's own changes to it; None when it cannot be read."""
    try:
        with open(file, encoding="utf-8") as opened:
            raw = json.load(opened)
    except (OSError, ValueError):
        return None
    return build(raw, config, axolotl) if isinstance(raw, dict) else None


def build(raw: Mapping[str, Any], config: Config, axolotl: str) -> Model:
    """`model_config` (overrides_of_model_config) replaces fields of the top level, as load_model_config does."""
    changes = config.values.get("model_config") or config.values.get("overrides_of_model_config") or {}
    top = {**raw, **(changes if isinstance(changes, Mapping) else {})}
    inner = top.get("text_config")
    text = inner if isinstance(inner, Mapping) else top
    kind, text_kind = str(top.get("model_type", "")), str(text.get("model_type") or top.get("model_type", ""))
    own = family(axolotl, text_kind) or family(axolotl, kind)
    head_dim, value_dim = _dims(text, own)
    heads = _int(text.get("num_attention_heads"))
    return Model(
        type=kind,
        text_type=text_kind,
        family=family(axolotl, kind) or own,
        head_dim=head_dim,
        value_dim=value_dim,
        heads=heads,
        kv_heads=_int(text.get("num_key_value_heads")) or heads,
        window=_window(text, text_kind, own),
        mixed=_mixed(text),
        scale=_scale(text, own, head_dim),
        plain_scale=_plain_scale(text, own, head_dim),
        softcap=_softcap(text, own),
        sinks=bool(own and own.sinks),
        dropout=_float(text.get("attention_dropout")),
        wrapped=isinstance(inner, Mapping),
        vision=isinstance(top.get("vision_config"), Mapping),
    )


def _dims(text: Mapping[str, Any], own: Family | None) -> tuple[int | None, int | None]:
    """Of MLA, q's width is its rotated and its other part, and `head_dim` would be the rotated one alone."""
    nope = _int(text.get("qk_nope_head_dim"))
    if nope:
        width = nope + (_int(text.get("qk_rope_head_dim")) or 0)
        return width, _int(text.get("v_head_dim")) or width
    given = _int(text.get("head_dim"))
    default = own.head_dim if own else None
    if given is None and default is not None:
        return default, own.value_dim or default if own else default
    hidden, heads = _int(text.get("hidden_size")), _int(text.get("num_attention_heads"))
    width_ = given or (hidden // heads if hidden and heads else None)
    return width_, width_


def _window(text: Mapping[str, Any], kind: str, own: Family | None) -> int | None:
    if kind.startswith(_OPT_IN) and not text.get("use_sliding_window"):
        return None
    window = _int(text["sliding_window"]) if "sliding_window" in text else own.window if own else None
    layers = text.get("layer_types")
    if not window or not isinstance(layers, list):
        return window or None
    return window if "sliding_attention" in layers else None


def _mixed(text: Mapping[str, Any]) -> bool:
    layers = text.get("layer_types")
    return isinstance(layers, list) and len(set(layers)) > 1


def _scale(text: Mapping[str, Any], own: Family | None, head_dim: int | None) -> float | None:
    kind = own.scale if own else ""
    if kind == "query":
        return float(_float(text.get("query_pre_attn_scalar", 256)) ** -0.5)
    if kind == "multiplier":
        return _float(text.get("attention_multiplier")) or None
    if kind == "one":
        return 1.0
    return float(head_dim**-0.5) if head_dim and _plain_scale(text, own, head_dim) else None


def _plain_scale(text: Mapping[str, Any], own: Family | None, head_dim: int | None) -> bool:
    kind = own.scale if own else ""
    if kind == "query":
        query = text.get("query_pre_attn_scalar", 256)  # the default of gemma2 and gemma3
        return bool(query == head_dim)
    if kind == "multiplier":
        multiplier = text.get("attention_multiplier")
        return bool(head_dim) and multiplier is not None and abs(_float(multiplier) - (head_dim or 1) ** -0.5) < 1e-6
    if kind == "yarn":
        rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
        return not (isinstance(rope, Mapping) and rope.get("mscale_all_dim"))
    return kind != "one"


def _softcap(text: Mapping[str, Any], own: Family | None) -> float | None:
    if not own or not own.softcap:
        return None
    return _float(text.get("attn_logit_softcapping", 50.0)) or None


def _int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def alternates(model: Model) -> bool:
    """Whether only some layers have the window."""
    return model.text_type in ALTERNATING
