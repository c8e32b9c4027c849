"""The only place that says PASS, DEGRADED, FAIL or NOT_CHECKED. Pure: facts in, findings out."""

from __future__ import annotations

import signal
from typing import Any, Final

from entrypoint.choice import fits
from entrypoint.judge.budgets import Weighed, weigh_case
from entrypoint.judge.finding import Code, Finding, gpu_fault, internal, rank, too_slow, wrong
from entrypoint.judge.health import judge_health
from entrypoint.judge.speed import judge_speed
from entrypoint.outcome import Outcome, Overrun
from entrypoint.settings import AUTO, Settings
from entrypoint.spec import ImageSpec

GRADIENTS: Final = ("dq", "dk", "dv")
# What is timed beside attention, by the id of its errors: no backend's fault.
CEILINGS: Final = ("matmul", "copy")


def judge(spec: ImageSpec, settings: Settings, outcome: Outcome) -> list[Finding]:
    """Everything to be said of one device, the most serious first; never empty."""
    findings = [*_mismatch(spec, outcome), *_unusable(outcome)]
    if not findings:
        findings = [*_ended(spec, settings, outcome), *judge_health(outcome), *_cases(outcome), *_conduct(outcome)]
        findings += [*_gradients(spec, outcome), *_observed(spec, outcome), *judge_speed(spec, settings, outcome)]
    if outcome.ending == "done" and not outcome.cases and not findings:
        findings.append(internal("The check ended without measuring a single case."))
    if settings.backend == AUTO and outcome.backend != spec.default.name:
        name = spec.architecture_of(str(outcome.gpu.get("capability"))) or "this GPU"
        what = f"{spec.default.name} does not run on {name}; {outcome.backend} was checked in its place."
        advice = f"Train with {outcome.backend}."
        findings.append(Finding(verdict="DEGRADED", code=Code.PASS, kind="fallback", what=what, advice=advice))
    healthy = Finding(verdict="PASS", code=Code.PASS, kind="healthy", what=_all_right(outcome))
    return sorted(findings, key=rank) or [healthy]


def _all_right(outcome: Outcome) -> str:
    right = f"{outcome.backend} is right in {len(outcome.cases)} of {len(outcome.cases)} cases"
    if outcome.left_out:
        right += f", {len(outcome.left_out)} left out"
    speeds = ", ".join(f"{direction} {_fastest(outcome, direction)}" for direction in _directions(outcome))
    return f"{right}; {speeds}." if speeds else f"{right}."


def _directions(outcome: Outcome) -> list[str]:
    return list(dict.fromkeys(speed["direction"] for speed in outcome.speeds))


def _fastest(outcome: Outcome, direction: str) -> str:
    """The best throughput of a GPU; of a CPU, whose TFLOP/s nobody can compare, the time of its call."""
    speeds = [speed for speed in outcome.speeds if speed["direction"] == direction]
    if outcome.ceiling is None:
        return f"{1000.0 * min(float(speed['seconds']) for speed in speeds):.3g} ms"
    return f"{max(float(speed['tflops']) for speed in speeds):.3g} TFLOP/s"


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
        return [Finding(verdict="NOT_CHECKED", code=Code.MISMATCH, kind="device", what=what, advice=advice)]
    what = f"{outcome.backend} cannot be loaded in this image: {reason}"
    advice = "Its packages do not fit each other, so no node can run it: use the released image, or rebuild this one."
    return [Finding(verdict="FAIL", code=Code.CONFIG, kind="unusable", what=what, advice=advice)]


