"""The only place that says PASS, DEGRADED, FAIL or NOT_CHECKED. Pure: facts in, findings out."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

from entrypoint.budgets import Measured, weigh
from entrypoint.devices import Devices, older
from entrypoint.errors import ConfigError, MismatchError
from entrypoint.outcome import Outcome
from entrypoint.settings import AUTO, FORWARD_ONLY, Settings
from entrypoint.spec import BackendSpec, Floor, ImageSpec

VerdictName = Literal["PASS", "DEGRADED", "FAIL", "NOT_CHECKED"]
GRADIENTS: Final = ("dq", "dk", "dv")


class Code(Enum):
    """The exit codes of the contract."""

    PASS = 0
    CONFIG = 90
    MISMATCH = 91
    WRONG = 92
    SLOW = 93
    GPU_FAULT = 94
    INTERNAL = 95


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing found: what is so, and what to do about it."""

    verdict: VerdictName
    code: Code
    what: str
    advice: str = ""

    @property
    def sentence(self) -> str:
        return f"{self.what} {self.advice}".strip()


# The worst finding decides. A fault of the GPU explains wrong numbers, so it comes before them.
_ORDER: Final = (Code.CONFIG, Code.MISMATCH, Code.GPU_FAULT, Code.WRONG, Code.INTERNAL, Code.SLOW, Code.PASS)


def rank(finding: Finding) -> tuple[int, int]:
    """Sort key: the most serious finding first."""
    return _ORDER.index(finding.code), ("FAIL", "NOT_CHECKED", "DEGRADED", "PASS").index(finding.verdict)


# --- before torch is started ------------------------------------------------------------------------------------


def refuse_early(spec: ImageSpec, settings: Settings, devices: Devices) -> None:
    """Raise what can be said without torch: ConfigError, or MismatchError when there is no usable GPU."""
    backend = chosen(spec, settings)
    if not backend.gradients and FORWARD_ONLY not in settings.allow:
        raise ConfigError(
            f"{backend.name} has no gradients on {spec.platform}: a training run would start and learn nothing.",
            f"Use another image to train; if the forward pass is all you need, set ATTN_ALLOW={FORWARD_ONLY}.",
        )
    if spec.device == "cpu":
        return
    if devices.count == 0:
        raise MismatchError(*_no_gpu(spec, devices))
    if devices.driver and spec.driver and older(devices.driver, spec.driver):
        raise MismatchError(
            f"The NVIDIA driver here is {devices.driver}; {spec.platform} needs {spec.driver} or newer.",
            "Update the driver, or start the job on a node that has a newer one.",
        )


def _no_gpu(spec: ImageSpec, devices: Devices) -> tuple[str, str]:
    cpu_image = next((sibling.id for sibling in spec.siblings if sibling.platform == "cpu"), None)
    or_cpu = f" To try it without a GPU, use axolotl-attn:{cpu_image}." if cpu_image else ""
    if devices.listed or devices.driver:
        return (
            f"This machine has an NVIDIA driver ({devices.driver}), but the container was given no GPU.",
            "Add --gpus all to docker run (Kubernetes: resources.limits nvidia.com/gpu), and check that "
            f"CUDA_VISIBLE_DEVICES is not empty.{or_cpu}",
        )
    return (
        f"No NVIDIA GPU is in reach, and {spec.id} needs one.",
        "Start it on a node with an NVIDIA driver and the NVIDIA Container Toolkit, with --gpus all (Kubernetes: "
        f"resources.limits nvidia.com/gpu).{or_cpu}",
    )


def chosen(spec: ImageSpec, settings: Settings) -> BackendSpec:
    """The backend that is tried first."""
    return spec.default if settings.backend == AUTO else next(b for b in spec.backends if b.name == settings.backend)


def fits(spec: ImageSpec, backend: BackendSpec, gpu: dict[str, Any]) -> bool:
    """Whether `backend` claims to run on the device with these facts (events.DEVICE_FIELDS)."""
    return spec.device == "cpu" or spec.architecture_of(str(gpu.get("capability"))) in backend.architectures


def fallback(spec: ImageSpec, settings: Settings, tried: str, gpu: dict[str, Any]) -> BackendSpec | None:
    """The next backend of the image that fits the GPU, when the user left the choice to us (`auto`)."""
    if settings.backend != AUTO:
        return None
    names = [backend.name for backend in spec.backends]
    return next((b for b in spec.backends[names.index(tried) + 1 :] if b.gradients and fits(spec, b, gpu)), None)


# --- what a child measured --------------------------------------------------------------------------------------


