"""The only place that says PASS, DEGRADED, FAIL or NOT_CHECKED. Pure: facts in, findings out."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from entrypoint.children.outcome import Outcome, Overrun, signal_name
from entrypoint.choice import architecture_of, fits, may_start, vendor_of
from entrypoint.events import CaseErrorEvent, CaseEvent, Direction, TensorName
from entrypoint.judge.budgets import Weighed, weigh_case, worst_of
from entrypoint.judge.cause import cause
from entrypoint.judge.finding import Code, Finding, gpu_fault, internal, rank, too_slow, wrong
from entrypoint.judge.health import judge_health
from entrypoint.judge.speed import judge_speed
from entrypoint.settings import AUTO, Settings
from entrypoint.spec import ImageSpec

GRADIENTS: Final[tuple[TensorName, ...]] = ("dq", "dk", "dv")
# What is timed beside attention, by the id of its errors: no backend's fault.
CEILINGS: Final = ("matmul", "copy")


@dataclass(frozen=True, kw_only=True)
class JudgedCase:
    """A case, each of its tensors weighed against its budget, and the one that came nearest to its limit.

    `conduct` is what the kernel did that none may do; `missing` is the first gradient that is not there although the
    backend claims to have it.
    """

    event: CaseEvent
    weighed: tuple[Weighed, ...]
    worst: Weighed
    conduct: str | None
    missing: str | None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One device's outcome and what is said of it: the findings, never none, with the most serious one first."""

    outcome: Outcome
    cases: tuple[JudgedCase, ...]
    findings: tuple[Finding, ...]


def judge(spec: ImageSpec, settings: Settings, outcome: Outcome) -> Judged:
    """Everything to be said of one device."""
    cases = tuple(_weigh(spec, outcome, case) for case in outcome.cases)
    findings = [*_mismatch(spec, outcome), *_unusable(outcome)]
    if not findings:
        findings = [*_ended(spec, settings, outcome), *judge_health(outcome), *_lost(outcome)]
        findings += [*_numbers(outcome, cases), *_case_errors(spec, outcome), *_conduct(outcome, cases)]
        findings += [*_gradients(spec, outcome, cases), *_observed(spec, outcome)]
        findings += judge_speed(spec, settings, outcome)
    if outcome.ending == "done" and not outcome.cases and not findings:
        findings.append(internal("The check ended without measuring a single case."))
    findings += _fallback(spec, settings, outcome)
    healthy = Finding(verdict="PASS", code=Code.PASS, kind="healthy", what=_all_right(outcome))
    return Judged(outcome=outcome, cases=cases, findings=tuple(sorted(findings, key=rank)) or (healthy,))


def _weigh(spec: ImageSpec, outcome: Outcome, case: CaseEvent) -> JudgedCase:
    weighed = weigh_case(case)
    return JudgedCase(
        event=case,
        weighed=weighed,
        worst=worst_of(weighed),
        conduct=conduct_of(case),
        missing=_lacks_gradient(spec, outcome, case),
    )


def _all_right(outcome: Outcome) -> str:
    right = f"{outcome.backend} is right in {len(outcome.cases)} of {len(outcome.cases)} cases"
    if outcome.done and outcome.done.left_out:
        right += f", {len(outcome.done.left_out)} left out"
    speeds = ", ".join(f"{direction} {_fastest(outcome, direction)}" for direction in _directions(outcome))
    return f"{right}; {speeds}." if speeds else f"{right}."


def _directions(outcome: Outcome) -> list[Direction]:
    return list(dict.fromkeys(speed.direction for speed in outcome.speeds))


def _fastest(outcome: Outcome, direction: Direction) -> str:
    """The best throughput of a GPU; of a CPU, whose TFLOP/s nobody can compare, the time of its call."""
    speeds = [speed for speed in outcome.speeds if speed.direction == direction]
    if outcome.ceiling is None:
        return f"{1000.0 * min(speed.seconds for speed in speeds):.3g} ms"
    return f"{max(speed.tflops for speed in speeds):.3g} TFLOP/s"


def _mismatch(spec: ImageSpec, outcome: Outcome) -> list[Finding]:
    backend, gpu = spec.backend(outcome.backend), outcome.gpu
    if outcome.ending != "stopped" or backend is None:
        return []
    capability = gpu.capability if gpu else None
    architecture = architecture_of(spec, gpu)
    others = [s.id for s in spec.siblings if architecture in s.architectures]
    here = [b.name for b in spec.backends if b.gradients and fits(spec, b, gpu)]
    advice = f"On this GPU use {' or '.join(others)}." if others else "No image of this release supports this GPU."
    if here:
        advice += f" Or set ATTN_BACKEND={here[0]} in this image."
    name = f"{outcome.name} ({_chip(capability)})"
    what = f"{backend.name} does not support {name}; it runs on {', '.join(backend.architectures)}."
    return [Finding(verdict="NOT_CHECKED", code=Code.MISMATCH, what=what, advice=advice)]


def _chip(capability: str | None) -> str:
    """ "compute capability 9.0", or AMD's "gfx942"."""
    return capability if capability and capability.startswith("gfx") else f"compute capability {capability}"


