"""FlashAttention 2, 3 and 4: which of them runs, and on which GPU, head dim and dtype it can."""

from __future__ import annotations

from entrypoint.light import TYPE_CHECKING
from entrypoint.preflight.facts import FLASH, NAMED, NEW, OLD, Facts, Stage
from entrypoint.preflight.kernel import Run, dims_fit_fa4, fa4_hangs, fits_fa4, flash_flag
from entrypoint.preflight.rule import Hit, Rules

if TYPE_CHECKING:
    from typing import Final

rules: Final = Rules()

_UPGRADED: Final = ("flash_attention_2", "flash_attention_3")
# Language models whose patches ask for a flash library by name (A19 enums.py, attn_uses_flash_lib).
_PATCHED: Final = ("mistral3", "llava", "qwen3_5")


def _key(facts: Facts) -> str:
    return "attn_implementation" if facts.implementation else next(iter(facts.booleans), "")


def _shape(facts: Facts) -> str:
    model = facts.model
    if model is None or model.head_dim is None:
        return "the model's head dim"
    same = model.value_dim in {None, model.head_dim}
    return f"head_dim {model.head_dim}" if same else f"head_dim {model.head_dim} with {model.value_dim} for v"


@rules.add(
    "F01", "refuse", "A16 monkeypatch/attention/flash_attn_4.py:36; T55 modeling_flash_attention_utils.py:248", OLD
)
def broken_takeover(facts: Facts, run: Run) -> Hit | None:
    if not run.takeover or facts.on("xformers_attention"):
        return None
    why = (
        "flash_attention: true lets Axolotl 0.16.1 put FlashAttention 4 in FlashAttention's place on this GPU, by a "
        "function that returns 4 values where transformers 5.5.0 takes 5: the model does not load."
    )
    return Hit(key="flash_attention", why=why)


@rules.add("F02", "note", "A16 monkeypatch/attention/flash_attn_4.py:36", OLD)
def no_takeover(facts: Facts, run: Run) -> Hit | None:
    if not facts.on("flash_attention") or run.takeover is not False or not facts.has("flash-attn-4"):
        return None
    if facts.major is None or run.name not in FLASH:
        return None
    return Hit(key="flash_attention", why=f"FlashAttention 4 is in this image; here {run.kernel} runs all the same.")


@rules.add("F03", "note", "A19 loaders/model.py:857; monkeypatch/attention/flash_attn_4.py:119", NAMED)
def fa2_becomes_fa4(facts: Facts, run: Run) -> Hit | None:
    if not run.upgraded or run.name != "flash_attention_2":
        return None
    why = f"Axolotl {facts.axolotl} runs FlashAttention 4 for flash_attention_2 where it can, and here it can."
    return Hit(key=_key(facts), why=why, instead="an image without flash-attn-4, to train with FlashAttention 2")


@rules.add("F04", "note", "A19 monkeypatch/attention/flash_attn_4.py:74-107, 119", NEW)
def fa4_left_out(facts: Facts, run: Run) -> Hit | None:
    if run.name not in _UPGRADED or not _would_hang(facts) or not dims_fit_fa4(facts):
        return None
    why = f"Axolotl takes this FlashAttention 4's backward for one that hangs on Blackwell, so {run.name} runs."
    return Hit(key=_key(facts), why=why, instead="")


def _would_hang(facts: Facts) -> bool:
    return facts.major in {10, 11} and facts.has("flash-attn-4") and bool(fa4_hangs(facts))


@rules.add("F05", "warn", "A19 monkeypatch/attention/flash_attn_4.py:106", NEW, Stage.TRAINS)
def fa4_may_hang(facts: Facts, run: Run) -> Hit | None:
    if run.name != "flash_attention_4" or not _would_hang(facts):
        return None
    why = "Axolotl warns that this FlashAttention 4's backward hangs on Blackwell with CuTe DSL 4.6 and later."
    return Hit(key=_key(facts), why=why)


