"""xformers, SageAttention and shifted sparse attention (S2): what of them works at all."""

from __future__ import annotations

import re

from entrypoint.light import TYPE_CHECKING
from entrypoint.preflight.facts import OLD, Facts, Stage
from entrypoint.preflight.kernel import Run, takeover
from entrypoint.preflight.rule import Hit, Rules

if TYPE_CHECKING:
    from typing import Final

rules: Final = Rules()

SAGE_CAPABILITIES: Final = ("8.0", "8.6", "8.9", "9.0", "12.0")
_SAGE_3: Final = re.compile(r"sage.*3", re.IGNORECASE)


def _xformers(facts: Facts, run: Run) -> bool:
    """Whether Axolotl takes xformers; 0.16.1 asks the boolean even where attn_implementation names another kernel."""
    return facts.on("xformers_attention") if facts.axolotl in OLD else run.name == "xformers"


def _sage(facts: Facts, run: Run) -> bool:
    return facts.on("sage_attention") if facts.axolotl in OLD else run.name == "sage"


def _key(facts: Facts, boolean: str) -> str:
    return boolean if facts.on(boolean) else "attn_implementation"


@rules.add("X01", "refuse", "A16 loaders/patch_manager.py:666, A19 :1106; monkeypatch/llama_attn_hijack_xformers.py",
           stage=Stage.BATCHES)  # fmt: skip
def old_hijack(facts: Facts, run: Run) -> Hit | None:
    if not _xformers(facts, run) or facts.pack or not facts.like_llama:
        return None
    why = "Without packing Axolotl replaces Llama's attention by one for an old transformers: AttributeError."
    return Hit(key=_key(facts, "xformers_attention"), why=why)


@rules.add("X02", "refuse", "A16 loaders/model.py:625 (xformers is not in that list)", OLD)
def silently_sdpa(facts: Facts, run: Run) -> Hit | None:
    if not _xformers(facts, run) or facts.pack or facts.like_llama or facts.implementation or facts.model is None:
        return None
    why = f"Without packing Axolotl 0.16.1 forgets xformers_attention, and {run.kernel} runs."
    return Hit(key="xformers_attention", why=why)


@rules.add("X03", "refuse", "A16 and A19 monkeypatch/attention/xformers.py; T55 modeling_flash_attention_utils.py:358",
           stage=Stage.BATCHES)  # fmt: skip
def padding_crashes(facts: Facts, run: Run) -> Hit | None:
    if not _xformers(facts, run) or (facts.axolotl in OLD and run.kernel != "xformers"):
        return None
    evaluated = facts.on("val_set_size") or facts.on("test_datasets")
    unpacked = evaluated and facts.get("eval_sample_packing") is False
    if facts.pack and not unpacked:
        return None
    where = "The evaluation's rows have padding" if facts.pack else "Rows without packing have padding"
    why = f"{where}, and Axolotl's xformers attention fails on it: TypeError."
    key = "eval_sample_packing" if facts.pack else _key(facts, "xformers_attention")
    return Hit(key=key, why=why, instead="eval_sample_packing: true" if facts.pack else None)


@rules.add("X04", "refuse", "xformers 0.0.35 ops/fmha/cutlass.py (bfloat16 from 8.0 on)", stage=Stage.BATCHES)
def bf16_on_turing(facts: Facts, run: Run) -> Hit | None:
    if run.kernel != "xformers" or not facts.numbers or facts.numbers >= (8, 0) or facts.dtype != "bf16":
        return None
    why = f"xformers has no bf16 kernel for compute capability {facts.capability}; torch emulates bf16 there."
    return Hit(key="bf16", why=why, instead="bf16: false and fp16: true")


@rules.add("X05", "refuse", "A16 loaders/patch_manager.py:168, 248", OLD)
def packed_xformers_meets_fa4(facts: Facts, run: Run) -> Hit | None:
    if not facts.on("xformers_attention") or not facts.pack or not takeover(facts, "flash_attention_2"):
        return None
    why = (
        "Packing with xformers sets flash_attention, and Axolotl 0.16.1 then puts FlashAttention 4 in its place, by a "
        "function that transformers 5.5.0 cannot take: the model does not load."
    )
    return Hit(key="xformers_attention", why=why)


@rules.add("S01", "refuse", "A16 and A19 monkeypatch/attention/sage_attn.py; https://github.com/thu-ml/SageAttention/issues/90",
           stage=Stage.TRAINS)  # fmt: skip
def sage_learns_nothing(facts: Facts, run: Run) -> Hit | None:
    if not _sage(facts, run):
        return None
    why = "SageAttention has no backward, so attention learns nothing; packed and padded rows stop with an error."
    return Hit(key=_key(facts, "sage_attention"), why=why)


@rules.add("S02", "refuse", "A16 utils/schemas/config.py:1439, A19 :1886", stage=Stage.READS)
def sage_elsewhere(facts: Facts, run: Run) -> Hit | None:
    unknown = facts.capability is None and not facts.on_cpu
    if not _sage(facts, run) or unknown or facts.capability in SAGE_CAPABILITIES:
        return None
    where = f"compute capability {facts.capability}" if facts.capability else "a machine without a GPU"
    return Hit(key=_key(facts, "sage_attention"), why=f"Axolotl does not take SageAttention on {where}, and stops.")


@rules.add("S03", "warn", "A16 utils/schemas/config.py:1323, A19 :1718", stage=Stage.READS)
def sage_warnings(facts: Facts, run: Run) -> Hit | None:
    padded = facts.pack or facts.on("pad_to_sequence_len")
    if not _sage(facts, run) or (facts.on("adapter") and padded):
        return None
    why = "Axolotl warns that a loss of 0 (no adapter) or one that explodes (no padding) was seen with SageAttention."
    return Hit(key=_key(facts, "sage_attention"), why=why)


@rules.add(
    "S04", "refuse", "https://docs.axolotl.ai/docs/attention.html (SageAttention 3 is not supported)", stage=Stage.READS
)
def sage_3(facts: Facts, run: Run) -> Hit | None:
    if not _SAGE_3.search(facts.implementation):
        return None
    return Hit(key="attn_implementation", why="Axolotl does not support SageAttention 3.")


def _s2(facts: Facts) -> bool:
    return facts.on("s2_attention") and not facts.pack


@rules.add(
    "T01", "refuse", "A16 monkeypatch/llama_attn_hijack_flash.py (flashattn_forward_with_s2attn)", OLD, Stage.BATCHES
)
def s2_attributes(facts: Facts, run: Run) -> Hit | None:
    if not _s2(facts) or not facts.on("flash_attention") or not facts.like_llama:
        return None
    why = "Axolotl's S2 attention uses attributes that transformers 5.5.0's Llama no longer has: AttributeError."
    return Hit(key="s2_attention", why=why)


@rules.add("T02", "refuse", "A16 loaders/patch_manager.py (NotImplementedError)", OLD)
def s2_alone(facts: Facts, run: Run) -> Hit | None:
    if not _s2(facts) or facts.on("flash_attention") or not facts.like_llama:
        return None
    return Hit(key="s2_attention", why="Axolotl 0.16.1's S2 attention is not implemented without flash_attention.")


@rules.add("T03", "refuse", "A16 loaders/patch_manager.py (only for Llama)", OLD)
def s2_ignored(facts: Facts, run: Run) -> Hit | None:
    if not _s2(facts) or facts.like_llama or facts.model is None:
        return None
    why = f"Axolotl 0.16.1 ignores s2_attention for {facts.model.type}: {run.kernel} runs over all keys."
    return Hit(key="s2_attention", why=why)