def _fallback(spec: ImageSpec, settings: Settings, outcome: Outcome) -> list[Finding]:
    """Under `auto`, why the backend that was checked is not the image's first."""
    first = spec.default
    if settings.backend != AUTO or outcome.backend == first.name:
        return []
    why = f"does not run on {architecture_of(spec, outcome.gpu) or 'this GPU'}"
    if not may_start(first, settings):
        why = f"has no gradients on {spec.platform}"
    what = f"{first.name} {why}; {outcome.backend} was checked in its place."
    advice = f"Train with {outcome.backend}."
    return [Finding(verdict="DEGRADED", code=Code.PASS, kind="fallback", what=what, advice=advice)]


def _unusable(outcome: Outcome) -> list[Finding]:
    unusable = outcome.unusable
    if unusable is None:
        return []
    if unusable.subject == "device":
        what = f"{outcome.device} cannot be used: {cause(unusable.reason)}"
        advice = "Compare the driver with what the image's platform needs, or start the job on another node."
        return [_not_checked(Code.MISMATCH, "device", what, advice, unusable.reason)]
    what = f"{outcome.backend} cannot be loaded in this image: {cause(unusable.reason)}"
    advice = "Its packages do not fit each other, so no node can run it: use the released image, or rebuild this one."
    log = unusable.reason
    return [Finding(verdict="FAIL", code=Code.CONFIG, kind="unusable", what=what, advice=advice, log=log)]


def _not_checked(code: Code, kind: str, what: str, advice: str, log: str = "") -> Finding:
    return Finding(verdict="NOT_CHECKED", code=code, kind=kind, what=what, advice=advice, log=log)


def _lost(outcome: Outcome) -> list[Finding]:
    """What the child measured and the parent could not read: it might have been the case that fails."""
    if not outcome.lost:
        return []
    lost = ", ".join(f"{name} ({count})" for name, count in outcome.lost.items())
    what = f"What {outcome.backend} measured did not all arrive: of the child's events {lost} cannot be read."
    return [internal(what, kind="lost")]


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
        return [_not_checked(Code.INTERNAL, "killed", what, advice)]
    how = _how(settings, outcome)
    if spec.device == "cuda" and outcome.in_kernels:
        xids = "".join(f"; the driver reported Xid {xid}" for xid in (outcome.health and outcome.health.xids) or ())
        what = f"{outcome.backend} {how} {where} on {outcome.name}{xids}."
        log = vendor_of(spec).log
        advice = f"Start the job on another node, and drain this one until its GPU is tested ({log})."
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
            return f"crashed with {signal_name(outcome.number)}"
        case _:
            return f"ended with code {outcome.number} and no result ({cause(outcome.log) or 'no output'})"


def _way_out(outcome: Outcome) -> str:
    """What is known to help when a kernel computes wrong numbers; empty: nothing but another backend."""
    kernels = outcome.kernels.get(outcome.backend)
    names = kernels.names if kernels else ()
    # On an H200, torch 2.11.0 with cuDNN 9.19 failed and torch's FlashAttention kernel passed (DECISIONS.md).
    if outcome.backend == "sdpa-cudnn":
        return "It is cuDNN's kernel: set ATTN_BACKEND=sdpa, and torch takes its FlashAttention kernel."
    if outcome.backend == "sdpa" and any("cudnn" in name for name in names):
        return (
            "It is cuDNN's kernel: set TORCH_CUDNN_SDPA_DEPRIORITIZED=1, and torch prefers its FlashAttention kernel."
        )
    return ""


def _numbers(outcome: Outcome, cases: Sequence[JudgedCase]) -> list[Finding]:
    over = [case for case in cases if not case.worst.within]
    if not over:
        return []
    first, worst = max(((case, case.worst) for case in over), key=lambda item: item[1].ratio)
    how = f"is {worst.ratio:.3g} times its error budget off"
    if math.isinf(worst.ratio):
        rules = {"finite": "is not finite", "missing": "was not measured"}
        how = rules.get(worst.rule, "has an error that is not a number")
    what = f"{outcome.backend} computes wrong numbers: {_spoken(worst.tensor)} {how} in {first.event.id}"
    what += f" ({len(over)} of {len(cases)} cases wrong)."
    return [wrong("numbers", what, _way_out(outcome))]


def _case_errors(spec: ImageSpec, outcome: Outcome) -> list[Finding]:
    """What was raised instead of a result, the first of each kind: want of memory, a ceiling, a refusal."""
    findings = []
    if memory := _first(error for error in outcome.case_errors if error.out_of_memory):
        what = f"GPU memory ran out in {memory.id}: {cause(memory.reason)}"
        holder = f"Another process holds the GPU (see {vendor_of(spec).tool})"
        advice = f"{holder}; end it, or start the job on another node."
        findings.append(_not_checked(Code.INTERNAL, "memory", what, advice, memory.reason))
    raised = [error for error in outcome.case_errors if not error.out_of_memory]
    if ceiling := _first(error for error in raised if error.id in CEILINGS):
        what = f"The {ceiling.id} beside attention failed: {cause(ceiling.reason)}"
        findings.append(internal(what, log=ceiling.reason))
    if refused := _first(error for error in raised if error.id not in CEILINGS):
        what = f"{outcome.backend} refuses {refused.id}, which it should run: {cause(refused.reason)}"
        findings.append(wrong("refuses", what, log=refused.reason))
    return findings


