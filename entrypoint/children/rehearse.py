"""The parent's side of a rehearsal: whether there is one, its child, and what it left behind.

Loaded only by a start that trains. Judging is entrypoint.judge.rehearsal.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping

from entrypoint.judge.finding import Code, Finding
from entrypoint.kept import cache, digest, kernels_cache
from entrypoint.light import TYPE_CHECKING, dataclass
from entrypoint.preflight import model as models
from entrypoint.preflight.facts import Facts
from entrypoint.preflight.flight import Flight
from entrypoint.rehearsal import configuration

if TYPE_CHECKING:
    from typing import Any, Final

    from entrypoint.children.child import Worker
    from entrypoint.rehearsal.events import RehearsalEvent
    from entrypoint.rehearsal.outcome import Rehearsal

# With less left of the time limit, none is begun: it would only be stopped.
LEAST_SECONDS: Final = 3.0
# Variables that a launcher sets for its own processes, and that would make one of ours wait for others.
_LAUNCHERS: Final = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
)
_SELECTIONS: Final = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A start that may be rehearsed.

    `home` is that of this package, `seconds` the limit of the whole check, and `deadline` (time.monotonic) its end.
    `directory` and `key` are the verdict cache's; None keeps nothing. `note` takes a sentence for the report. `early`
    has begun beside the check.
    """

    flight: Flight
    home: str
    environ: dict[str, str]
    seconds: float
    deadline: float
    directory: str | None
    key: cache.Key | None
    note: Callable[[str], None]
    early: Worker[Rehearsal] | None = None

    @property
    def device(self) -> str:
        """The first GPU: what differs from one to the next, the kernel's check has seen."""
        return "cpu" if self.flight.facts.on_cpu else "cuda:0"


def rehearsed(wanted: Wanted, report: dict[str, Any]) -> dict[str, Any]:
    """The report of the check with that of the rehearsal in it: run now, or kept from an earlier start."""
    action = wanted.flight.request.action
    if action != "train":
        return {**report, "rehearsal": None}
    file, reason = _model(wanted)
    if file is None or reason:
        return with_rehearsal(report, *_none(action, reason))
    key = _key(wanted, file)
    kept = cache.load(wanted.directory, key, wanted.note) if key is not None and wanted.directory is not None else None
    if kept is not None:
        passed = Finding(verdict="PASS", code=Code.PASS, what=kept["what"])
        return with_rehearsal(report, {**kept["rehearsal"], "cached": True}, passed)
    part, finding = _now(wanted, file)
    if key is not None and wanted.directory is not None:
        document = {"verdict": finding.verdict, "rehearsal": part, "what": finding.what}
        cache.save(wanted.directory, key, document, wanted.note)
    return with_rehearsal(report, part, finding)


# What judges and measures is loaded where it is needed: a start that finds all in the cache has no use for it.


def _none(action: str, reason: str) -> tuple[dict[str, Any], Finding]:
    from entrypoint.judge.rehearsal import not_rehearsed
    from entrypoint.report.rehearsed import rehearsal_part

    finding = not_rehearsed(reason)
    return rehearsal_part(action, None, finding), finding


def _now(wanted: Wanted, file: str) -> tuple[dict[str, Any], Finding]:
    from entrypoint.judge.rehearsal import judge
    from entrypoint.report.rehearsed import rehearsal_part

    outcome = run(wanted, file)
    finding = judge(wanted.flight, outcome, wanted.seconds)
    return rehearsal_part(wanted.flight.request.action, outcome, finding), finding


def _model(wanted: Wanted) -> tuple[str | None, str]:
    """The model's config.json, or why there is nothing to rehearse."""
    facts = wanted.flight.facts
    reason = _unknown(facts) or configuration.why_not(facts.config.values)
    if reason is not None:
        return None, reason
    file, missing = models.find(facts.config, wanted.environ)
    if file is None or facts.model is None:
        return None, missing or f"{file} cannot be read"
    if wanted.deadline - time.monotonic() < LEAST_SECONDS:
        return None, f"the check has used up its {wanted.seconds:g} s (ATTN_TIMEOUT)"
    return file, ""


def _unknown(facts: Facts) -> str | None:
    """What of this image or model the rehearsal does not know."""
    if not facts.has("axolotl"):
        return "this image has no Axolotl"
    if not facts.axolotl:
        return f"Axolotl {facts.packages['axolotl']} is not known here"
    if facts.model is not None and facts.model.wrapped:
        return f"the language model of {facts.model.type} is one part of several"
    return "the model brings its own code (trust_remote_code)" if facts.on("trust_remote_code") else None