def _ended(spec: ImageSpec, settings: Settings, outcome: Outcome) -> list[Finding]:
    """A child that did not reach its end.

    A kernel's crash or hang on a GPU is the GPU's matter. Elsewhere one that was computing when its time was up is a
    machine too slow for the limit. All else is ours.
    """
    if outcome.ending == "done":
        return []
    where = f"in {outcome.phase}" + (f" ({outcome.detail})" if outcome.detail else "")
    if outcome.out_of_memory or outcome.ending == "killed" and outcome.number == signal.SIGKILL:
        cause = "the memory limit was reached" if outcome.out_of_memory else "by SIGKILL, as for want of memory"
        what = f"The check was killed {where}: {cause}."
        advice = "Give the container more memory (docker run --memory, Kubernetes: resources.limits.memory)."
        return [Finding(verdict="NOT_CHECKED", code=Code.INTERNAL, kind="killed", what=what, advice=advice)]
    how = _how(settings, outcome)
    if spec.device == "cuda" and outcome.in_kernels:
        xids = "".join(f"; the driver reported Xid {xid}" for xid in (outcome.health or {}).get("xids") or ())
        what = f"{outcome.backend} {how} {where} on {outcome.gpu.get('name', outcome.device)}{xids}."
        advice = "Start the job on another node, and drain this one until its GPU is tested (dmesg | grep Xid)."
        return [gpu_fault("ended", what, advice)]
    if outcome.overrun and outcome.overrun.computing:
        return [_out_of_time(settings, outcome, outcome.overrun, where)]
    lasted = f", for {outcome.overrun.lasted:.0f} s and without computing" if outcome.overrun else ""
    return [internal(f"The check of {outcome.backend} {how} {where}{lasted}.")]


def _out_of_time(settings: Settings, outcome: Outcome, overrun: Overrun, where: str) -> Finding:
    """A loop without an end looks the same from outside, so the advice says how to tell it."""
    processors = f"{overrun.processors} processor{'s' if overrun.processors > 1 else ''}"
    what = f"This machine is too slow for the limit: after {settings.timeout:g} s (ATTN_TIMEOUT) the check of"
    what += f" {outcome.backend} was still computing {where}, for {overrun.lasted:.0f} s so far, on {processors} of"
    what += f" {overrun.processor}."
    advice = f"Set ATTN_TIMEOUT={3 * settings.timeout:g}, give the container more CPUs (docker run --cpus, Kubernetes:"
    advice += " resources.requests.cpu), or use another node. If it stops there on a fast machine too, report it."
    return too_slow(what, advice)


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


def _way_out(outcome: Outcome) -> str:
    """What is known to help when a kernel computes wrong numbers; empty: nothing but another backend."""
    names: list[str] = outcome.kernels.get(outcome.backend, {}).get("names", [])
    if outcome.backend == "sdpa" and any("cudnn" in name for name in names):
        # On an H200, torch 2.11.0 with cuDNN 9.19 failed and torch's FlashAttention kernel passed (DECISIONS.md).
        return (
            "It is cuDNN's kernel: set TORCH_CUDNN_SDPA_DEPRIORITIZED=1, and torch prefers its FlashAttention kernel."
        )
    return ""


def _cases(outcome: Outcome) -> list[Finding]:
    findings = []
    over = [(case["id"], worst) for case in outcome.cases if not (worst := worst_of(case)).within]
    if over:
        case_id, worst = max(over, key=lambda item: item[1].ratio)
        how = "is not finite" if worst.rule == "finite" else f"is {worst.ratio:.3g} times its error budget off"
        what = f"{outcome.backend} computes wrong numbers: {_spoken(worst.tensor)} {how} in {case_id}"
        what += f" ({len(over)} of {len(outcome.cases)} cases wrong)."
        findings.append(wrong("numbers", what, _way_out(outcome)))
    memory = [error for error in outcome.case_errors if error.get("out_of_memory")]
    if memory:
        what = f"GPU memory ran out in {memory[0]['id']}: {memory[0]['reason']}"
        advice = "Another process holds the GPU (see nvidia-smi); end it, or start the job on another node."
        none = Finding(verdict="NOT_CHECKED", code=Code.INTERNAL, kind="memory", what=what, advice=advice)
        findings.append(none)
    raised = [error for error in outcome.case_errors if not error.get("out_of_memory")]
    ceilings = [error for error in raised if error["id"] in CEILINGS]
    if ceilings:
        findings.append(internal(f"The {ceilings[0]['id']} beside attention failed: {ceilings[0]['reason']}"))
    raised = [error for error in raised if error["id"] not in CEILINGS]
    if raised:
        what = f"{outcome.backend} refuses {raised[0]['id']}, which it should run: {raised[0]['reason']}"
        findings.append(wrong("refuses", what))
    return findings


def worst_of(case: dict[str, Any]) -> Weighed:
    """The tensor of a case that is nearest to its budget, or farthest past it."""
    return max(weigh_case(case), key=lambda measured: (not measured.within, measured.ratio))


