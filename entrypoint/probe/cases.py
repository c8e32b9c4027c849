"""What is run: frozen cases, and their seeded inputs made on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from entrypoint.probe.backends import Arguments

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Family = Callable[[tuple[int, ...], torch.Generator, torch.device], Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attention call: q is [batch, seqlen, heads, head_dim], k and v have kv_heads. `inputs` names a family."""

    id: str
    batch: int
    seqlen: int
    heads: int
    kv_heads: int
    head_dim: int
    causal: bool
    dtype: str = "bfloat16"
    seed: int = 0
    inputs: str = "normal"

    @property
    def variant(self) -> tuple[object, ...]:
        """Cases that differ only in seed and inputs run the same compiled kernel."""
        return (self.batch, self.seqlen, self.heads, self.kv_heads, self.head_dim, self.causal, self.dtype)


def startup_cases() -> tuple[Case, ...]:
    """Causal and full, head_dim 64 and 128, grouped heads, two input families, and lengths off every tile size.

    One sequence length per variant: JIT backends compile each shape, and start-up time is somebody's training time.
    """
    variants = (
        ("causal-d64", 333, 64, True),
        ("full-d64", 256, 64, False),
        ("causal-d128", 256, 128, True),
        ("full-d128", 333, 128, False),
    )
    return tuple(
        Case(
            id=name if family == "normal" else f"{name}-{family}",
            batch=2,
            seqlen=seqlen,
            heads=8,
            kv_heads=2,
            head_dim=head_dim,
            causal=causal,
            seed=seed,
            inputs=family,
        )
        for family, seed in (("normal", 1), ("x3", 2))
        for name, seqlen, head_dim, causal in variants
    )


def performance_case(device_type: str) -> Case:
    """A shape whose speed matters on a GPU; on a CPU one that is compiled already, to show that timing works."""
    if device_type == "cuda":
        return Case(id="causal-s8192-d128", batch=2, seqlen=8192, heads=16, kv_heads=16, head_dim=128, causal=True)
    return replace(startup_cases()[0], id="causal-s333-d64")


def _normal(shape: tuple[int, ...], generator: torch.Generator, where: torch.device) -> Tensor:
    import torch

    return torch.randn(shape, generator=generator, device=where)


def _normal_x3(shape: tuple[int, ...], generator: torch.Generator, where: torch.device) -> Tensor:
    """Scores nine times as wide, so a softmax near one-hot: where large logits overflow or lose their maximum."""
    return _normal(shape, generator, where) * 3.0


FAMILIES: dict[str, Family] = {"normal": _normal, "x3": _normal_x3}


def make_inputs(case: Case, where: torch.device) -> tuple[Arguments, Tensor]:
    """The arguments of the call, and dout [batch, seqlen, heads, head_dim], the gradient of the output.

    Made on the device from the case's seed: the same on every run on one kind of device. dout is always normal.
    """
    import torch

    generator = torch.Generator(where).manual_seed(case.seed)
    dtype: torch.dtype = getattr(torch, case.dtype)
    q_shape = (case.batch, case.seqlen, case.heads, case.head_dim)
    kv_shape = (case.batch, case.seqlen, case.kv_heads, case.head_dim)
    q, k, v = (FAMILIES[case.inputs](shape, generator, where).to(dtype) for shape in (q_shape, kv_shape, kv_shape))
    dout = _normal(q_shape, generator, where).to(dtype)
    return Arguments(q=q, k=k, v=v, causal=case.causal), dout