def _key(wanted: Wanted, file: str) -> cache.Key | None:
    """The check's own, and what the run adds to it: its configuration under its flags, and its model's."""
    if wanted.key is None:
        return None
    with open(file, "rb") as opened:
        model = digest.of(opened.read())
    decides = {
        "configuration": digest.of_value(wanted.flight.facts.config.values),
        "model": model,
        "allowed": sorted(wanted.flight.allowed),
    }
    return {**wanted.key, "rehearsal": decides}


def begun(wanted: Wanted) -> Worker[Rehearsal] | None:
    """The child ahead of its time, where there will be something to rehearse if the check passes."""
    file, reason = _model(wanted) if wanted.flight.request.action == "train" else (None, "")
    return None if file is None or reason else _worker(wanted, file, waits=True)


def run(wanted: Wanted, file: str) -> Rehearsal:
    """Start the child, unless it has begun, and read it to its end, within what is left of the time limit."""
    before = kernels_cache.compiled(wanted.environ)
    began = time.monotonic()
    with _child(wanted, file) as worker:
        outcome = worker.run(wanted.deadline, _told())
    outcome.lasted = time.monotonic() - began
    outcome.compiled = len(kernels_cache.compiled(wanted.environ) - before)
    return outcome


def _child(wanted: Wanted, file: str) -> Worker[Rehearsal]:
    """The one that waits, if it still does and the check has changed nothing of what it was started with."""
    if wanted.early is not None and wanted.early.asked == _asked(wanted, file) and wanted.early.go():
        return wanted.early
    return _worker(wanted, file)


def _worker(wanted: Wanted, file: str, *, waits: bool = False) -> Worker[Rehearsal]:
    from entrypoint.children.child import Worker
    from entrypoint.rehearsal.outcome import Rehearsal

    outcome = Rehearsal(device=wanted.device, backend=wanted.flight.backend or "")
    return Worker(wanted.home, "entrypoint.rehearsal", *_asked(wanted, file), outcome, waits=waits)


def _asked(wanted: Wanted, file: str) -> tuple[list[str], dict[str, str]]:
    """The child's arguments and environment."""
    facts = wanted.flight.facts
    arguments = ["--config", facts.config.path, "--flags", json.dumps(wanted.flight.request.flags)]
    arguments += ["--merged", json.dumps(dict(facts.config.values), default=str), "--model", os.path.dirname(file)]
    arguments += ["--device", wanted.device, "--backend", wanted.flight.backend or ""]
    return arguments, _environment(wanted.environ)


def _told() -> Callable[[RehearsalEvent], bool]:
    """Show the stages as they come."""
    from entrypoint.children.progress import Progress
    from entrypoint.rehearsal.events import StageEvent

    progress = Progress("rehearsal", time.monotonic())

    def on_event(event: RehearsalEvent) -> bool:
        if isinstance(event, StageEvent):
            progress.show(event.name)
        return True

    return on_event


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The user's, for one process on its first GPU, with caches of data sets in a folder of its own."""
    ours = {key: value for key, value in environ.items() if key not in _LAUNCHERS}
    for name in _SELECTIONS:
        if first := ours.get(name, "").partition(",")[0]:
            ours[name] = first
    if not any(ours.get(name) for name in _SELECTIONS):
        ours["CUDA_VISIBLE_DEVICES"] = "0"
    data = os.path.join(ours.get("TMPDIR") or "/tmp", "attn", "datasets")
    # To compile Axolotl's packing takes a second, and to pack a handful of documents without that nothing.
    ours = {"NUMBA_DISABLE_JIT": "1", **ours}
    return {**ours, "HF_DATASETS_CACHE": data, "AXOLOTL_DO_NOT_TRACK": "1", "WANDB_MODE": "disabled"}


def with_rehearsal(report: dict[str, Any], part: dict[str, Any], finding: Finding) -> dict[str, Any]:
    """The check's report with what the rehearsal found: a failure decides, all else adds its sentence."""
    headline = report["headline"]
    if finding.code is not Code.PASS:
        return {
            **report,
            "verdict": finding.verdict,
            "code": {"name": finding.code.name, "number": finding.code.value},
            "reasons": [finding.sentence, *(r for r in report["reasons"] if report["verdict"] != "PASS")],
            "headline": {"what": finding.what, "advice": finding.advice},
            "logs": [*report["logs"], *filter(None, [finding.log])],
            "rehearsal": part,
        }
    if finding.verdict == "DEGRADED":
        reasons = [*(r for r in report["reasons"] if report["verdict"] != "PASS"), finding.sentence]
        return {**report, "verdict": "DEGRADED", "reasons": reasons, "rehearsal": part}
    if finding.verdict == "PASS":
        return {**report, "headline": {**headline, "what": f"{headline['what']} {finding.what}"}, "rehearsal": part}
    return {**report, "rehearsal": part}