def judge(spec: ImageSpec, settings: Settings, outcome: Outcome) -> list[Finding]:
    """Everything to be said of one device, the most serious first; never empty."""
    findings = [*_mismatch(spec, outcome), *_unusable(outcome)]
    if not findings:
        findings = [*_ended(spec, settings, outcome), *_cases(outcome), *_gradients(spec, settings, outcome)]
        findings += [*_observed(outcome), *_speed(spec, settings, outcome)]
    if outcome.ending == "done" and not outcome.cases and not findings:
        findings.append(_internal("The check ended without measuring a single case."))
    if settings.backend == AUTO and outcome.backend != spec.default.name:
        name = spec.architecture_of(str(outcome.gpu.get("capability"))) or "this GPU"
        what = f"{spec.default.name} does not run on {name}; {outcome.backend} was checked in its place."
        findings.append(Finding(verdict="DEGRADED", code=Code.PASS, what=what, advice=f"Train with {outcome.backend}."))
    return sorted(findings, key=rank) or [Finding(verdict="PASS", code=Code.PASS, what=_healthy(outcome))]


def _healthy(outcome: Outcome) -> str:
    share = [f"{s['direction']} {s['tflops']:.3g} TFLOP/s" for s in outcome.speeds]
    return f"{outcome.backend} is right in {len(outcome.cases)} of {len(outcome.cases)} cases; {', '.join(share)}."


def _internal(what: str) -> Finding:
    advice = "Report it with the log in the report; ATTN_CHECK=warn goes past it."
    return Finding(verdict="NOT_CHECKED", code=Code.INTERNAL, what=what, advice=advice)


def _mismatch(spec: ImageSpec, outcome: Outcome) -> list[Finding]:
    backend = spec.backend(outcome.backend)
    if outcome.ending != "stopped" or backend is None:
        return []
    gpu = outcome.gpu
    name = f"{gpu.get('name')} (compute capability {gpu.get('capability')})"
    architecture = spec.architecture_of(str(gpu.get("capability")))
    others = [s.id for s in spec.siblings if architecture in s.architectures]
    here = [b.name for b in spec.backends if b.gradients and fits(spec, b, gpu)]
    advice = f"On this GPU use {' or '.join(others)}." if others else "No image of this release supports this GPU."
    if here:
        advice += f" Or set ATTN_BACKEND={here[0]} in this image."
    what = f"{backend.name} does not support {name}; it runs on {', '.join(backend.architectures)}."
    return [Finding(verdict="NOT_CHECKED", code=Code.MISMATCH, what=what, advice=advice)]


def _unusable(outcome: Outcome) -> list[Finding]:
    if outcome.unusable is None:
        return []
    reason = outcome.unusable["reason"]
    if outcome.unusable.get("subject") == "device":
        what = f"{outcome.device} cannot be used: {reason}"
        advice = "Compare the driver with the image's CUDA version, or start the job on another node."
        return [Finding(verdict="NOT_CHECKED", code=Code.MISMATCH, what=what, advice=advice)]
    what = f"{outcome.backend} cannot be loaded in this image: {reason}"
    advice = "Its packages do not fit each other, so no node can run it: use the released image, or rebuild this one."
    return [Finding(verdict="FAIL", code=Code.CONFIG, what=what, advice=advice)]


def _ended(spec: ImageSpec, settings: Settings, outcome: Outcome) -> list[Finding]:
    """A child that did not reach its end. A kernel's crash or hang on a GPU is the node's matter, all else is ours."""
    if outcome.ending == "done":
        return []
    where = f"in {outcome.phase}" + (f" ({outcome.detail})" if outcome.detail else "")
    if outcome.out_of_memory or outcome.ending == "killed" and outcome.number == signal.SIGKILL:
        cause = "the memory limit was reached" if outcome.out_of_memory else "by SIGKILL, as for want of memory"
        what = f"The check was killed {where}: {cause}."
        advice = "Give the container more memory (docker run --memory, Kubernetes: resources.limits.memory)."
        return [Finding(verdict="NOT_CHECKED", code=Code.INTERNAL, what=what, advice=advice)]
    how = _how(settings, outcome)
    if spec.device == "cuda" and outcome.in_kernels:
        what = f"{outcome.backend} {how} {where} on {outcome.gpu.get('name', outcome.device)}."
        advice = "Start the job on another node, and drain this one until its GPU is tested (dmesg | grep Xid)."
        return [Finding(verdict="FAIL", code=Code.GPU_FAULT, what=what, advice=advice)]
    return [_internal(f"The check of {outcome.backend} {how} {where}.")]


