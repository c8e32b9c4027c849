"""What an image holds, against what the configuration needs; and what would be fetched from a hub in its place."""

from __future__ import annotations

from entrypoint.light import TYPE_CHECKING
from entrypoint.preflight.facts import FLASH, OLD, Facts, Stage
from entrypoint.preflight.kernel import PACKAGES, Run
from entrypoint.preflight.rule import Hit, Rules

if TYPE_CHECKING:
    from typing import Final

rules: Final = Rules()

# 0.16.1 imports flash_attn for these at load, whatever kernel is named (A16 loaders/patch_manager.py:650).
LIKE_LLAMA: Final = frozenset({"llama", "llama4", "ernie4_5", "ernie4_5_moe"})


def _key(facts: Facts, run: Run) -> str:
    return run.asked.split(":", 1)[0] if run.asked != "nothing" else ""


def _missing(facts: Facts, run: Run) -> str | None:
    """The distribution of the flash attention that is asked for, when the image does not hold it."""
    package = PACKAGES.get(run.name) if run.name in FLASH else None
    if package is None or facts.on_cpu or facts.has(package) or run.upgraded or stands_in(facts):
        return None
    return package


def stands_in(facts: Facts) -> bool:
    """Whether 0.16.1 puts another kernel in FlashAttention 2's place."""
    if facts.axolotl not in OLD or facts.implementation:
        return False
    return facts.on("sage_attention") or (facts.on("xformers_attention") and facts.pack)


@rules.add("I01", "refuse", "T55 and T516 integrations/hub_kernels.py (get_kernel)")
def hub_path(facts: Facts, run: Run) -> Hit | None:
    if "/" not in run.name:
        return None
    return Hit(key=_key(facts, run), why=f"{run.name} is downloaded from the hub, and nothing here has checked it.")


@rules.add("I02", "refuse", "T55 modeling_utils.py:1766, T516 :1798 (FLASH_ATTN_KERNEL_FALLBACK)")
def package_missing(facts: Facts, run: Run) -> Hit | None:
    package = _missing(facts, run)
    if package is None:
        return None
    why = f"{run.name} needs {package}, which this image does not hold; transformers would fetch a kernel of the hub."
    return Hit(key=_key(facts, run), why=why)


@rules.add("I03", "refuse", "A16 and A19 monkeypatch/attention/xformers.py (its import)")
def no_xformers(facts: Facts, run: Run) -> Hit | None:
    asked = facts.on("xformers_attention") or run.name == "xformers"
    if not asked or facts.on_cpu or facts.has("xformers"):
        return None
    return Hit(key=_key(facts, run), why="This image does not hold xformers, and Axolotl's import of it fails.")


@rules.add("I04", "refuse", "A16 and A19 monkeypatch/attention/sage_attn.py (its import)")
def no_sage(facts: Facts, run: Run) -> Hit | None:
    asked = facts.on("sage_attention") or run.name == "sage"
    if not asked or facts.on_cpu or facts.has("sageattention"):
        return None
    return Hit(
        key=_key(facts, run), why="This image does not hold sageattention, and Axolotl stops: it is not installed."
    )


@rules.add("I05", "refuse", "A16 loaders/model.py:625, loaders/patch_manager.py:168", OLD)
def in_place_of_fa2(facts: Facts, run: Run) -> Hit | None:
    if not stands_in(facts) or facts.on_cpu or facts.has("flash-attn"):
        return None
    why = "Axolotl 0.16.1 puts Sage and xformers in FlashAttention 2's place, and flash-attn is not in this image."
    return Hit(key=_key(facts, run), why=why)


@rules.add("I06", "refuse", "A16 loaders/patch_manager.py:650, 666; monkeypatch/llama_attn_hijack_flash.py", OLD)
def llama_imports_flash(facts: Facts, run: Run) -> Hit | None:
    if not facts.on("flash_attention") or facts.on_cpu or facts.has("flash-attn"):
        return None
    kind = facts.model.type if facts.model else ""
    imports = kind in LIKE_LLAMA or (not facts.pack and facts.like_llama)
    if run.name != "flash_attention_2" and not imports:
        return None
    how = "a patch for Llama imports it" if imports else "flash_attention: true asks for it"
    why = f"flash-attn, FlashAttention 2, is not in this image, and {how}."
    return Hit(key="flash_attention", why=why)


@rules.add("I07", "note", "T55 integrations/hub_kernels.py:59-83, T516 :61-129, 739")
def hub_is_open(facts: Facts, run: Run) -> Hit | None:
    offline = facts.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}
    if offline or _missing(facts, run) is None:
        return None
    why = "USE_HUB_KERNELS=0 does not keep transformers from fetching attention from the hub."
    return Hit(why=why, instead="HF_HUB_OFFLINE=1 in the environment, once the model is in the cache")


@rules.add("I08", "refuse", "A16 utils/schemas/validation.py:1408, A19 :1785", stage=Stage.READS)
def ring_attention(facts: Facts, run: Run) -> Hit | None:
    size = facts.get("context_parallel_size") or facts.get("sequence_parallel_degree")
    if not isinstance(size, int) or size <= 1 or facts.has("ring-flash-attn"):
        return None
    if facts.on("use_glm_dsa_kernels"):
        return None
    why = f"context_parallel_size: {size} needs ring-flash-attn, which is not in this image."
    return Hit(key="context_parallel_size", why=why, instead="context_parallel_size: 1")


@rules.add("I09", "refuse", "docker/locks: no lock holds deepspeed", stage=Stage.TRAINS)
def no_deepspeed(facts: Facts, run: Run) -> Hit | None:
    if not facts.on("deepspeed") or facts.has("deepspeed"):
        return None
    why = "deepspeed is not in this image, and the trainer's import of it fails."
    return Hit(key="deepspeed", why=why, instead="fsdp_config (fsdp_version: 2)")


@rules.add("I10", "warn", "T55 modeling_utils.py, T516 modeling_utils.py (use_kernels, allow_all_kernels)")
def layers_of_the_hub(facts: Facts, run: Run) -> Hit | None:
    if not facts.on("use_kernels"):
        return None
    why = "use_kernels takes kernels for whole layers from the hub, and nothing here has checked them."
    return Hit(key="use_kernels", why=why, instead="use_kernels: false")


@rules.add("I11", "refuse", "T55 utils/import_utils.py:947, T516 :1172 (torch.cuda.is_available)")
def no_cuda(facts: Facts, run: Run) -> Hit | None:
    asked = {run.name, facts.implementation}
    gpu_only = (
        {*FLASH, "sage", "xformers", "fp8"} & asked or facts.on("sage_attention") or facts.on("xformers_attention")
    )
    if not facts.on_cpu or not gpu_only:
        return None
    return Hit(key=_key(facts, run), why="This image runs on a CPU, and that attention is CUDA kernels only.")


@rules.add("I12", "refuse", "torch 2.13: https://github.com/pytorch/pytorch/pull/169646", stage=Stage.TRAINS)
def flex_on_a_cpu(facts: Facts, run: Run) -> Hit | None:
    if not facts.on_cpu or run.kernel != "flex_attention":
        return None
    return Hit(key=_key(facts, run), why="FlexAttention has no backward on a CPU: torch refuses to train with it.")
