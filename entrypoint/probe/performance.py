"""What is timed: attention forward and backward at a few shapes, and on a GPU the ceilings, a bf16 matmul and a copy.

A CPU has no ceiling worth a name: without bf16 instructions it emulates the product, and attention, which sums in
float32, is many times faster than the matmul that would be its ceiling.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from entrypoint.events import BandwidthEvent, CeilingEvent, Direction, SpeedEvent
from entrypoint.probe import calls, rivals
from entrypoint.probe.backends import Backend, Capabilities
from entrypoint.probe.cases import Case, make_inputs, performance_case
from entrypoint.probe.eventlog import EventLog
from entrypoint.probe.sensors import NoSensors, Sensors
from entrypoint.probe.timing import USUAL, Budget, Clock, Effort, Timing, clock_for, steady

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Rows and columns: large enough to fill a GPU for a millisecond.
MATMUL_SIZE = 8192
# Bytes of each of the two buffers of a copy: far larger than any last-level cache of a GPU.
COPY_BYTES = 1 << 30
# All timings of a check together. A healthy GPU needs less than one; a CPU without bf16 instructions needs them all,
# and half a second more where a call is slow.
SECONDS = {"cuda": 30.0, "cpu": 1.5}


SHIFTED_ONLY = frozenset({"shifted"})


def timed_cases(device_type: str, capabilities: Capabilities | None = None) -> tuple[Case, ...]:
    """Both head dims and both lengths of the field's benchmarks (16384 tokens, hidden size 2048) in two shapes.

    Two, not four, since backends that compile each shape take seconds for each; in float16 where the backend has no
    bfloat16. On a CPU one shape that is compiled already, to show that timing works. S2 has no call but the shifted
    one, in LongLoRA's groups of a quarter sequence.
    """
    first = performance_case(device_type)
    short = replace(first, id="causal-s2048-d64", batch=8, seqlen=2048, heads=32, kv_heads=32, head_dim=64)
    timed: tuple[Case, ...] = (first, short) if device_type == "cuda" else (first,)
    if capabilities is not None and "bfloat16" not in capabilities.dtypes:
        timed = tuple(replace(case, dtype="float16") for case in timed)
    if capabilities is not None and SHIFTED_ONLY <= capabilities.features and "varlen" not in capabilities.features:
        return tuple(replace(case, seqlen=case.seqlen // 8 * 8, shifted_group=case.seqlen // 8 * 2) for case in timed)
    return timed


# Makes a context in which an exception of the measurement with this id is reported, and the next one is tried.
Survive = Callable[[str], AbstractContextManager[None]]


def measure_speed(  # noqa: PLR0913 - what is timed, where, and who is told
    backend: Backend,
    where: torch.device,
    log: EventLog,
    sensors: Sensors | NoSensors,
    survive: Survive,
    *,
    timed: Sequence[Case],
    compared: Sequence[Case],
) -> None:
    """Emit on a GPU `ceiling` and `bandwidth`, with the sensors watched meanwhile, then `speed` for each timed case.

    All of that takes SECONDS, and little more where calls are slow: at least one call of each is made. `comparison`
    for each case of `compared` follows.
    """
    clock = clock_for(where, sensors.sample)
    ceilings = where.type == "cuda"
    budget = Budget(SECONDS[where.type], 2 * len(timed) + 2 * ceilings, clock.now)
    if ceilings:
        with log.phase("performance", "matmul"), survive("matmul"):
            log.emit(matmul_ceiling(where, clock, budget.share()))
        with log.phase("performance", "copy"), survive("copy"):
            log.emit(copy_bandwidth(where, clock, budget.share()))
    for case in timed:
        with log.phase("performance", case.id), survive(case.id):
            for speed in attention_speeds(backend, case, where, clock, budget):
                log.emit(speed)
    for case in compared:
        with log.phase("performance", f"{case.id} beside torch's"), survive(case.id):
            for comparison in rivals.compare(backend, case, where, clock if ceilings else None):
                log.emit(comparison)


def attention_flops(case: Case, direction: Direction) -> float:
    """FLOPs by the convention of FlashAttention's benchmarks/benchmark_flash_attention.py, so numbers compare.

    Forward 4 B S^2 H D (two products of 2 B S^2 H D), half of it when causal, whatever the kernel really skips;
    backward 2.5 times as much (five products, the recomputed scores among them). S2 has g keys for each query, not S;
    a window at most its own width, and a packed document its own length.
    """
    forward = 4.0 * case.batch * _pairs(case) * case.heads * case.head_dim
    return forward * (2.5 if direction == "backward" else 1.0)


def _pairs(case: Case) -> float:
    """How many keys all queries of a sequence see together, by the convention."""
    lengths = [end - start for start, end in itertools.pairwise(case.cu_seqlens or (0, case.seqlen))]
    half = 2.0 if case.causal else 1.0
    if case.window is None:
        return sum(float(length) * (case.shifted_group or length) for length in lengths) / half
    left, right = (length if length >= 0 else case.seqlen for length in case.window)
    width = left + 1 if case.causal else left + right + 1
    return sum(min(length**2 / half, float(length) * width) for length in lengths)


def in_words(case: Case) -> str:
    """The call's shape for a person: batch x positions, heads x head_dim, dtype."""
    mask = "causal" if case.causal else "full"
    if case.shifted_group:
        mask = f"shifted in groups of {case.shifted_group}"
    mask += ", packed" if case.cu_seqlens else ""
    mask += f", window of {case.window[0] + 1}" if case.window else ""
    mask += f", softcap {case.softcap:g}" if case.softcap else ""
    kv = f" ({case.kv_heads} of k and v)" if case.kv_heads != case.heads else ""
    return f"{mask}, {case.batch} x {case.seqlen} positions, {case.heads} heads{kv} of {case.head_dim}, {case.dtype}"


