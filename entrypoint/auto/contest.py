"""Let `entrypoint.race` time the contestants on the GPU; one that crashes or hangs does not take the others with it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from entrypoint.auto.choice import Failed, Timed, weigh
from entrypoint.children.child import OnEvent, Worker
from entrypoint.children.outcome import Outcome, signal_name
from entrypoint.children.progress import Progress
from entrypoint.events import DeviceFacts, Event, PhaseEvent
from entrypoint.judge.cause import cause
from entrypoint.race.contestant import Contestant, to_json
from entrypoint.shape import Shape

# Of the seconds that are left, what a child may take while there are others to go on without the one that hangs.
SHARE: Final = 2.0 / 3.0


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Where and for how long: `deadline` is time.monotonic's."""

    home: str
    environ: Mapping[str, str]
    device: str
    deadline: float


@dataclass(frozen=True, kw_only=True)
class Standings:
    """What came of each contestant, in their order; `gpu` as the child saw it."""

    timed: tuple[Timed, ...]
    gpu: DeviceFacts | None


def hold(contest: Contest, contestants: Sequence[Contestant], shape: Shape) -> Standings:
    """Time all of them, in a new child without the culprit where one has ended the child before."""
    running, found = list(contestants), dict[str, Timed]()
    gpu: DeviceFacts | None = None
    while running:
        outcome = _child(contest, running, shape)
        gpu = gpu or outcome.gpu
        found |= {item.backend: _result(item.backend, outcome) for item in running}
        # Who is named by no phase of its own is not to blame: then nobody could be timed, for the same reason.
        to_blame = outcome.detail if outcome.detail in found and outcome.in_kernels else None
        if outcome.ending != "done" or outcome.unusable:
            blamed = [to_blame] if to_blame else [item.backend for item in running if _unknown(found[item.backend])]
            why = _ended(outcome)
            found |= {name: _out(found[name], why, _failed(outcome, to_blame)) for name in blamed}
        if outcome.ending == "done" or not to_blame or contest.deadline - time.monotonic() < 1.0:
            break
        running = [item for item in running if item.backend != to_blame and _unknown(found[item.backend])]
    return Standings(timed=tuple(found[item.backend] for item in contestants), gpu=gpu)


def _unknown(timed: Timed) -> bool:
    return timed.total is None and timed.failed is None


def _failed(outcome: Outcome, to_blame: str | None) -> Failed | None:
    """What an early end says of the one to blame. A child that was still computing when the time was up may be slow."""
    slow = outcome.ending == "timeout" and outcome.overrun is not None and outcome.overrun.computing
    if slow:
        return None
    return "broken" if to_blame else "unstarted"


def _out(timed: Timed, why: str, failed: Failed | None) -> Timed:
    """A contestant whose child ended with it; what it raised itself says more than how the child ended."""
    if timed.failed or (failed is None and timed.total is not None):
        return timed
    return Timed(backend=timed.backend, reason=why, failed=failed)


def _child(contest: Contest, contestants: Sequence[Contestant], shape: Shape) -> Outcome:
    left = contest.deadline - time.monotonic()
    seconds = max(1.0, left * (SHARE if len(contestants) > 1 else 1.0))
    arguments = ["--contestants", to_json(contestants), "--shape", shape.to_json(), "--device", contest.device]
    arguments += ["--seconds", f"{seconds:.3f}"]
    names = ",".join(item.backend for item in contestants)
    outcome = Outcome(device=contest.device, backend=names)
    with Worker(contest.home, "entrypoint.race", arguments, dict(contest.environ), outcome) as child:
        return child.run(time.monotonic() + seconds, _progress(contest.device))


def _progress(device: str) -> OnEvent:
    progress = Progress(f"{device} auto", time.monotonic())

    def on_event(event: Event) -> bool:
        if isinstance(event, PhaseEvent) and event.name == "correctness":
            progress.show(event.detail)
        return True

    return on_event


def _result(backend: str, outcome: Outcome) -> Timed:
    """From what arrived: an error of its own first."""
    for error in outcome.case_errors:
        if error.id == backend:
            full = error.out_of_memory
            why = "out of memory" if full else cause(error.reason)
            return Timed(backend=backend, reason=why, failed="memory" if full else "broken")
    return weigh(backend, outcome.cases, outcome.speeds)


def _ended(outcome: Outcome) -> str:
    """How the child came to its end, in the words of a reason."""
    if outcome.unusable:
        return cause(outcome.unusable.reason)
    if outcome.ending == "timeout":
        return "it was not done when the time was up"
    if outcome.out_of_memory:
        return "the machine had no memory left"
    if outcome.ending == "killed":
        return f"it crashed ({signal_name(outcome.number)})"
    last = outcome.log.splitlines()[-1] if outcome.log else "without a word"
    return f"its process ended with {outcome.number}: {last}"
