"""8-bit attention, and options that ask for an attention or exclude one."""

from __future__ import annotations

from entrypoint.light import TYPE_CHECKING
from entrypoint.preflight.facts import NAMED, NEW, Facts, Stage
from entrypoint.preflight.kernel import Run
from entrypoint.preflight.rule import Hit, Rules
from entrypoint.preflight.software import at_least

if TYPE_CHECKING:
    from typing import Final

rules: Final = Rules()


@rules.add(
    "E01",
    "refuse",
    "A19 loaders/patch_manager.py:401; torchao 0.17 prototype/attention/__init__.py",
    NAMED,
    Stage.TRAINS,
)
def fp8_is_plain_sdpa(facts: Facts, run: Run) -> Hit | None:
    if facts.implementation != "fp8":
        return None
    why = "Axolotl throws torchao's 8-bit attention away, so plain sdpa trains; torchao's has no backward."
    return Hit(key="attn_implementation", why=why)


@rules.add("E02", "refuse", "A19 utils/schemas/config.py:1900; torchao 0.17 prototype/attention", NAMED, Stage.READS)
def fp8_elsewhere(facts: Facts, run: Run) -> Hit | None:
    """The first two at validation; what torchao refuses, when the model is loaded."""
    if facts.implementation != "fp8":
        return None
    if not at_least(facts.packages, "torch", 2, 11):
        why = "Axolotl's 8-bit attention needs torch 2.11."
    elif facts.numbers and facts.numbers < (9, 0):
        why = f"Axolotl's 8-bit attention needs compute capability 9.0, and this GPU has {facts.capability}."
    elif facts.stage is Stage.READS:
        return None
    elif not facts.has("flash-attn-3"):
        why = "torchao's 8-bit attention needs FlashAttention 3, which is not in this image."
    elif facts.capability not in {None, "9.0"}:
        why = f"torchao's 8-bit attention is for Hopper alone, and this GPU has {facts.capability}."
    else:
        return None
    return Hit(key="attn_implementation", why=why)


@rules.add("E03", "refuse", "A16 and A19 utils/schemas/config.py (check_fp8)", stage=Stage.READS)
def fp8_training(facts: Facts, run: Run) -> Hit | None:
    known = facts.on_cpu or facts.capability is not None
    if not facts.on("fp8") or not known or facts.numbers >= (9, 0):
        return None
    where = f"this GPU has {facts.capability}" if facts.capability else "there is no GPU"
    why = f"fp8: true needs compute capability 9.0 or higher, and {where}: Axolotl stops."
    return Hit(key="fp8", why=why, instead="fp8: false")


@rules.add(
    "E04",
    "refuse",
    "A16 utils/schemas/validation.py:208, A19 :205 (check_scaling_softmax_requires_flex)",
    stage=Stage.READS,
)
def scaling_softmax(facts: Facts, run: Run) -> Hit | None:
    flex = run.name == "flex_attention" if facts.axolotl in NAMED else facts.on("flex_attention")
    if not facts.on("scaling_softmax") or flex:
        return None
    write = "attn_implementation: flex_attention" if facts.axolotl in NAMED else "flex_attention: true"
    return Hit(key="scaling_softmax", why="scaling_softmax needs FlexAttention, and Axolotl stops.", instead=write)


@rules.add("E05", "refuse", "A16 and A19 utils/schemas/validation.py (check_better_transformers)", stage=Stage.READS)
def flash_optimum(facts: Facts, run: Run) -> Hit | None:
    sixteen = facts.config.values.get("bf16", "auto") or facts.on("fp16")
    if not facts.on("flash_optimum") or not sixteen:
        return None
    why = "flash_optimum goes with neither bf16 nor fp16, and bf16: auto counts: Axolotl stops."
    return Hit(key="flash_optimum", why=why, instead="flash_optimum: false")


@rules.add("E06", "refuse", "A16 and A19 utils/schemas/validation.py (check_fused_lora)", stage=Stage.READS)
def fused_mlp(facts: Facts, run: Run) -> Hit | None:
    if not facts.on("flash_attn_fuse_mlp") or facts.get("adapter") not in {"lora", "qlora"}:
        return None
    why = "flash_attn_fuse_mlp does not go with an adapter, and Axolotl stops."
    return Hit(key="flash_attn_fuse_mlp", why=why, instead="flash_attn_fuse_mlp: false")


@rules.add("E07", "warn", "A19 monkeypatch/selective_checkpointing (FA4's kernels are no torch ops)", NEW, Stage.TRAINS)
def nothing_saved(facts: Facts, run: Run) -> Hit | None:
    if not facts.on("selective_checkpointing") or run.kernel != "flash_attention_4":
        return None
    why = "selective_checkpointing saves what torch's operators gave, and FlashAttention 4's kernels are none."
    return Hit(key="selective_checkpointing", why=why, instead="selective_checkpointing: false, or FlashAttention 2")
