"""torch.nn.functional.scaled_dot_product_attention: torch's own choice among its kernels, and each of them forced.

`math` is products and a softmax, right but not fused: as torch's own choice it is a fallback, forced it is what was
asked for. Windows and packed documents have no flag of their own here; they go in as a mask, as transformers does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from entrypoint.probe.backends import Arguments, Backend, Capabilities, Feature, hardware, masks, tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Kernels on a GPU (NVIDIA's, then AOTriton's on AMD), and the operators that stand for them on a CPU.
VARIANTS = {
    "flash": (r"pytorch_flash::", r"aten::_scaled_dot_product_flash_attention", r"^attn_fwd", r"^bwd_(kernel|preproc)"),
    "cudnn": (r"cudnn_generated_\w*sdpa", r"aten::_scaled_dot_product_cudnn_attention"),
    "efficient": (r"fmha_cutlass[FB]", r"aten::_scaled_dot_product_efficient_attention"),
}
KERNELS = (*(rule for rules in VARIANTS.values() for rule in rules), r"aten::_scaled_dot_product_fused\w*attention")

SOURCE = "torch 2.10-2.13, aten/src/ATen/native/transformers/cuda/sdp_utils.cpp and sdp_utils_cpp.cpp"
MASKED: tuple[Feature, ...] = ("window", "varlen", "gqa", "strided")
UNMASKED: tuple[Feature, ...] = ("gqa", "strided")


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One of SDPA's kernels. `member` of torch.nn.attention.SDPBackend; `predicate` of torch.backends.cuda."""

    member: str
    predicate: str | None


FORCED = {
    "flash": Kernel(member="FLASH_ATTENTION", predicate="can_use_flash_attention"),
    "cudnn": Kernel(member="CUDNN_ATTENTION", predicate="can_use_cudnn_attention"),
    "efficient": Kernel(member="EFFICIENT_ATTENTION", predicate="can_use_efficient_attention"),
    "math": Kernel(member="MATH", predicate=None),
}


def load(where: torch.device) -> Backend:
    chip = hardware.chip_of(where)
    return Backend(
        name="sdpa",
        attention=attention,
        capabilities=capabilities(chip),
        kernels={name: forced(name, where, claims) for name, claims in forced_kernels(chip, where).items()},
        masked=True,
    )


def capabilities(chip: hardware.Chip) -> Capabilities:
    """With torch's choice: what no fused kernel does, the math path does, and the observed kernel tells so."""
    if chip == "cpu":
        return _claims(chip, (64, 96, 128), MASKED, ("CPU",))
    return _claims(chip, (64, 96, 128, 256), MASKED, ("H200",) if chip == (9, 0) else ())


def kernel_capabilities(chip: hardware.Chip) -> dict[str, Capabilities]:
    """What each kernel claims on this chip; a kernel that is not there is left out."""
    if chip == "cpu":
        same = capabilities(chip)
        return {"flash": same, "math": same}
    here = ("H200",) if chip == (9, 0) else ()
    table = {"math": _claims(chip, (64, 96, 128, 256), MASKED, here)}
    if chip in hardware.AMD:
        table["flash"] = _claims(chip, (64, 128), UNMASKED, ())
    if isinstance(chip, tuple):
        # Kept to 128 where shared memory is small (sm_86, sm_89, sm_12x, Turing): torch has exceptions above 192 there.
        widest = (64, 96, 128, 256) if chip in {(8, 0), (9, 0), (10, 0)} else (64, 96, 128)
        table["efficient"] = _claims(chip, widest, MASKED, here)
        if chip >= (8, 0):
            table["flash"] = _claims(chip, widest, UNMASKED, here)
            table["cudnn"] = _claims(chip, (64, 128), MASKED, here)
    return table


def _claims(
    chip: hardware.Chip, head_dims: tuple[int, ...], features: tuple[Feature, ...], proved: tuple[str, ...]
) -> Capabilities:
    return Capabilities(
        dtypes=(*hardware.halves(chip), "float32") if chip == "cpu" else hardware.halves(chip),
        head_dims=hardware.same(*head_dims),
        features=frozenset(features),
        source=SOURCE,
        proved=proved,
    )


def attention(arguments: Arguments) -> Tensor:
    """SDPA wants [batch, heads, seqlen, head_dim]; the transposed views are what a model passes too."""
    from torch.nn.functional import scaled_dot_product_attention

    tensors.refuse_others("SDPA", arguments, "window", "varlen")
    q, k, v = (tensor.transpose(1, 2) for tensor in (arguments.q, arguments.k, arguments.v))
    pattern = masks.Pattern.of(arguments)
    out = scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=None if pattern.masks_nothing or pattern.is_plain_causal else masks.dense(pattern, q.device),
        is_causal=pattern.is_plain_causal,
        scale=arguments.softmax_scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out.transpose(1, 2)


def forced_kernels(chip: hardware.Chip, where: torch.device) -> dict[str, Capabilities]:
    """The claims of the kernels that torch itself says it can use on this device."""
    claimed = kernel_capabilities(chip)
    return {name: claims for name, claims in claimed.items() if usable(name, where, grouped=False)}


def forced(name: str, where: torch.device, claims: Capabilities) -> Backend:
    """SDPA with one kernel; it raises RuntimeError for a call that this kernel cannot do.

    Where the kernel has no grouped heads, kv heads are expanded, and autograd sums their gradients over each group.
    """
    expands = not usable(name, where, grouped=True)

    def attention_by(arguments: Arguments) -> Tensor:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(getattr(SDPBackend, FORCED[name].member)):
            return attention(expanded(arguments) if expands else arguments)

    return Backend(name=f"sdpa-{name}", attention=attention_by, capabilities=claims, masked=True)


def expanded(arguments: Arguments) -> Arguments:
    """The same call with a kv head for each query head."""
    heads = arguments.q.shape[2]
    return replace(arguments, k=tensors.expand_kv(arguments.k, heads), v=tensors.expand_kv(arguments.v, heads))


def usable(name: str, where: torch.device, *, grouped: bool) -> bool:
    """torch's own answer for an ordinary call with a gradient: causal, head_dim 64; `grouped`, two heads to a kv head.

    On a CPU there is nothing to ask: its flash kernel and math serve both.
    """
    import torch

    predicate = FORCED[name].predicate
    if predicate is None or where.type != "cuda":
        return True
    dtype = torch.float16  # every chip has it
    q = torch.zeros(1, 2, 128, 64, dtype=dtype, device=where, requires_grad=True)
    kv = q[:, : 1 if grouped else 2]
    params = torch.backends.cuda.SDPAParams(q, kv, kv, None, 0.0, True, grouped)
    return bool(getattr(torch.backends.cuda, predicate)(params, False))
