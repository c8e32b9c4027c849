"""What is timed: the device's bf16 matmul ceiling, and attention forward and backward at one shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from entrypoint.probe import calls
from entrypoint.probe.backends import Backend
from entrypoint.probe.cases import Case, make_inputs
from entrypoint.probe.timing import Clock, Timing, clock_for, steady

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Direction = Literal["forward", "backward"]
# Large enough to fill a GPU for a millisecond; on a CPU small enough to cost nothing.
MATMUL_SIZES = {"cuda": 8192, "cpu": 1024}


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """One square bf16 matrix product: median seconds, all samples, and 2 n^3 FLOPs over that median."""

    tflops: float
    seconds: float
    samples: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One direction of one attention call: median seconds, all samples, and the convention's FLOPs over that median."""

    direction: Direction
    tflops: float
    seconds: float
    samples: tuple[float, ...]


def attention_flops(case: Case, direction: Direction) -> float:
    """FLOPs by the convention of FlashAttention's benchmarks/benchmark_flash_attention.py, so numbers compare.

    Forward 4 B S^2 H D (two products of 2 B S^2 H D), half of it when causal, whatever the kernel really skips;
    backward 2.5 times as much (five products, the recomputed scores among them).
    """
    forward = 4.0 * case.batch * case.seqlen**2 * case.heads * case.head_dim / (2.0 if case.causal else 1.0)
    return forward * (2.5 if direction == "backward" else 1.0)


def matmul_ceiling(where: torch.device, clock: Clock | None = None) -> Ceiling:
    """What this device reaches on the operation that attention is made of, here and now."""
    import torch

    size = MATMUL_SIZES[where.type]
    left, right = (torch.randn(size, size, device=where).to(torch.bfloat16) for _ in range(2))
    timing = steady(lambda pair: torch.mm(*pair), lambda: (left, right), clock or clock_for(where))
    return Ceiling(tflops=2.0 * size**3 / timing.seconds / 1e12, seconds=timing.seconds, samples=timing.samples)


def attention_speeds(backend: Backend, case: Case, where: torch.device, clock: Clock | None = None) -> Iterator[Speed]:
    """Forward as training runs it (inputs that require gradients), then backward, each as soon as it is known.

    Each backward sample has its own forward, not counted: compiled backwards refuse to run twice on one graph. A
    backend without a backward gives the forward alone.
    """
    clock = clock or clock_for(where)
    arguments, dout = make_inputs(case, where)
    leaves = calls.fresh(arguments, requires_grad=backend.no_gradient is None)
    yield _speed(case, "forward", steady(lambda _: backend.attention(leaves), lambda: None, clock))
    if backend.attention(leaves).requires_grad:

        def backward(out: Tensor) -> object:
            return calls.gradients(out, leaves, dout)

        yield _speed(case, "backward", steady(backward, lambda: backend.attention(leaves), clock))


def _speed(case: Case, direction: Direction, timing: Timing) -> Speed:
    tflops = attention_flops(case, direction) / timing.seconds / 1e12
    return Speed(direction=direction, tflops=tflops, seconds=timing.seconds, samples=timing.samples)