@rules.add("F06", "refuse", "flash-attn-4 4.0.0b36 flash_attn/cute/interface.py:2288", stage=Stage.TRAINS)
def fa4_on_ampere(facts: Facts, run: Run) -> Hit | None:
    if run.name != "flash_attention_4" or facts.major != 8:
        return None
    why = f"FlashAttention 4 has no backward for compute capability {facts.capability}: the first step stops."
    return Hit(key=_key(facts), why=why)


@rules.add("F07", "warn", "flash-attn-4 4.0.0b36 flash_attn/cute/interface.py:845, 2288", stage=Stage.TRAINS)
def fa4_on_consumer_blackwell(facts: Facts, run: Run) -> Hit | None:
    if run.name != "flash_attention_4" or facts.major != 12:
        return None
    why = "On compute capability 12 FlashAttention 4's backward knows no softcap, and no image was checked with it."
    return Hit(key=_key(facts), why=why)


@rules.add("F08", "refuse", "flash-attn-4 4.0.0b36 flash_attn/cute/interface.py:121")
def fa4_head_dims(facts: Facts, run: Run) -> Hit | None:
    if run.name != "flash_attention_4" or facts.major is None or facts.model is None or _padded_value(facts):
        return None
    width = facts.model.head_dim
    if width is None or fits_fa4(width, width, facts.major):
        return None
    return Hit(
        key=_key(facts), why=f"FlashAttention 4 refuses {_shape(facts)} on compute capability {facts.capability}."
    )


def _padded_value(facts: Facts) -> bool:
    model = facts.model
    return bool(model and model.head_dim and model.value_dim and model.value_dim != model.head_dim)


@rules.add(
    "F09", "refuse", "T516 integrations/flash_attention.py:60; T55 models/deepseek_v3/modeling_deepseek_v3.py:456"
)
def fa4_pads_values(facts: Facts, run: Run) -> Hit | None:
    if run.kernel != "flash_attention_4" or facts.major not in {10, 11} or not _padded_value(facts):
        return None
    model = facts.model
    if model is None or model.head_dim is None or fits_fa4(model.head_dim, model.head_dim, facts.major):
        return None
    why = f"transformers pads v to q's width, and FlashAttention 4 refuses {model.head_dim} for both on Blackwell."
    return Hit(key=_key(facts), why=why)


@rules.add("F10", "refuse", "A19 monkeypatch/attention/flash_attn_4.py:119 (_get_head_dims sees 256)", NAMED)
def gemma4_full_layers(facts: Facts, run: Run) -> Hit | None:
    if not run.upgraded or not _gemma4(facts) or facts.on("gemma4_hybrid_attn_impl"):
        return None
    why = "Gemma 4's full layers are 512 wide, which FlashAttention 4 refuses where Axolotl has put it."
    return Hit(key=_key(facts), why=why, instead="gemma4_hybrid_attn_impl: true")


def _gemma4(facts: Facts) -> bool:
    return facts.model is not None and facts.model.type in {"gemma4", "gemma4_text"}


@rules.add("F11", "warn", "A19 utils/schemas/enums.py:159 (ATTN_IMPLS_USING_FLASH_LIB)", NAMED)
def fa4_without_patches(facts: Facts, run: Run) -> Hit | None:
    kind = facts.model.type if facts.model else ""
    if facts.implementation != "flash_attention_4" or not kind.startswith(_PATCHED):
        return None
    why = f"Axolotl's patches of {kind} for FlashAttention are left out when flash_attention_4 is named."
    return Hit(
        key="attn_implementation", why=why, instead="attn_implementation: flash_attention_2 (FlashAttention 4 runs)"
    )


@rules.add("F12", "refuse", "T55 utils/import_utils.py:947, T516 :1172 (no capability is asked)")
def fa3_elsewhere(facts: Facts, run: Run) -> Hit | None:
    if run.kernel != "flash_attention_3" or facts.capability in {None, "9.0"}:
        return None
    why = f"FlashAttention 3 is for Hopper alone, and this GPU has {facts.capability}: its kernel does not start."
    return Hit(key=_key(facts), why=why)