def conduct_of(case: dict[str, Any]) -> str | None:
    """What a case did beside computing, that no kernel may do; None when nothing was seen of the kind."""
    if case.get("mutated"):
        return f"writes into its input {', '.join(name.upper() for name in case['mutated'])}"
    if case.get("repeatable") is False:
        return "gives other bits in a second run, where it claims to repeat them"
    return None


def _conduct(outcome: Outcome) -> list[Finding]:
    """Right numbers are not enough: inputs stay as they are, and what is claimed to be repeatable repeats."""
    seen = [(case["id"], conduct) for case in outcome.cases if (conduct := conduct_of(case))]
    findings = []
    for conduct in dict.fromkeys(conduct for _, conduct in seen):
        ids = [case_id for case_id, other in seen if other == conduct]
        what = f"{outcome.backend} {conduct}: in {ids[0]} ({len(ids)} of {len(outcome.cases)} cases)."
        findings.append(wrong(f"conduct: {conduct}", what))
    return findings


def _spoken(tensor: str) -> str:
    """The name as papers write it: dQ of dq."""
    return {"dq": "dQ", "dk": "dK", "dv": "dV", "lse": "logsumexp"}.get(tensor, tensor)


def lacks_gradient(spec: ImageSpec, outcome: Outcome, case: dict[str, Any]) -> str | None:
    """The first gradient that a case does not have although the backend claims it; None when none is missing."""
    backend = spec.backend(outcome.backend)
    if backend is not None and not backend.gradients:
        return None
    return next((_spoken(name) for name in GRADIENTS if case["tensors"].get(name) is None), None)


def _gradients(spec: ImageSpec, outcome: Outcome) -> list[Finding]:
    backend = spec.backend(outcome.backend)
    if backend is not None and not backend.gradients:
        what = f"Forward only: {outcome.backend} has no gradients on {spec.platform} (accepted by ATTN_ALLOW)."
        advice = "Do not train with it: what lies before attention would get no gradient."
        return [Finding(verdict="DEGRADED", code=Code.PASS, kind="forward-only", what=what, advice=advice)]
    missing = [(case, name) for case in outcome.cases if (name := lacks_gradient(spec, outcome, case))]
    if not missing:
        return []
    case, name = missing[0]
    because = f": {case['no_gradient']}" if case.get("no_gradient") else ""
    what = f"{outcome.backend} gives no gradient {name} in {case['id']}{because}"
    return [wrong("no-gradient", f"{what} ({len(missing)} of {len(outcome.cases)} cases).")]


def _observed(spec: ImageSpec, outcome: Outcome) -> list[Finding]:
    """The kernel that ran is the one asked for. Nothing recorded at all proves nothing: the report has a note of it."""
    findings = []
    for asked, kernels in outcome.kernels.items():
        observed, names = kernels.get("observed"), ", ".join(kernels.get("names", [])[:3])
        if observed is None and spec.device == "cuda" and kernels.get("recorded"):
            what = f"No attention kernel of {asked} ran: the profiler saw {names or 'others'} alone."
            advice = "Its output is memory that nobody wrote: keep the report, and use another backend's image."
            findings.append(wrong(f"no kernel of {asked}", what, advice))
        elif observed is not None and observed != asked:
            what = f"{asked} was asked for, and {observed} ran ({names})."
            advice = "Training would use that slower or other kernel: use the released image, and report this one."
            findings.append(wrong(f"other kernel than {asked}", what, advice))
    return findings


def notes_of(spec: ImageSpec, outcome: Outcome) -> list[str]:
    """What was not proved, although nothing spoke against it."""
    notes = []
    if outcome.left_out:
        more = "More CPUs, a larger ATTN_TIMEOUT or, with kernels compiled by then, a later start gets to them."
        notes.append(f"Not run, for want of time: {', '.join(outcome.left_out)}. {more}")
    for asked, kernels in outcome.kernels.items():
        if kernels.get("observed") is None and not kernels.get("recorded") and spec.device == "cuda":
            because = f" ({kernels['reason']})" if kernels.get("reason") else ""
            notes.append(f"Which kernel ran for {asked} is not proved: the profiler recorded none{because}.")
    return notes
