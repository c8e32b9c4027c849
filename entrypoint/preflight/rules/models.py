"""What a model needs of attention, against what the kernel honours."""

from __future__ import annotations

from entrypoint.light import TYPE_CHECKING
from entrypoint.preflight.facts import MID, NAMED, NEW, OLD, Facts, Stage
from entrypoint.preflight.kernel import WITH_SINKS, Run
from entrypoint.preflight.rule import Hit, Rules

if TYPE_CHECKING:
    from typing import Final

rules: Final = Rules()

_LORA_KERNELS: Final = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")
_UNSLOTH: Final = ("unsloth_lora_mlp", "unsloth_lora_qkv", "unsloth_lora_o")


def _key(run: Run) -> str:
    return run.asked.split(":", 1)[0] if run.asked != "nothing" else ""


def _type(facts: Facts) -> str:
    return facts.model.type if facts.model else ""


def _remote(facts: Facts) -> bool:
    """The class may be the repository's own code, of which nothing is known."""
    return facts.on("trust_remote_code")


@rules.add("M01", "refuse", "T55 and T516 models/*/modeling_*.py (_supports_flash_attn)")
def no_flash(facts: Facts, run: Run) -> Hit | None:
    family = facts.model.family if facts.model else None
    if not run.flash or family is None or family.flash or _remote(facts):
        return None
    return Hit(key=_key(run), why=f"transformers' class of {_type(facts)} takes no FlashAttention, and stops.")


@rules.add("M02", "refuse", "T55 and T516 models/*/modeling_*.py (_supports_flex_attn)")
def no_flex(facts: Facts, run: Run) -> Hit | None:
    family = facts.model.family if facts.model else None
    if run.name != "flex_attention" or family is None or family.flex or _remote(facts):
        return None
    return Hit(key=_key(run), why=f"transformers' class of {_type(facts)} does not take FlexAttention, and stops.")


@rules.add("M03", "refuse", "T55 and T516 models/*/modeling_*.py (_supports_sdpa)")
def no_sdpa(facts: Facts, run: Run) -> Hit | None:
    family = facts.model.family if facts.model else None
    asked = run.name in {"sdpa", "fp8"} and run.asked != "nothing"
    if not asked or family is None or family.sdpa or _remote(facts):
        return None
    return Hit(key=_key(run), why=f"transformers' class of {_type(facts)} does not take sdpa, and stops.")


@rules.add("M04", "refuse", "T55 and T516 models/gpt_oss (_compatible_flash_implementations)")
def sinks_from_the_hub(facts: Facts, run: Run) -> Hit | None:
    is_flash = "flash" in run.name and run.name not in WITH_SINKS and run.kernel != "flash_attention_4"
    if _type(facts) != "gpt_oss" or not is_flash or run.kernel is None:
        return None
    why = f"transformers replaces {run.name} for gpt_oss by a kernel of the hub, {WITH_SINKS[1]}."
    return Hit(key=_key(run), why=why)


@rules.add(
    "M05",
    "refuse",
    "A16 and A19 monkeypatch/attention/xformers.py, sage_attn.py (s_aux is not used)",
    stage=Stage.BATCHES,
)
def sinks_dropped(facts: Facts, run: Run) -> Hit | None:
    if run.kernel not in {"xformers", "sage"} or not (facts.model and facts.model.sinks):
        return None
    return Hit(key=_key(run), why=f"{run.kernel} drops the attention sinks of {_type(facts)} without a word.")


@rules.add(
    "M06",
    "refuse",
    "T516 integrations/sdpa_attention.py:79; A16 and A19 xformers.py, sage_attn.py",
    stage=Stage.BATCHES,
)
def softcap_dropped(facts: Facts, run: Run) -> Hit | None:
    if run.kernel not in {"sdpa", "xformers", "sage"} or not (facts.model and facts.model.softcap):
        return None
    why = f"{run.kernel} drops the softcap {facts.model.softcap:g} of {_type(facts)} without a word."
    return Hit(key=_key(run), why=why)