@rules.add("F13", "note", "A19 loaders/model.py:857", NAMED)
def fa3_becomes_fa4(facts: Facts, run: Run) -> Hit | None:
    if not run.upgraded or run.name != "flash_attention_3":
        return None
    why = f"Axolotl {facts.axolotl} runs FlashAttention 4 for flash_attention_3 where it can, and here it can."
    return Hit(key=_key(facts), why=why, instead="the fa3 image, to train with FlashAttention 3")


@rules.add("F14", "refuse", "flash-attn 2.8.3 csrc/flash_attn/flash_api.cpp (Ampere GPUs or newer)")
def fa2_before_ampere(facts: Facts, run: Run) -> Hit | None:
    if run.kernel != "flash_attention_2" or facts.major is None or facts.major >= 8:
        return None
    why = f"FlashAttention 2 starts at compute capability 8.0, and this GPU has {facts.capability}."
    return Hit(key=_key(facts), why=why)


@rules.add("F15", "refuse", "flash-attn 2.8.3 csrc/flash_attn/flash_api.cpp, hopper/flash_api.cpp (head dims)")
def head_dim_of_flash(facts: Facts, run: Run) -> Hit | None:
    """FlashAttention 2's Python side pads to a multiple of 8 (flash_attn_interface.py); 3's does not."""
    width = facts.model.head_dim if facts.model else None
    if run.kernel not in _UPGRADED or width is None:
        return None
    if width <= 256 and (width % 8 == 0 or run.kernel == "flash_attention_2"):
        return None
    limit = "head dims up to 256" if width > 256 else "multiples of 8"
    return Hit(key=_key(facts), why=f"{run.kernel} takes {limit}; this model has head_dim {width}.")


@rules.add("F16", "refuse", "A16 and A19 utils/config/__init__.py (resolve_dtype)", stage=Stage.BATCHES)
def flash_in_fp32(facts: Facts, run: Run) -> Hit | None:
    if run.kernel not in {*FLASH, "sage"} or facts.dtype != "fp32":
        return None
    why = f"Neither bf16 nor fp16 is on, so the model is in float32, and {run.kernel} takes 16-bit numbers only."
    # What bitsandbytes computes in with 4-bit weights has not been looked up.
    return Hit(key="bf16", why=why, instead="bf16: auto", level="warn" if facts.on("load_in_4bit") else None)


@rules.add("F17", "note", "A16 monkeypatch/attention/flash_attn_4.py:36 (the import fails)", OLD)
def rocm_stays(facts: Facts, run: Run) -> Hit | None:
    if not facts.on("flash_attention") or not facts.on_amd or run.kernel != "flash_attention_2":
        return None
    return Hit(key="flash_attention", why="FlashAttention 2 runs: FlashAttention 4 has no build for AMD.")


@rules.add(
    "F18", "warn", "T516 modeling_flash_attention_utils.py (_process_flash_attention_kwargs)", stage=Stage.TRAINS
)
def flash_drops_dropout(facts: Facts, run: Run) -> Hit | None:
    dropout = facts.model.dropout if facts.model else 0.0
    if run.kernel not in {"flash_attention_3", "flash_attention_4"} or not dropout:
        return None
    why = f"The model has attention_dropout {dropout:g}, which {run.kernel} leaves out."
    return Hit(key="model_config", why=why, instead="model_config: {attention_dropout: 0.0}, or FlashAttention 2")


@rules.add("F19", "note", "A16 loaders/patch_manager.py:248", OLD)
def named_fa2_stays(facts: Facts, run: Run) -> Hit | None:
    if facts.implementation != "flash_attention_2" or flash_flag(facts) or not facts.has("flash-attn-4"):
        return None
    return Hit(key="attn_implementation", why="FlashAttention 2 runs: named, Axolotl 0.16.1 does not replace it by 4.")
