"""What is timed: the device's bf16 matmul and copy ceilings, and attention forward and backward at a few shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from entrypoint.events import BandwidthEvent, CeilingEvent, Direction, SpeedEvent
from entrypoint.probe import calls
from entrypoint.probe.backends import Backend, Capabilities
from entrypoint.probe.cases import Case, make_inputs, performance_case
from entrypoint.probe.eventlog import EventLog
from entrypoint.probe.sensors import NoSensors, Sensors
from entrypoint.probe.timing import Clock, Timing, clock_for, steady

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Large enough to fill a GPU for a millisecond; on a CPU small enough to cost nothing.
MATMUL_SIZES = {"cuda": 8192, "cpu": 1024}
# Bytes of each of the two buffers of a copy: far larger than any last-level cache of a GPU.
COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 24}


SHIFTED_ONLY = frozenset({"shifted"})


def timed_cases(device_type: str, capabilities: Capabilities | None = None) -> tuple[Case, ...]:
    """Both head dims and both lengths of the field's benchmarks (16384 tokens, hidden size 2048) in two shapes.

    Two, not four, since backends that compile each shape take seconds for each. On a CPU one shape that is compiled
    already, to show that timing works. S2 has no call but the shifted one, in LongLoRA's groups of a quarter sequence.
    """
    first = performance_case(device_type)
    short = replace(first, id="causal-s2048-d64", batch=8, seqlen=2048, heads=32, kv_heads=32, head_dim=64)
    timed = (first, short) if device_type == "cuda" else (first,)
    if capabilities is not None and SHIFTED_ONLY <= capabilities.features and "varlen" not in capabilities.features:
        return tuple(replace(case, seqlen=case.seqlen // 8 * 8, shifted_group=case.seqlen // 8 * 2) for case in timed)
    return timed


# Makes a context in which an exception of the measurement with this id is reported, and the next one is tried.
Survive = Callable[[str], AbstractContextManager[None]]


def measure_speed(
    backend: Backend, where: torch.device, log: EventLog, sensors: Sensors | NoSensors, survive: Survive
) -> None:
    """Emit `ceiling` and `bandwidth`, with the sensors watched meanwhile, then `speed` for each timed case."""
    clock = clock_for(where, sensors.sample)
    with log.phase("performance", "matmul"), survive("matmul"):
        log.emit(matmul_ceiling(where, clock))
    with log.phase("performance", "copy"), survive("copy"):
        log.emit(copy_bandwidth(where, clock))
    for case in timed_cases(where.type, backend.capabilities):
        with log.phase("performance", case.id), survive(case.id):
            for speed in attention_speeds(backend, case, where, clock):
                log.emit(speed)


def attention_flops(case: Case, direction: Direction) -> float:
    """FLOPs by the convention of FlashAttention's benchmarks/benchmark_flash_attention.py, so numbers compare.

    Forward 4 B S^2 H D (two products of 2 B S^2 H D), half of it when causal, whatever the kernel really skips;
    backward 2.5 times as much (five products, the recomputed scores among them). S2 has g keys for each query, not S.
    """
    keys = case.shifted_group or case.seqlen
    forward = 4.0 * case.batch * case.seqlen * keys * case.heads * case.head_dim / (2.0 if case.causal else 1.0)
    return forward * (2.5 if direction == "backward" else 1.0)


def matmul_ceiling(where: torch.device, clock: Clock | None = None) -> CeilingEvent:
    """What this device reaches on the operation that attention is made of, here and now."""
    import torch

    size = MATMUL_SIZES[where.type]
    left, right = (torch.randn(size, size, device=where).to(torch.bfloat16) for _ in range(2))
    timing = steady(lambda pair: torch.mm(*pair), lambda: (left, right), clock or clock_for(where))
    return CeilingEvent(
        matmul_tflops=2.0 * size**3 / timing.seconds / 1e12, seconds=timing.seconds, samples=timing.samples
    )


def copy_bandwidth(where: torch.device, clock: Clock | None = None) -> BandwidthEvent:
    """What this device's memory reaches: every byte of a large buffer read once and written once."""
    import torch

    size = COPY_BYTES[where.type]
    source, target = (torch.zeros(size, dtype=torch.uint8, device=where) for _ in range(2))
    timing = steady(lambda _: target.copy_(source), lambda: None, clock or clock_for(where))
    rate = 2.0 * size / timing.seconds / 1e9
    return BandwidthEvent(gigabytes_per_second=rate, seconds=timing.seconds, samples=timing.samples)


def attention_speeds(
    backend: Backend, case: Case, where: torch.device, clock: Clock | None = None
) -> Iterator[SpeedEvent]:
    """Forward as training runs it (inputs that require gradients), then backward, each as soon as it is known.

    Each backward sample has its own forward, not counted: compiled backwards refuse to run twice on one graph. A
    backend without a backward gives the forward alone.
    """
    clock = clock or clock_for(where)
    arguments, dout = make_inputs(case, where)
    leaves = calls.fresh(arguments, requires_grad=backend.no_gradient is None)
    yield _speed(case, "forward", steady(lambda _: backend.attention(leaves), lambda: None, clock))
    if backend.attention(leaves).requires_grad:

        def backward(loss: Tensor) -> object:
            return calls.backward(loss, leaves)

        yield _speed(case, "backward", steady(backward, lambda: calls.loss_of(backend.attention(leaves), dout), clock))


def _speed(case: Case, direction: Direction, timing: Timing) -> SpeedEvent:
    tflops = attention_flops(case, direction) / timing.seconds / 1e12
    return SpeedEvent(id=case.id, direction=direction, tflops=tflops, seconds=timing.seconds, samples=timing.samples)
