"""Mistakes that only some calls show, in memory or in numbers; wrong logsumexps; and right numbers by wrong means."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from entrypoint.probe import memory
from entrypoint.probe.backends import Arguments, Attention, Backend
from tests.defects.backward import last_of_batch_zero, spoil, spoiled
from tests.unit.wrong_kernels import Change, Masks, Parts, backend, kernel, logsumexp, softmax


def layouts() -> dict[str, Attention]:
    import torch

    def as_if_dense(tensor: Any) -> Any:
        """Reads the memory from the tensor's first element on as if it were contiguous."""
        dense = tensor.new_empty(tensor.shape).stride()
        storage = tensor.untyped_storage().nbytes() // tensor.element_size()
        fits = tensor.storage_offset() + tensor.numel() <= storage
        return tensor.as_strided(tensor.shape, dense, tensor.storage_offset() if fits else 0)

    def wrapped(tensor: Any) -> Any:
        """The batch offset in 31 bits and a sign: past memory.FAR elements it is negative."""
        entries = []
        for batch in range(tensor.shape[0]):
            offset = (batch * tensor.stride(0) + memory.FAR) % (2 * memory.FAR) - memory.FAR
            entry = tensor.as_strided(tensor.shape[1:], tensor.stride()[1:], tensor.storage_offset() + offset)
            entries.append(entry)
        return tensor + (torch.stack(entries) - tensor).detach()

    def read(name: str, how: Change) -> Attention:
        """Forward from other memory; the gradient as it should be."""

        def inputs(a: Arguments) -> Arguments:
            tensor = getattr(a, name)
            return replace(a, **{name: tensor + (how(tensor.detach()) - tensor).detach()})

        return kernel(inputs=inputs)

    return {
        "strides of q ignored": read("q", as_if_dense),
        "strides of v ignored": read("v", as_if_dense),
        "strides of dout ignored": kernel(result=lambda out, a: spoil(as_if_dense)(out)),
        "offsets of k overflow 31 bits": read("k", wrapped),
        "offsets of dout overflow 31 bits": kernel(result=lambda out, a: spoil(wrapped)(out)),
    }


def only_sometimes() -> dict[str, Attention]:
    import torch

    def in_own_dtype(a: Arguments) -> Any:
        """Products held in the inputs' dtype before the scale: float16 ends at 65504."""
        raw = torch.einsum("bihd,bjhd->bhij", a.q.float(), Parts().heads_of(a.k, a.q.shape[2]))
        overflows = a.q.dtype == torch.float16 and bool(raw.abs().amax() > 65504)
        return kernel(weights=lambda s: softmax(s) * math.inf)(a) if overflows else kernel()(a)

    def not_finite_below(a: Arguments) -> Any:
        """exp(-lse) overflows in the backward (pytorch#196678)."""
        low = (logsumexp(a.map(lambda tensor: tensor.detach())) < -88.7).transpose(1, 2)[..., None]
        return kernel(inputs=lambda b: replace(b, q=spoil(lambda g: g.masked_fill(low, math.nan))(b.q)))(a)

    off, wrong_dq, wrong_dv = kernel(scale=0.9), spoiled("q", lambda g: g * 0.9), spoiled("v", lambda g: g * 0.9)
    return {
        "wrong for head_dim 96 alone": _only(lambda a: a.q.shape[-1] == 96, off),
        "wrong for head_dim 128 alone": _only(lambda a: a.q.shape[-1] == 128, off),
        "dQ wrong for head_dim 256 and batches": _only(lambda a: a.q.shape[-1] == 256 and a.q.shape[0] > 1, wrong_dq),
        "dV wrong where its head_dim differs": _only(lambda a: a.q.shape[-1] != a.v.shape[-1], wrong_dv),
        "wrong for batches of 2 and more": _only(lambda a: a.q.shape[0] > 1, spoiled("k", last_of_batch_zero)),
        "wrong for odd lengths": _only(lambda a: a.q.shape[1] % 2 == 1, off),
        "wrong for lengths one past a tile": _only(lambda a: a.q.shape[1] % 128 == 1, off),
        "wrong for lengths one short of a tile": _only(lambda a: a.q.shape[1] % 128 == 127, off),
        "wrong for lengths 64 past a tile": _only(lambda a: a.q.shape[1] % 128 == 64, off),
        "wrong for one kv head": _only(lambda a: a.k.shape[2] == 1, off),
        "wrong in float16": _only(lambda a: a.q.dtype == torch.float16, kernel(scale=1.005)),
        "float16 scores overflow": in_own_dtype,
        "dQ wrong for massive activations": _only(lambda a: bool(a.q.abs().amax() > 25.0), wrong_dq),
        "dQ NaN where logsumexp is below -88.7": not_finite_below,
        "wrong for inputs without a sign": _only(lambda a: bool(a.v.min() >= 0.0), off),
    }


def _only(condition: Callable[[Arguments], bool], wrong: Attention) -> Attention:
    right = kernel()
    return lambda arguments: (wrong if condition(arguments) else right)(arguments)


def logsumexps() -> dict[str, Backend]:
    import torch

    def denominator_alone(a: Arguments) -> Any:
        scores = Parts().masked_scores(a)
        return torch.logsumexp(scores - scores.amax(-1, keepdim=True), dim=-1)

    return {
        "logsumexp in base 2": backend(kernel(), lambda a: logsumexp(a) / math.log(2.0)),
        "logsumexp without the maximum": backend(kernel(), denominator_alone),
        "logsumexp of unscaled scores": backend(kernel(), lambda a: Parts(scale=8.0).masked_scores(a).logsumexp(-1)),
        "logsumexp without the mask": backend(
            kernel(), lambda a: Parts(hidden=Masks(causal=None)).masked_scores(a).logsumexp(-1)
        ),
        "logsumexp rounded to 16 bits": backend(kernel(), lambda a: logsumexp(a).bfloat16().float()),
    }


def conduct() -> dict[str, Backend]:
    """Right numbers, by means that no kernel may use."""
    import torch

    def writes_k(a: Arguments) -> Any:
        """SageAttention 1.0.6: K minus its mean over the sequence, in place."""
        out = kernel()(a)
        a.k.data.sub_(a.k.data.mean(dim=1, keepdim=True))
        return out

    def writes_dout(gradient: Any) -> Any:
        kept = gradient.clone()
        gradient.data.zero_()
        return kept

    noisy = torch.Generator("cpu").manual_seed(0)

    def noise(gradient: Any) -> Any:
        """As atomic additions in another order: within every budget."""
        drawn = torch.randn(gradient.shape, generator=noisy, device="cpu")
        return gradient * (1.0 + 0.002 * drawn).to(gradient)

    return {
        "writes into k": backend(writes_k),
        "writes into dout": backend(kernel(result=lambda out, a: spoil(writes_dout)(out))),
        "dQ differs from run to run": backend(spoiled("q", noise), deterministic=True),
        "output differs from run to run": backend(kernel(result=lambda out, a: noise(out)), deterministic=True),
    }