def matmul_ceiling(where: torch.device, clock: Clock | None = None, effort: Effort = USUAL) -> CeilingEvent:
    """What this device reaches on the operation that attention is made of, here and now."""
    import torch

    size, clock = MATMUL_SIZE, clock or clock_for(where)
    left, right = (torch.randn(size, size, device=where).to(torch.bfloat16) for _ in range(2))
    timing = steady(lambda pair: torch.mm(*pair), lambda: (left, right), clock, effort)
    return CeilingEvent(matmul_tflops=2.0 * size**3 / timing.seconds / 1e12, **vars(timing))


def copy_bandwidth(where: torch.device, clock: Clock | None = None, effort: Effort = USUAL) -> BandwidthEvent:
    """What this device's memory reaches: every byte of a large buffer read once and written once."""
    import torch

    size, clock = COPY_BYTES, clock or clock_for(where)
    source, target = (torch.zeros(size, dtype=torch.uint8, device=where) for _ in range(2))
    timing = steady(lambda _: target.copy_(source), lambda: None, clock, effort)
    return BandwidthEvent(gigabytes_per_second=2.0 * size / timing.seconds / 1e9, **vars(timing))


def attention_speeds(
    backend: Backend, case: Case, where: torch.device, clock: Clock | None = None, budget: Budget | None = None
) -> Iterator[SpeedEvent]:
    """Forward as training runs it (inputs that require gradients), then backward, each as soon as it is known.

    Each backward sample has its own forward, not counted: compiled backwards refuse to run twice on one graph. A
    backend without a backward gives the forward alone.
    """
    clock = clock or clock_for(where)
    arguments, dout = make_inputs(case, where)
    leaves = calls.fresh(arguments, requires_grad=backend.no_gradient is None)
    forward = steady(lambda _: backend.attention(leaves), lambda: None, clock, _share(budget))
    yield _speed(case, "forward", forward)
    if backend.attention(leaves).requires_grad:

        def backward(loss: Tensor) -> object:
            return calls.backward(loss, leaves)

        def prepare() -> Tensor:
            return calls.loss_of(backend.attention(leaves), dout)

        yield _speed(case, "backward", steady(backward, prepare, clock, _share(budget)))


def _share(budget: Budget | None) -> Effort:
    return USUAL if budget is None else budget.share()


def _speed(case: Case, direction: Direction, timing: Timing) -> SpeedEvent:
    tflops = attention_flops(case, direction) / timing.seconds / 1e12
    return SpeedEvent(id=case.id, direction=direction, call=in_words(case), tflops=tflops, **vars(timing))
