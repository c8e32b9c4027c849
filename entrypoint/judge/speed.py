"""Judge throughput: the GPU is slow, only the kernel is slow, or the speed is one that no kernel can have. Pure."""

from __future__ import annotations

from typing import Final

from entrypoint.children.outcome import Outcome
from entrypoint.events import ComparisonEvent, SpeedEvent
from entrypoint.judge.finding import Finding, slow, wrong
from entrypoint.judge.health import state
from entrypoint.settings import Settings
from entrypoint.spec import Floor, GpuSpec, ImageSpec

# A throughput this far above the matrix product measured beside it is nobody's: healthy attention reaches 0.9 of it.
BEYOND: Final = 1.25
# 8-bit matrix units have twice the bf16 rate, and four times on GPUs that halve bf16 with fp32 accumulation.
EIGHT_BIT: Final = 4.0

# How many times as fast as torch's fused kernels a backend has to be in the same call, on any GPU. On an H100 and an
# H200 healthy ones had at least 1.0 (SDPA, xFormers), 0.88 (FlashAttention 2), 0.73 (SageAttention) and 0.66
# (FlexAttention, backward) of torch's flash kernel (.github/MEASURED.md); a third of each is far below.
BESIDE_ANY: Final = 0.6
BESIDE_FUSED: Final = {"sdpa": 0.8, "flex": 0.4, "sage": 0.45}
# Seconds that torch's kernel has to take in a call to be a measure: below, launches from Python are. Of 0.24 ms
# on an H200 a healthy FlashAttention 4 took 0.35, and SDPA beside other processes its own time and a half.
LEAST_MEASURE: Final = 1.0e-3
# Those that are made for these chips had 1.27 to 2.2 times its speed there.
FASTER_CHIPS: Final = ("9.0", "10.0", "10.3")
FASTER: Final = {"fa3": 0.9, "fa4": 0.9, "sdpa-cudnn": 0.9}
# On a CPU there is plain torch alone. The forward of SDPA's kernel at 2,048 positions, on one thread of an EPYC with
# 11 others waiting for its 2 cores, was 2.6 to 2.7 times as fast in 19 of 20 runs (4.5 in one), with and without bf16
# instructions; made three times slower, 0.87 to 0.95 times (1.4 in one).
PLAIN_ON_CPU: Final = {"sdpa": 1.5}


def judge_speed(spec: ImageSpec, settings: Settings, outcome: Outcome) -> list[Finding]:
    """A slow GPU explains slow attention, so a kernel is called slow only on a GPU that is not."""
    too_fast = _impossible(spec, outcome)
    fails = settings.slow == "fail"
    gpu = _slow_gpu(spec, outcome, fails=fails)
    kernel = [] if gpu else _slow_kernel(spec, outcome, fails=fails)
    return [*too_fast, *gpu, *(kernel or _slow_beside_torch(outcome, fails=fails))]


# --- an impossible speed ----------------------------------------------------------------------------------------


def _impossible(spec: ImageSpec, outcome: Outcome) -> list[Finding]:
    """A kernel that did nothing returns at once: SageAttention 2.2.0 had 2,427 TFLOP/s that way on an H200."""
    peak = peak_of(spec, outcome)
    beyond = [speed for speed in outcome.speeds if peak is not None and speed.tflops > peak]
    if not beyond:
        return []
    worst = max(beyond, key=lambda speed: speed.tflops)
    what = f"{outcome.backend} cannot have run: {worst.direction} in {worst.id} seems to reach"
    what += f" {worst.tflops:,.0f} TFLOP/s, and {outcome.name} can do {peak:,.0f} at most."
    advice = "Its kernel returns without computing: keep the report, and use another backend's image."
    return [wrong("impossible-speed", what, advice)]


def peak_of(spec: ImageSpec, outcome: Outcome) -> float | None:
    """More TFLOP/s than attention can have on this GPU; None on a CPU and before Ampere, whose bf16 is emulated."""
    capability = outcome.gpu.capability if outcome.gpu else None
    if spec.device != "cuda" or not outcome.ceiling or (capability or "").startswith(("3.", "5.", "6.", "7.")):
        return None
    backend, gpu = spec.backend(outcome.backend), gpu_of(spec, outcome)
    eight_bit = backend is not None and backend.eight_bit
    peak = None if gpu is None else gpu.peak_eight_bit if eight_bit else gpu.peak
    measured = BEYOND * outcome.ceiling.matmul_tflops
    return max(measured, peak) if peak else measured * (EIGHT_BIT if eight_bit else 1.0)


# --- slow -------------------------------------------------------------------------------------------------------