@rules.add("M07", "refuse", "A16 and A19 monkeypatch/attention/xformers.py (scaling is not used)", stage=Stage.BATCHES)
def scale_dropped(facts: Facts, run: Run) -> Hit | None:
    if run.kernel != "xformers" or facts.model is None or facts.model.plain_scale:
        return None
    return Hit(key=_key(run), why=f"xformers drops the scale of {_type(facts)} and takes 1/sqrt(head_dim).")


@rules.add("M08", "refuse", "A16 and A19 monkeypatch/attention/xformers.py, sage_attn.py", stage=Stage.BATCHES)
def window_dropped(facts: Facts, run: Run) -> Hit | None:
    window = facts.model.window if facts.model else None
    if run.kernel not in {"xformers", "sage"} or not window or sequence_len(facts) <= window:
        return None
    why = f"{run.kernel} drops the sliding window {window} of {_type(facts)}, and rows are {sequence_len(facts)} long."
    return Hit(key=_key(run), why=why)


def sequence_len(facts: Facts) -> int:
    value = facts.get("sequence_len")
    return value if isinstance(value, int) else 512


@rules.add(
    "M09", "refuse", "T55 and T516 models/gemma4 (global_head_dim 512); flash-attn csrc/flash_attn/flash_api.cpp"
)
def gemma4_under_fa2(facts: Facts, run: Run) -> Hit | None:
    gemma4 = _type(facts) in {"gemma4", "gemma4_text"}
    hybrid = facts.on("gemma4_hybrid_attn_impl") and facts.axolotl in NAMED
    if not gemma4 or run.kernel != "flash_attention_2" or hybrid:
        return None
    why = "Gemma 4's full layers have head_dim 512, and FlashAttention 2 ends at 256."
    return Hit(key=_key(run), why=why, instead="gemma4_hybrid_attn_impl: true" if facts.axolotl in NAMED else None)


@rules.add("M10", "refuse", "A19 utils/schemas/config.py:1565 (normalize_attn_implementation)", NAMED, Stage.READS)
def hybrid_with_another(facts: Facts, run: Run) -> Hit | None:
    if not facts.on("gemma4_hybrid_attn_impl") or facts.implementation in {"", "flash_attention_2"}:
        return None
    why = f"gemma4_hybrid_attn_impl goes with flash_attention_2 alone, and Axolotl stops at {facts.implementation}."
    return Hit(key="gemma4_hybrid_attn_impl", why=why, instead="attn_implementation: flash_attention_2")


@rules.add("M11", "note", "T516 integrations/sdpa_attention.py:79; masking_utils.py", stage=Stage.BATCHES)
def window_as_a_mask(facts: Facts, run: Run) -> Hit | None:
    if run.kernel != "sdpa" or not (facts.model and facts.model.window):
        return None
    why = f"sdpa gets the sliding window {facts.model.window} as a mask of every pair, and so no flash kernel: slow."
    return Hit(key=_key(run), why=why)


@rules.add("M12", "refuse", "T516 integrations/flex_attention.py:262; A16 and A19 sage_attn.py", stage=Stage.TRAINS)
def dropout_refused(facts: Facts, run: Run) -> Hit | None:
    dropout = facts.model.dropout if facts.model else 0.0
    if run.kernel not in {"flex_attention", "sage"} or not dropout:
        return None
    why = f"The model has attention_dropout {dropout:g}, and {run.kernel} stops at the first step."
    return Hit(key="model_config", why=why, instead="model_config: {attention_dropout: 0.0}")