def _how(settings: Settings, outcome: Outcome) -> str:
    match outcome.ending:
        case "timeout":
            return f"was not done after {settings.timeout:g} s (ATTN_TIMEOUT) and hung or waited"
        case "killed":
            return f"crashed with {_signal_name(outcome.number)}"
        case _:
            last = outcome.log.splitlines()[-1] if outcome.log else "no output"
            return f"ended with code {outcome.number} and no result ({last[:300]})"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _cases(outcome: Outcome) -> list[Finding]:
    findings = []
    wrong = [(case["id"], worst) for case in outcome.cases if not (worst := worst_of(case)).within]
    if wrong:
        case_id, worst = max(wrong, key=lambda item: item[1].ratio)
        tensor = worst.tensor if worst.tensor == "out" else f"d{worst.tensor[1:].upper()}"
        how = "is not finite" if worst.rule == "finite" else f"is {worst.ratio:.3g} times its error budget off"
        what = f"{outcome.backend} computes wrong numbers: {tensor} {how} in {case_id}"
        what += f" ({len(wrong)} of {len(outcome.cases)} cases wrong)."
        findings.append(Finding(verdict="FAIL", code=Code.WRONG, what=what, advice=_wrong_advice()))
    memory = [error for error in outcome.case_errors if error.get("out_of_memory")]
    if memory:
        what = f"GPU memory ran out in {memory[0]['id']}: {memory[0]['reason']}"
        advice = "Another process holds the GPU (see nvidia-smi); end it, or start the job on another node."
        findings.append(Finding(verdict="NOT_CHECKED", code=Code.INTERNAL, what=what, advice=advice))
    raised = [error for error in outcome.case_errors if not error.get("out_of_memory")]
    if raised:
        what = f"{outcome.backend} refuses {raised[0]['id']}, which it should run: {raised[0]['reason']}"
        findings.append(Finding(verdict="FAIL", code=Code.WRONG, what=what, advice=_wrong_advice()))
    return findings


def _wrong_advice() -> str:
    return "Do not train with it: keep the report, and use another backend's image until it is understood."


def worst_of(case: dict[str, Any]) -> Measured:
    """The tensor of a case that is nearest to its budget, or farthest past it."""
    present = {name: numbers for name, numbers in case["tensors"].items() if numbers is not None}
    return max((weigh(name, numbers) for name, numbers in present.items()), key=lambda m: (not m.within, m.ratio))


def _gradients(spec: ImageSpec, settings: Settings, outcome: Outcome) -> list[Finding]:
    missing = [(case, name) for case in outcome.cases for name in GRADIENTS if case["tensors"].get(name) is None]
    backend = spec.backend(outcome.backend)
    if backend is not None and not backend.gradients:
        what = f"Forward only: {outcome.backend} has no gradients on {spec.platform} (accepted by ATTN_ALLOW)."
        advice = "Do not train with it."
        return [Finding(verdict="DEGRADED", code=Code.PASS, what=what, advice=advice)]
    if not missing:
        return []
    case, name = missing[0]
    because = f": {case['no_gradient']}" if case.get("no_gradient") else ""
    what = f"{outcome.backend} gives no gradient d{name[1:].upper()} in {case['id']}{because}."
    return [Finding(verdict="FAIL", code=Code.WRONG, what=what, advice=_wrong_advice())]


def _observed(outcome: Outcome) -> list[Finding]:
    observed = (outcome.kernels or {}).get("observed")
    if observed is None or observed == outcome.backend:
        return []
    names = ", ".join((outcome.kernels or {}).get("names", [])[:3])
    what = f"{outcome.backend} was asked for, and {observed} ran ({names})."
    advice = "Training would use that slower or other kernel: use the released image, and report this one."
    return [Finding(verdict="FAIL", code=Code.WRONG, what=what, advice=advice)]


def _speed(spec: ImageSpec, settings: Settings, outcome: Outcome) -> list[Finding]:
    findings = []
    for speed in outcome.speeds:
        share, floor = of_matmul(speed, outcome), floor_of(spec, outcome, speed["direction"])
        if share is None or floor is None or share >= floor:
            continue
        fail = settings.slow == "fail"
        what = f"{outcome.backend} is slow on {outcome.gpu.get('name', 'this CPU')}: {speed['direction']} reaches"
        what += f" {share:.0%} of the matmul ceiling, and should reach {floor:.0%}."
        advice = "Look for another job on the GPU or a throttled clock (nvidia-smi -q -d PERFORMANCE)."
        code, verdict = (Code.SLOW, "FAIL") if fail else (Code.PASS, "DEGRADED")
        findings.append(Finding(verdict=verdict, code=code, what=what, advice=advice))  # type: ignore[arg-type]
    return findings


def of_matmul(speed: dict[str, Any], outcome: Outcome) -> float | None:
    """Attention's throughput as a share of the matmul ceiling measured seconds apart; None without a ceiling."""
    ceiling = (outcome.ceiling or {}).get("matmul_tflops")
    return float(speed["tflops"]) / float(ceiling) if ceiling else None


def floor_of(spec: ImageSpec, outcome: Outcome, direction: str) -> float | None:
    """The least share expected on this device, or None where nothing was measured: unknown never fails."""
    name = str(outcome.gpu.get("name", ""))
    floor: Floor | None = next((f for f in spec.floors if f.backend == outcome.backend and f.gpu in name), None)
    return None if floor is None else floor.forward if direction == "forward" else floor.backward