def _slow_gpu(spec: ImageSpec, outcome: Outcome, *, fails: bool) -> list[Finding]:
    """The GPU against its own model, whatever attention does on it."""
    gpu = gpu_of(spec, outcome)
    if gpu is None:
        return []
    missed = []
    matmul = outcome.ceiling.matmul_tflops if outcome.ceiling else None
    if matmul and gpu.matmul and matmul < gpu.matmul:
        missed.append(f"a bf16 matmul reaches {matmul:.0f} TFLOP/s, and should reach {gpu.matmul:.0f}")
    copy = outcome.bandwidth.gigabytes_per_second if outcome.bandwidth else None
    if copy and gpu.bandwidth and copy < gpu.bandwidth:
        missed.append(f"a copy reaches {copy:,.0f} GB/s, and should reach {gpu.bandwidth:,.0f}")
    if not missed:
        return []
    what = f"This {gpu.name} is slow, whatever runs on it: {'; '.join(missed)} ({state(outcome.health)})."
    advice = "Start the job on another node; look at this GPU's clocks, power, cooling and other users (nvidia-smi)."
    return [slow("slow-gpu", what, advice, fails=fails)]


def _slow_kernel(spec: ImageSpec, outcome: Outcome, *, fails: bool) -> list[Finding]:
    """Attention's share of the matmul measured seconds apart on the same GPU."""
    below = []
    for speed in outcome.speeds:
        share, floor = of_matmul(speed, outcome), floor_of(spec, outcome, speed)
        if share is not None and floor is not None and share < floor:
            below.append((share / floor, share, floor, speed))
    if not below:
        return []
    _, share, floor, speed = min(below, key=lambda item: item[0])
    what = f"{outcome.backend} is slow on {outcome.name}: {speed.direction} in {speed.id} reaches {share:.0%}"
    what += f" of the matmul ceiling, and should reach {floor:.0%} ({len(below)} of {len(outcome.speeds)} too slow)."
    advice = f"The GPU itself is not slow{_known(spec, outcome)}: suspect a fallback or another version of the kernel."
    return [slow("slow-kernel", what, advice, fails=fails)]


def _slow_beside_torch(outcome: Outcome, *, fails: bool) -> list[Finding]:
    """The backend's time beside those of torch's own kernels in the same call: no floor of this device is needed."""
    late = []
    for comparison in outcome.comparisons:
        for other, seconds in comparison.others.items():
            speed, least = seconds / comparison.own, least_beside(outcome, comparison, other)
            if least is not None and speed < least and seconds >= LEAST_MEASURE:
                late.append((speed / least, speed, least, other, comparison))
    if not late:
        return []
    _, speed, least, other, comparison = min(late, key=lambda item: item[0])
    named = {"plain": "attention written out in plain torch"}.get(other, f"torch's {other} kernel")
    what = f"{outcome.backend} is slow on {outcome.name}: {comparison.direction} in {comparison.id} takes"
    what += f" {1000.0 * comparison.own:.3g} ms, {speed:.2g} times as fast as {named} beside it,"
    what += f" and should be at least {least:.2g} times."
    advice = "Suspect a fallback or another version of the kernel; if a second check says the same, take another node."
    return [slow("slow-beside-torch", what, advice, fails=fails)]


def least_beside(outcome: Outcome, comparison: ComparisonEvent, other: str) -> float | None:
    """How many times as fast as torch's `other` kernel the backend has to be; None where nothing is known."""
    if outcome.gpu is None or outcome.gpu.capability is None:
        return PLAIN_ON_CPU.get(outcome.backend, 1.0) if other == "plain" else None
    if other == "plain":
        return 1.0
    if outcome.gpu.capability in FASTER_CHIPS and outcome.backend in FASTER:
        return FASTER[outcome.backend]
    return BESIDE_FUSED.get(outcome.backend, BESIDE_ANY)


def _known(spec: ImageSpec, outcome: Outcome) -> str:
    gpu = gpu_of(spec, outcome)
    return "" if gpu is not None and gpu.matmul else ", as far as is known of this model"


def of_matmul(speed: SpeedEvent, outcome: Outcome) -> float | None:
    """Attention's throughput as a share of the matmul ceiling measured seconds apart; None without a ceiling."""
    return speed.tflops / outcome.ceiling.matmul_tflops if outcome.ceiling and outcome.ceiling.matmul_tflops else None


def floor_of(spec: ImageSpec, outcome: Outcome, speed: SpeedEvent) -> float | None:
    """The least share expected of this call on this device, or None where nothing was measured: unknown never fails."""
    wanted = (outcome.name, outcome.backend, speed.id)
    floor: Floor | None = next((f for f in spec.floors if (f.gpu, f.backend, f.case) == wanted), None)
    return None if floor is None else floor.forward if speed.direction == "forward" else floor.backward


def gpu_of(spec: ImageSpec, outcome: Outcome) -> GpuSpec | None:
    """What is known of this model. By its whole name: a part may be another card's, or that of a slice (MIG)."""
    return next((gpu for gpu in spec.gpus if gpu.name == outcome.name), None)