def _first(errors: Iterable[CaseErrorEvent]) -> CaseErrorEvent | None:
    return next(iter(errors), None)


def conduct_of(case: CaseEvent) -> str | None:
    """What a case did beside computing, that no kernel may do; None when nothing was seen of the kind."""
    if case.mutated:
        return f"writes into its input {', '.join(name.upper() for name in case.mutated)}"
    if case.repeatable is False:
        return "gives other bits in a second run, where it claims to repeat them"
    return None


def _conduct(outcome: Outcome, cases: Sequence[JudgedCase]) -> list[Finding]:
    """Right numbers are not enough: inputs stay as they are, and what is claimed to be repeatable repeats."""
    findings = []
    for conduct in dict.fromkeys(case.conduct for case in cases if case.conduct):
        ids = [case.event.id for case in cases if case.conduct == conduct]
        what = f"{outcome.backend} {conduct}: in {ids[0]} ({len(ids)} of {len(cases)} cases)."
        findings.append(wrong(f"conduct: {conduct}", what))
    return findings


def _spoken(tensor: str) -> str:
    """The name as papers write it: dQ of dq."""
    return {"dq": "dQ", "dk": "dK", "dv": "dV", "lse": "logsumexp"}.get(tensor, tensor)


def _lacks_gradient(spec: ImageSpec, outcome: Outcome, case: CaseEvent) -> str | None:
    """The first gradient that a case does not have although the backend claims it; None when none is missing."""
    backend = spec.backend(outcome.backend)
    if backend is not None and not backend.gradients:
        return None
    return next((_spoken(name) for name in GRADIENTS if case.tensors.get(name) is None), None)


def _gradients(spec: ImageSpec, outcome: Outcome, cases: Sequence[JudgedCase]) -> list[Finding]:
    backend = spec.backend(outcome.backend)
    if backend is not None and not backend.gradients:
        what = f"Forward only: {outcome.backend} has no gradients on {spec.platform} (accepted by ATTN_ALLOW)."
        advice = "Do not train with it: what lies before attention would get no gradient."
        return [Finding(verdict="DEGRADED", code=Code.PASS, kind="forward-only", what=what, advice=advice)]
    without = [case for case in cases if case.missing]
    if not without:
        return []
    first = without[0]
    reason = first.event.no_gradient or ""
    because = f": {cause(reason)}" if reason else ""
    what = f"{outcome.backend} gives no gradient {first.missing} in {first.event.id}{because}"
    return [wrong("no-gradient", f"{what} ({len(without)} of {len(cases)} cases).", log=reason)]


def _observed(spec: ImageSpec, outcome: Outcome) -> list[Finding]:
    """The kernel that ran is the one asked for. Nothing recorded at all proves nothing: the report has a note of it."""
    findings = []
    for asked, kernels in outcome.kernels.items():
        names = ", ".join(kernels.names[:3])
        if kernels.observed is None and spec.device == "cuda" and kernels.recorded:
            what = f"No attention kernel of {asked} ran: the profiler saw {names or 'others'} alone."
            advice = "Its output is memory that nobody wrote: keep the report, and use another backend's image."
            findings.append(wrong(f"no kernel of {asked}", what, advice))
        elif kernels.observed is not None and kernels.observed != asked:
            what = f"{asked} was asked for, and {kernels.observed} ran ({names})."
            advice = "Training would use that slower or other kernel: use the released image, and report this one."
            findings.append(wrong(f"other kernel than {asked}", what, advice))
    return findings


def notes_of(spec: ImageSpec, outcome: Outcome) -> list[str]:
    """What was not proved, although nothing spoke against it, and what is known to be wrong beyond the cases."""
    notes = [f"{known.package} {known.version}: {known.what} ({known.source})." for known in spec.limitations]
    if any(outcome.backend == kernel.name for kernel in spec.kernels):
        notes.append(
            f"{outcome.backend} is forced here and only preferred in the command: another kernel runs the calls that "
            "it refuses, and calls unlike these cases, such as other head dims, are not checked."
        )
    if outcome.garbled:
        lines, say = ("1 line", "it says") if outcome.garbled == 1 else (f"{outcome.garbled} lines", "they say")
        notes.append(f"{lines} of the child of {outcome.device} cannot be read, and what {say} is not known.")
    if outcome.done and outcome.done.left_out:
        more = "More CPUs, a larger ATTN_TIMEOUT or, with kernels compiled by then, a later start gets to them."
        notes.append(f"Not run, for want of time: {', '.join(outcome.done.left_out)}. {more}")
    for asked, kernels in outcome.kernels.items():
        if kernels.observed is None and not kernels.recorded and spec.device == "cuda":
            because = f" ({cause(kernels.reason)})" if kernels.reason else ""
            notes.append(f"Which kernel ran for {asked} is not proved: the profiler recorded none{because}.")
    return notes
