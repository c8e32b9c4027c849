"""SageAttention 1.0.6 (Triton) and 2.2.0 (CUDA): Q and K are quantised to INT8, so its error is its own. Forward only.

It is called as a model calls it. 1.0.6 then writes into the K that it is given (K minus its mean); that is a defect for
the check to find, not for the adapter to hide.
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from entrypoint.probe.backends import Arguments, Attention, Backend, Capabilities, Feature, hardware, tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# 1.0.6's Triton kernel (on some chips 2.2.0's too), and the CUDA kernels of 2.2.0. Not the quantisation before them: a
# build that quantises and then computes nothing is a defect that has been seen.
KERNELS = (r"^_attn_fwd(?!_inner)", r"qk_int8?_sv_f(8|16)_attn_kernel")
# 1.0.6 by Triton, two seconds for each.
COMPILES_EACH_VARIANT = True

NO_GRADIENT = (
    "SageAttention has no backward: its output is cut off from q, k and v "
    "(https://github.com/thu-ml/SageAttention/issues/90)"
)
SOURCE = "sageattention {version}: sageattention/core.py; relative error out 1.2e-2 measured on an H200 with 1.0.6"
# Measured with 1.0.6 against a float64 reference: normal inputs, causal, head_dim 128, bfloat16.
RELATIVE_ERROR = 1.2e-2
CHIPS = {"1.0.6": ((8, 0), (8, 6), (8, 9), (9, 0)), "2.2.0": ((8, 0), (8, 6), (8, 9), (9, 0), (12, 0), (12, 1))}


def load(where: torch.device) -> Backend:
    """Raises ImportError, UnsupportedChip."""
    package = importlib.import_module("sageattention")
    version = generation(package)
    chip = hardware.chip_of(where)
    chips = tuple(f"compute capability {major}.{minor}" for major, minor in CHIPS[version])
    claims = hardware.claims_on(f"sageattention {version}", chip, capabilities(chip, version), chips)
    return Backend(
        name="sage",
        attention=adapt(package),
        no_gradient=NO_GRADIENT,
        capabilities=claims,
        logsumexp=adapt_logsumexp(package) if "logsumexp" in claims.features else None,
    )


def generation(package: Any) -> str:
    """1.0.6 swallows unknown arguments, so it is its signature that tells the two apart."""
    return "2.2.0" if "return_lse" in inspect.signature(package.sageattn).parameters else "1.0.6"


def capabilities(chip: hardware.Chip, version: str) -> Capabilities | None:
    """2.2.0 pads head_dim 96 to 128; packed, 1.0.6 takes 64 and 128 alone."""
    if chip not in CHIPS[version]:
        return None
    features: tuple[Feature, ...] = ("varlen", "gqa", "strided")
    return Capabilities(
        dtypes=hardware.HALVES,
        head_dims=hardware.same(64, 96, 128),
        features=frozenset((*features, "logsumexp") if version == "2.2.0" else features),
        source=SOURCE.format(version=version),
        proved=("H200", "fake") if version == "1.0.6" and chip == (9, 0) else ("fake",),
        relative_error=RELATIVE_ERROR,
    )


def adapt(package: Any) -> Attention:
    """sageattn takes our layout as "NHD"."""

    def attention(arguments: Arguments) -> Tensor:
        tensors.refuse_others("SageAttention", arguments, "varlen")
        if arguments.cu_seqlens is not None:
            return packed(package, arguments)
        out: Tensor = package.sageattn(
            arguments.q,
            arguments.k,
            arguments.v,
            tensor_layout="NHD",
            is_causal=arguments.causal,
            sm_scale=arguments.softmax_scale,
        )
        return out

    return attention


def adapt_logsumexp(package: Any) -> Attention:
    """2.2.0's second result, [batch, heads, seqlen]. Raises NotImplementedError for packed documents."""

    def logsumexp(arguments: Arguments) -> Tensor:
        tensors.refuse_others("SageAttention's logsumexp", arguments)
        q, k, v = arguments.q, arguments.k, arguments.v
        options = {"tensor_layout": "NHD", "is_causal": arguments.causal, "sm_scale": arguments.softmax_scale}
        lse: Tensor = package.sageattn(q, k, v, **options, return_lse=True)[1]
        return lse

    return logsumexp


def packed(package: Any, arguments: Arguments) -> Tensor:
    """sageattn_varlen. Its smoothing takes one mean over all documents, by which one would reach into another: off."""
    cu_seqlens = tensors.on_device(arguments.cu_seqlens or (), arguments.q.device)
    longest = max(tensors.seqlens(arguments.cu_seqlens or ()))
    out: Tensor = package.sageattn_varlen(
        arguments.q.squeeze(0),
        arguments.k.squeeze(0),
        arguments.v.squeeze(0),
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_k=cu_seqlens,
        max_seqlen_q=longest,
        max_seqlen_k=longest,
        is_causal=arguments.causal,
        sm_scale=arguments.softmax_scale,
        smooth_k=False,
    )
    return out.unsqueeze(0)
