"""xFormers' memory_efficient_attention with xFormers' own choice of operator."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from entrypoint.probe.backends import Arguments, Attention, Backend, Capabilities, hardware, tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# xFormers 0.0.35 launches torch's own kernels (ops/fmha/flash.py and cutlass.py), those of an installed FlashAttention
# 2, or FlashAttention 3's.
KERNELS = (r"fmha_cutlass[FB]", r"pytorch_flash::", r"\bflash::flash_(fwd|bwd)", r"FlashAttn(Fwd|Bwd)Sm90")

SOURCE = "xformers 0.0.35: xformers/ops/fmha/{dispatch,flash,cutlass,attn_bias}.py"


def load(where: torch.device) -> Backend:
    """Raises ImportError, also where FA4 is installed without FA2 (xFormers asks it for flash_attn_interface)."""
    chip = hardware.chip_of(where)
    claims = hardware.claims_on("xformers", chip, capabilities(chip), ("compute capability 7.5 on",))
    ops = importlib.import_module("xformers.ops")
    return Backend(name="xformers", attention=adapt(ops), capabilities=claims, logsumexp=adapt_logsumexp(ops))


def capabilities(chip: hardware.Chip) -> Capabilities | None:
    """FlashAttention 2 from Ampere on; CUTLASS up to Hopper, for head dims that differ.

    CUTLASS has no window backward, and gives the logsumexp of packed documents document by document.
    """
    if not hardware.at_least(chip, (7, 5)):
        return None
    flash = Capabilities(
        dtypes=hardware.halves(chip),
        head_dims=hardware.same(64, 96, 128, 256),
        features=frozenset(("window", "varlen", "gqa", "logsumexp", "strided")),
        source=SOURCE,
        proved=("fake",),
    )
    if not hardware.at_least(chip, (8, 0)):
        return replace(flash, head_dims=hardware.same(64, 96, 128), features=flash.features - {"window", "logsumexp"})
    if hardware.at_least(chip, (9, 1)):
        return flash
    return replace(flash, head_dims=(*flash.head_dims, (192, 128)))


def adapt(ops: Any) -> Attention:
    """memory_efficient_attention takes and gives our layout, [batch, seqlen, heads, head_dim]."""

    def attention(arguments: Arguments) -> Tensor:
        out: Tensor = ops.memory_efficient_attention(*inputs(arguments), **options(ops, arguments))
        return out

    return attention


def adapt_logsumexp(ops: Any) -> Attention:
    """(out, logsumexp) of the forward alone; some operators pad the sequence of the latter."""

    def logsumexp(arguments: Arguments) -> Tensor:
        forward = ops.memory_efficient_attention_forward_requires_grad
        lse: Tensor = forward(*inputs(arguments), **options(ops, arguments))[1]
        return lse[..., : arguments.q.shape[1]]

    return logsumexp


def inputs(arguments: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v with a kv head for each query head.

    xFormers' five-dimensional grouped layout has no backward (its docstring, and SUPPORTS_BMGHK of the backward
    operators in 0.0.35), so kv heads are expanded, as Axolotl does, and autograd sums their gradients over each group.
    """
    heads = arguments.q.shape[2]
    return (arguments.q, tensors.expand_kv(arguments.k, heads), tensors.expand_kv(arguments.v, heads))


def options(ops: Any, arguments: Arguments) -> dict[str, Any]:
    """memory_efficient_attention's keyword arguments for this call."""
    tensors.refuse_others("xFormers", arguments, "window", "varlen")
    return {"attn_bias": bias(ops.fmha.attn_bias, arguments), "scale": arguments.softmax_scale}


def bias(kinds: Any, arguments: Arguments) -> Any:
    """The mask as one of the classes in xformers.ops.fmha.attn_bias; None for a full call."""
    if arguments.cu_seqlens is not None:
        return packed_bias(kinds, arguments)
    left, right = arguments.window or (-1, -1)
    if (left, right) == (-1, -1):
        # Aligned with the last key, as every other backend's mask is; the same where queries and keys are as many.
        return kinds.LowerTriangularFromBottomRightMask() if arguments.causal else None
    keys = arguments.k.shape[1]
    if not arguments.causal:
        return kinds.LocalAttentionFromBottomRightMask(
            window_left=keys if left < 0 else left, window_right=keys if right < 0 else right
        )
    if left < 0:
        return kinds.LowerTriangularFromBottomRightMask()
    # Its window counts the key itself.
    return kinds.LowerTriangularFromBottomRightLocalAttentionMask(left + 1)


def packed_bias(kinds: Any, arguments: Arguments) -> Any:
    """Documents in a row. Raises NotImplementedError for a window that xFormers has no packed mask for."""
    documents = kinds.BlockDiagonalMask.from_seqlens(
        tensors.seqlens(arguments.cu_seqlens or ()), device=arguments.q.device
    )
    left, right = arguments.window or (-1, -1)
    if not arguments.causal:
        if (left, right) != (-1, -1):
            raise NotImplementedError("xFormers has no packed mask with a window that is not causal")
        return documents
    return documents.make_causal() if left < 0 else documents.make_local_attention(left + 1)