@rules.add("M13", "refuse", "torch _inductor/kernel/flex (head dims below 16 are not implemented)", stage=Stage.BATCHES)
def narrow_flex(facts: Facts, run: Run) -> Hit | None:
    width = facts.model.head_dim if facts.model else None
    if run.kernel != "flex_attention" or facts.on_cpu or width is None or width >= 16:
        return None
    return Hit(key=_key(run), why=f"FlexAttention's kernel starts at head_dim 16; this model has {width}.")


@rules.add(
    "M14", "refuse", "sageattention 2.2.0 sageattention/core.py (head dims above 128 are refused)", stage=Stage.BATCHES
)
def wide_sage(facts: Facts, run: Run) -> Hit | None:
    width = facts.model.head_dim if facts.model else None
    if run.kernel != "sage" or width is None or width <= 128:
        return None
    return Hit(key=_key(run), why=f"SageAttention ends at head_dim 128; this model has {width}.")


@rules.add("M15", "refuse", "A16 utils/schemas/config.py:1514, A19 :1976; monkeypatch/lora_kernels.py",
           stage=Stage.TRAINS)  # fmt: skip
def unknown_lora_text(facts: Facts, run: Run) -> Hit | None:
    family = facts.model.family if facts.model else None
    if family is None or family.lora_text or not lora_kernels(facts):
        return None
    why = f"Axolotl's LoRA kernels do not know the attention code of {_type(facts)}, and stop."
    key = next((key for key in _LORA_KERNELS if facts.on(key)), "adapter")
    return Hit(key=key, why=why, instead="lora_qkv_kernel: false and lora_o_kernel: false")


def lora_kernels(facts: Facts) -> bool:
    """Whether patch_self_attn_lora runs: asked for, or switched on by Axolotl (check_auto_enable_lora_kernels)."""
    if facts.get("adapter") not in {"lora", "qlora"}:
        return False
    old = facts.axolotl in OLD + MID
    if old and facts.on("lora_dropout"):
        return False
    if any(facts.get(key) is not None for key in _LORA_KERNELS):
        return facts.on("lora_qkv_kernel") or facts.on("lora_o_kernel")
    eight_bit = facts.get("adapter") == "lora" and facts.on("load_in_8bit")
    unsloth = old and any(facts.on(key) for key in _UNSLOTH)
    fsdp1 = facts.get("fsdp_config") is not None and str(facts.get("fsdp_version")) != "2"
    merges = facts.on("nvfp4_merge_aware")
    return not (facts.on("rl") or merges or facts.on("trust_remote_code") or eight_bit or unsloth or fsdp1)


@rules.add("M16", "note", "T55 and T516 dynamic_module_utils.py")
def remote_code(facts: Facts, run: Run) -> Hit | None:
    if not _remote(facts):
        return None
    why = "trust_remote_code: the model's class may be its own, so what it takes of attention is not known."
    return Hit(key="trust_remote_code", why=why, instead="")


@rules.add(
    "M17",
    "refuse",
    "T516 modeling_utils.py (the setter of _attn_implementation reaches sub-configs)",
    NEW,
    Stage.BATCHES,
)
def causal_tower(facts: Facts, run: Run) -> Hit | None:
    if run.kernel not in {"xformers", "sage"} or not (facts.model and facts.model.vision):
        return None
    why = f"Axolotl's {run.kernel} is always causal, and it would run in {_type(facts)}'s vision tower too."
    return Hit(key=_key(run), why=why)


@rules.add("M18", "note", "A19 monkeypatch/attention/large_head.py", stage=Stage.BATCHES)
def wide_heads(facts: Facts, run: Run) -> Hit | None:
    gemma4 = _type(facts) in {"gemma4", "gemma4_text"}
    width = 512 if gemma4 else facts.model.head_dim if facts.model else None
    if run.kernel != "sdpa" or (width or 0) <= 256 or facts.get("large_head_attention") or facts.on_cpu:
        return None
    why = f"Layers of head_dim {width} take torch's slow kernels."
    return Hit(key=_key(run), why=why, instead="large_head_attention: auto" if facts.axolotl in NEW else "")
