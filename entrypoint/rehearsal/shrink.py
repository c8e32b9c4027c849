"""A small model of the same architecture: few layers, one of each kind, and heads as they are. Pure.

The sizes are read from a configuration of transformers as `to_dict` writes it, defaults included, so that a family
needs no table of its own here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

VOCABULARY: Final = 512
HIDDEN: Final = 256
FEWEST_LAYERS: Final = 2
MOST_LAYERS: Final = 4
EXPERTS: Final = 2
# Widths that are not attention's, each with its largest value here.
_WIDTHS: Final = {
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 128,
    "q_lora_rank": 128,
    "kv_lora_rank": 128,
    "ffn_dim": 512,
    "ffn_hidden_size": 512,
    "hidden_size_per_layer_input": 64,
    "vocab_size_per_layer_input": VOCABULARY,
}
_EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN: Final = ("num_experts_per_tok", "experts_per_token", "top_k_experts", "moe_k")
_TOKENS: Final = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "sep_token_id")
# The special tokens of material.py's tokenizer.
IDS: Final = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


@dataclass(frozen=True, kw_only=True)
class Small:
    """`values` make the small model's configuration; `kinds`: its layers'; `reduced`: what is less, in sentences."""

    values: Mapping[str, Any]
    kinds: tuple[str, ...]
    of_layers: int
    heads: int
    kv_heads: int
    head_dim: int
    reduced: tuple[str, ...]


class NotShrinkable(ValueError):
    """The architecture cannot be made small; the message says why."""


def shrink(full: Mapping[str, Any], *, free_head_dim: bool, length: int) -> Small:
    """The small model of a full one.

    `free_head_dim`: whether the class takes a head_dim that is not hidden_size / heads; otherwise heads go down with
    the hidden size. `length` is of the rehearsed rows. Raises NotShrinkable.
    """
    if isinstance(full.get("text_config"), Mapping):
        raise NotShrinkable("its language model is one part of several (text_config)")
    layers, heads, hidden = (
        _positive(full, key) for key in ("num_hidden_layers", "num_attention_heads", "hidden_size")
    )
    kv_heads = full.get("num_key_value_heads") or heads
    nope = full.get("qk_nope_head_dim") or 0  # MLA's, beside the rotated part of a head, which its head_dim is
    head_dim = nope + full["qk_rope_head_dim"] if nope else full.get("head_dim") or hidden // heads
    values = dict(full)
    said: list[str] = []
    indices = chosen_layers(full.get("layer_types"), layers)
    kinds = tuple(str(full["layer_types"][index]) for index in indices) if full.get("layer_types") else ()
    values |= _layers(full, indices)
    if len(indices) < layers:
        said.append(f"{len(indices)} of {layers} layers{f' ({_counted(kinds)})' if len(set(kinds)) > 1 else ''}")
    if free_head_dim:
        values |= {} if nope else {"head_dim": head_dim}
        small_hidden = min(hidden, HIDDEN)
    else:
        heads, kv_heads = _fewer_heads(heads, kv_heads, head_dim, said)
        small_hidden = heads * head_dim
    values |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "hidden_size": small_hidden}
    if small_hidden < hidden:
        said.append(f"hidden size {small_hidden} instead of {hidden}")
    values |= {key: min(most, full[key]) for key, most in _WIDTHS.items() if _is_count(full.get(key))}
    values |= _experts(full, said)
    values |= _vocabulary(full, said)
    # Scores of a trained model differ by several units; with transformers' 0.02 all positions would weigh the same.
    values["initializer_range"] = float(small_hidden) ** -0.5
    if values.pop("quantization_config", None) is not None:
        said.append("its weights are not quantized beforehand")
    window = full.get("sliding_window")
    if isinstance(window, int) and window >= length and set(kinds) != {"full_attention"}:
        said.append(f"the window of {window} is longer than the {length} positions, so it hides nothing here")
    for key in ("architectures", "transformers_version", "_name_or_path", "dtype", "torch_dtype"):
        values.pop(key, None)
    return Small(
        values=values,
        kinds=kinds,
        of_layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        reduced=tuple(said),
    )


def _fewer_heads(heads: int, kv_heads: int, head_dim: int, said: list[str]) -> tuple[int, int]:
    """Heads in the same proportion, of as many channels together as HIDDEN, or of the least that keeps a group."""
    group = heads // kv_heads
    few = max(1, min(kv_heads, HIDDEN // (group * head_dim)))
    if few < kv_heads:
        said.append(f"{group * few} of {heads} heads ({few} of {kv_heads} of keys and values)")
    return group * few, few


def chosen_layers(kinds: Sequence[str] | None, layers: int) -> tuple[int, ...]:
    """The first layer of each kind, filled up from the front to FEWEST_LAYERS. Raises NotShrinkable."""
    if not kinds:
        return tuple(range(min(layers, FEWEST_LAYERS)))
    first = {kind: index for index, kind in reversed(list(enumerate(kinds)))}
    if len(first) > MOST_LAYERS:
        raise NotShrinkable(f"it has {len(first)} kinds of layers ({', '.join(sorted(first))})")
    chosen = set(first.values())
    for index in range(len(kinds)):
        if len(chosen) >= FEWEST_LAYERS:
            break
        chosen.add(index)
    return tuple(sorted(chosen))


def _layers(full: Mapping[str, Any], indices: Sequence[int]) -> dict[str, Any]:
    """The keys that count layers or list one entry for each."""
    count = _positive(full, "num_hidden_layers")
    values: dict[str, Any] = {"num_hidden_layers": len(indices)}
    for key, value in full.items():
        if isinstance(value, list) and len(value) == count and count > MOST_LAYERS:
            values[key] = [value[index] for index in indices]
    if isinstance(full.get("layer_types"), list):
        values["layer_types"] = [full["layer_types"][index] for index in indices]
    if _is_count(full.get("max_window_layers")):
        values["max_window_layers"] = min(full["max_window_layers"], len(indices))
    if _is_count(full.get("first_k_dense_replace")):
        values["first_k_dense_replace"] = min(full["first_k_dense_replace"], 1)
    if _is_count(full.get("num_kv_shared_layers")):
        values["num_kv_shared_layers"] = 0
    if isinstance(full.get("mlp_only_layers"), list):
        values["mlp_only_layers"] = []
    return values


def _experts(full: Mapping[str, Any], said: list[str]) -> dict[str, Any]:
    """Few experts, and all of them chosen: a choice that rounding can turn would make every comparison a lottery."""
    counts = {key: full[key] for key in _EXPERTS if _is_count(full.get(key)) and full[key] > 1}
    if not counts:
        return {}
    said.append(f"{EXPERTS} of {next(iter(counts.values()))} experts, each of them chosen for every token")
    values: dict[str, Any] = dict.fromkeys(counts, EXPERTS)
    values |= {key: EXPERTS for key in _CHOSEN if _is_count(full.get(key))}
    values |= {key: 1 for key in ("n_group", "topk_group") if _is_count(full.get(key))}
    return values


def _vocabulary(full: Mapping[str, Any], said: list[str]) -> dict[str, Any]:
    size = _positive(full, "vocab_size")
    if size > VOCABULARY:
        said.append(f"{VOCABULARY} of {size} tokens")
    values: dict[str, Any] = {"vocab_size": VOCABULARY}
    values |= {key: IDS.get(key) for key in _TOKENS if full.get(key) is not None or key in IDS}
    for key, value in full.items():
        if key.endswith(("_token_id", "_token_index")) and key not in _TOKENS and _is_count(value):
            values[key] = min(value, VOCABULARY - 1)
    return values


def _counted(kinds: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(kinds))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _positive(full: Mapping[str, Any], key: str) -> int:
    value = full.get(key)
    if not isinstance(value, int) or value < 1:
        raise NotShrinkable(f"its configuration has no {key}")
    return value
