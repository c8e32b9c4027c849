"""FlashAttention 2 (the distribution flash-attn, 2.8.3): CUDA kernels, and on AMD composable_kernel's or Triton's."""

from __future__ import annotations

import importlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from entrypoint.probe.backends import Backend, Capabilities, flash, hardware

if TYPE_CHECKING:
    import torch

# CUDA; torch's own copy is in the namespace pytorch_flash. AMD: composable_kernel, and the Triton variant's functions.
KERNELS = (r"\bflash::flash_(fwd|bwd)", r"ck_tile::\w*Fmha(Fwd|Bwd)", r"^attn_fwd", r"^_?bwd_kernel_")

SOURCE = "flash-attn 2.8.3: csrc/flash_attn/flash_api.cpp, README.md, flash_attn/flash_attn_interface.py"
AMD_SOURCE = (
    "flash-attn 2.8.3: README.md, setup.py (gfx90a, gfx942, gfx950), csrc/flash_attn_ck/mha_{fwd,bwd}.cpp. "
    "FLASH_ATTENTION_TRITON_AMD_ENABLE=TRUE picks the Triton variant, which has no sliding window yet"
)


def load(where: torch.device) -> Backend:
    """Raises ImportError, UnsupportedChip."""
    chip = hardware.chip_of(where)
    serves = ("compute capability 8.0 on", *sorted(hardware.AMD if on_triton() else hardware.CDNA))
    claims = hardware.claims_on("fa2", chip, capabilities(chip, triton=on_triton()), serves)
    package = importlib.import_module("flash_attn.flash_attn_interface")
    repeatable = flash.adapt(package, flash.common_options, deterministic=True)
    deterministic = flash.deterministic("fa2", repeatable, claims, widest=256)
    return Backend(
        name="fa2",
        attention=flash.adapt(package, flash.common_options),
        capabilities=claims,
        logsumexp=flash.adapt_logsumexp(package, flash.common_options, return_attn_probs=True),
        kernels={"deterministic": deterministic} if isinstance(chip, tuple) else {},
    )


def on_triton() -> bool:
    """Whether flash-attn takes its Triton kernels on an AMD GPU, as its own variable says."""
    return os.environ.get("FLASH_ATTENTION_TRITON_AMD_ENABLE", "").upper() == "TRUE"


def capabilities(chip: hardware.Chip, *, triton: bool = False) -> Capabilities | None:
    """v has the head_dim of q and k. On AMD, softcap is not an argument of the kernels and would be ignored."""
    claims = Capabilities(
        dtypes=hardware.HALVES,
        head_dims=hardware.same(64, 96, 128, 192, 256),
        features=frozenset(("window", "softcap", "varlen", "gqa", "logsumexp", "strided")),
        source=SOURCE,
        proved=("H200", "fake"),
    )
    if hardware.at_least(chip, (8, 0)):
        return claims
    if triton and chip in hardware.AMD:
        features = claims.features - {"softcap", "window"}
        return replace(claims, head_dims=hardware.same(64, 128), features=features, source=AMD_SOURCE, proved=("fake",))
    if chip in hardware.CDNA:
        features = claims.features - {"softcap"}
        return replace(claims, features=features, source=AMD_SOURCE, proved=("fake",))
    return None
