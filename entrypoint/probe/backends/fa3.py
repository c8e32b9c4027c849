"""FlashAttention 3 (the distribution flash_attn_3, module flash_attn_interface), from FlashAttention's hopper/."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from entrypoint.probe.backends import Backend, Capabilities, Feature, flash, hardware

if TYPE_CHECKING:
    import torch

# Such as void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<...>>>.
KERNELS = (r"\bflash::FlashAttn(Fwd|Bwd)",)

SOURCE = "flash-attention hopper/{flash_api.cpp, flash_attn_interface.py, setup.py}, v2.8.3 and 0251105a"
HEAD_DIMS = ((64, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256))
# What a build may leave out, and what it then cannot do.
OPTIONAL: Mapping[str, Feature] = {"LOCAL": "window", "SOFTCAP": "softcap", "VARLEN": "varlen"}
# A build of v2.8.3 does not say what it left out, so only what no one leaves out is claimed of it.
SMALLEST_BUILD: Mapping[str, bool] = {
    f"FLASHATTENTION_DISABLE_{part}": True for part in ("FP16", "SOFTCAP", "HDIM96", "HDIM192", "HDIM256")
}


def load(where: torch.device) -> Backend:
    """Raises ImportError, UnsupportedChip."""
    chip = hardware.chip_of(where)
    package = importlib.import_module("flash_attn_interface")
    claims = hardware.claims_on("fa3", chip, capabilities(chip, build_flags()), ("compute capability 9.0",))
    # v2.8.3 gives no logsumexp.
    gives_logsumexp = "return_attn_probs" in inspect.signature(package.flash_attn_func).parameters
    logsumexp = flash.adapt_logsumexp(package, flash.common_options, return_attn_probs=True)
    repeatable = flash.adapt(package, flash.common_options, deterministic=True)
    deterministic = flash.deterministic("fa3", repeatable, claims, widest=192)
    return Backend(
        name="fa3",
        attention=flash.adapt(package, flash.common_options),
        capabilities=replace(claims, features=claims.features | {"logsumexp"}) if gives_logsumexp else claims,
        logsumexp=logsumexp if gives_logsumexp else None,
        kernels={"deterministic": deterministic},
    )


def build_flags() -> Mapping[str, bool]:
    """What this build left out: newer ones carry it in a module of their own."""
    try:
        config: Any = importlib.import_module("flash_attn_config")
    except ImportError:
        return SMALLEST_BUILD
    flags: Mapping[str, bool] = config.CONFIG["build_flags"]
    return flags


def capabilities(chip: hardware.Chip, flags: Mapping[str, bool]) -> Capabilities | None:
    """Hopper, less what the build left out."""
    if chip != (9, 0):
        return None

    def built(part: str) -> bool:
        return not flags.get(f"FLASHATTENTION_DISABLE_{part}", False)

    features: list[Feature] = ["gqa", "strided", *(feature for part, feature in OPTIONAL.items() if built(part))]
    return Capabilities(
        dtypes=("bfloat16", "float16") if built("FP16") else ("bfloat16",),
        head_dims=tuple(pair for pair in HEAD_DIMS if built(f"HDIM{pair[0]}")),
        features=frozenset(features),
        source=SOURCE,
        proved=("H200", "fake"),
    )
