"""FlashAttention 4 (the distribution flash-attn-4, module flash_attn.cute), compiled on first use by CuTe DSL."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from entrypoint.probe.backends import Arguments, Attention, Backend, Capabilities, flash, hardware, tensors
from entrypoint.probe.fa4 import ownership

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# CuTe DSL names a kernel after its module and class, such as
# kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90FlashAttentionForwardSm90_object_at__...
KERNELS = (r"flash_attn_?cute", r"FlashAttention(Forward|Backward)")

CACHE = "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR"

DISTRIBUTION = "flash-attn-4"
SOURCE = (
    "flash-attn-4 4.0.0b36: flash_attn/cute/interface.py (_validate_head_dims, _flash_attn_bwd); tests/cute skips "
    "(0251105a): no backward above head_dim 192 on sm_90"
)


def load(where: torch.device) -> Backend:
    """Raises ImportError, also where FlashAttention 2's stub of flash_attn.cute is found in place of FA4."""
    chip = hardware.chip_of(where)
    claims = hardware.claims_on("fa4", chip, capabilities(chip), ("compute capability 9.0 on",))
    if problems := ownership.problems("flash_attn.cute", DISTRIBUTION):
        raise ImportError(f"flash_attn.cute is not as {DISTRIBUTION} installed it: {'; '.join(problems[:3])}")
    package = importlib.import_module("flash_attn.cute")
    # Its tests leave head_dim 256 out of this mode.
    deterministic = flash.deterministic("fa4", adapt(package, deterministic=True), claims, widest=192)
    return Backend(
        name="fa4",
        attention=adapt(package),
        capabilities=claims,
        logsumexp=flash.adapt_logsumexp(package, options, return_lse=True),
        kernels={"deterministic": deterministic} if not hardware.at_least(chip, (12, 0)) else {},
    )


def capabilities(chip: hardware.Chip) -> Capabilities | None:
    """Forward and backward together: Ampere and Ada have no backward. sm_12x checks no range; kept to what fits it."""
    if not isinstance(chip, tuple):
        return None
    head_dims = {
        9: (*hardware.same(64, 96, 128), (192, 128)),
        10: (*hardware.same(64, 96, 128), (192, 128), (256, 256)),
        11: (*hardware.same(64, 96, 128), (192, 128), (256, 256)),
        12: hardware.same(64, 128),
    }.get(chip[0])
    if head_dims is None:
        return None
    return Capabilities(
        dtypes=hardware.HALVES,
        head_dims=head_dims,
        # softcap becomes a score_mod, whose backward sm_12x refuses: not claimed there until it has run.
        features=frozenset(
            ("window", "varlen", "gqa", "logsumexp", "strided", *(("softcap",) if chip[0] < 12 else ()))
        ),
        source=SOURCE,
        proved=("H200", "fake") if chip[0] == 9 else ("fake",),
    )


def adapt(package: Any, **fixed: object) -> Attention:
    """4.0.0b36 always returns (out, logsumexp), the latter None unless it was computed."""
    attend = flash.adapt(package, options, **fixed)

    def attention(arguments: Arguments) -> Tensor:
        return attend(expanded(arguments))

    return attention


def options(arguments: Arguments) -> dict[str, Any]:
    """No bound is None: one negative side beside a bound counts as a bound there."""
    left, right = arguments.window or (-1, -1)
    window_size = (None if left < 0 else left, None if right < 0 else right)
    return {**flash.common_options(arguments), "window_size": window_size}


def expanded(arguments: Arguments) -> Arguments:
    """The sm_90 backward wants equal head dims of k and v where heads are grouped; else kv heads are repeated."""
    heads = arguments.q.shape[2]
    if arguments.k.shape[-1] == arguments.v.shape[-1]:
        return arguments
    return replace(arguments, k=tensors.expand_kv(arguments.k, heads), v=tensors.expand_kv(arguments.v, heads))
