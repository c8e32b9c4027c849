"""The GPUs themselves, and builds that do not fit what is installed."""

from __future__ import annotations

from entrypoint.light import TYPE_CHECKING
from entrypoint.preflight.facts import OLD, Facts, Stage
from entrypoint.preflight.kernel import PACKAGES, Run, flash_flag
from entrypoint.preflight.rule import Hit, Rules
from entrypoint.preflight.software import numbers

if TYPE_CHECKING:
    from typing import Final

rules: Final = Rules()

# Compiled against one torch: its C++ symbols change with every minor version.
COMPILED: Final = ("flash-attn", "flash-attn-3", "sageattention")


@rules.add("G01", "warn", "A16 and A19 cli/config.py (get_device_properties of GPU 0)")
def unlike_gpus(facts: Facts, run: Run) -> Hit | None:
    kinds = sorted(set(facts.capabilities))
    if len(kinds) < 2:
        return None
    why = f"GPUs of several capabilities are in reach ({', '.join(kinds)}), and Axolotl looks at GPU 0 alone."
    return Hit(why=why, instead="GPUs of one kind (CUDA_VISIBLE_DEVICES)")


@rules.add("G02", "refuse", "https://github.com/triton-lang/triton#compatibility", stage=Stage.BATCHES)
def flex_before_ampere(facts: Facts, run: Run) -> Hit | None:
    if run.kernel != "flex_attention" or not facts.numbers or facts.numbers >= (8, 0):
        return None
    key = run.asked.split(":", 1)[0]
    why = f"FlexAttention is a Triton kernel, and Triton starts at capability 8.0; this GPU has {facts.capability}."
    return Hit(key=key, why=why)


@rules.add("G03", "warn", "torch/cuda/__init__.py (is_bf16_supported, including_emulation)", stage=Stage.BATCHES)
def emulated_bf16(facts: Facts, run: Run) -> Hit | None:
    if facts.dtype != "bf16" or not facts.numbers or facts.numbers >= (8, 0):
        return None
    why = f"bf16: auto becomes bf16 here, which compute capability {facts.capability} only emulates: slow."
    return Hit(key="bf16", why=why, instead="bf16: false and fp16: true")


@rules.add("G04", "note", "A16 attention/flash_attn_4.py:36, utils/schemas/config.py:1439 (major of an AMD GPU)", OLD)
def misread_amd(facts: Facts, run: Run) -> Hit | None:
    if not facts.on_amd or not (flash_flag(facts) or facts.on("sage_attention")):
        return None
    return Hit(why="Axolotl's checks of FlashAttention 4 and Sage read an AMD GPU's number as NVIDIA's.", instead="")


@rules.add("G05", "refuse", "PyTorch's C++ interface holds for one minor version: undefined symbol at import")
def other_torch(facts: Facts, run: Run) -> Hit | None:
    package = PACKAGES.get(run.kernel or "", "")
    built, found = facts.spec.packages.get("torch", ""), facts.packages.get("torch", "")
    if package not in COMPILED or not facts.has(package) or not built or not found:
        return None
    if numbers(built)[:2] == numbers(found)[:2]:
        return None
    why = f"{package} was compiled for torch {built}, and torch {found} is installed: undefined symbol at its import."
    return Hit(why=why, instead=f"the image as it is, or torch {built}")
