"""One start under ATTN_BACKEND=auto: from a run and an image to the choice, and to the command that follows it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from entrypoint.auto import choice, copy
from entrypoint.auto.candidates import Candidate, candidates
from entrypoint.auto.choice import Timed
from entrypoint.console import say
from entrypoint.errors import ConfigError, NoBackendError
from entrypoint.kept import digest
from entrypoint.machine.devices import Devices
from entrypoint.preflight import config, software
from entrypoint.preflight.commandline import parse, replaced
from entrypoint.preflight.facts import Stage
from entrypoint.preflight.flight import Flight, look
from entrypoint.preflight.judge import KEYS, apply
from entrypoint.preflight.shape import WITH_FLOAT32, shape_of
from entrypoint.shape import Shape

# Of the whole check's time, what the race may take.
SHARE: Final = 0.5
# A CPU's part of the shape: enough to show that a kernel is right, in seconds.
_CPU_LENGTH: Final = 256
_CPU_KV_HEADS: Final = 2


@dataclass(frozen=True, kw_only=True)
class Auto:
    """A run whose attention can be chosen. `shape` is what is timed; `command` is empty where only the check was asked
    for; `fixed`: it does not name its configuration."""

    flight: Flight
    shape: Shape
    command: tuple[str, ...]
    fixed: bool

    @property
    def key(self) -> dict[str, str]:
        """Digests of all that a choice depends on, beside image, GPU and settings: for the verdict cache."""
        facts = self.flight.facts
        known = facts.model and asdict(facts.model)
        asked = [dict(facts.config.values), list(facts.config.dropped), facts.action, self.fixed]
        return {"config": digest.of_value(asked), "model": digest.of_value(known)}

    def candidates(self) -> tuple[Candidate, ...]:
        return candidates(self.flight.facts, self.flight.allowed, fixed=self.fixed)

    # --- the choice -------------------------------------------------------------------------------------------------

    def choose(self, home: str, environ: Mapping[str, str], timeout: float) -> dict[str, Any]:
        """The report's part `choice`: the candidates that the rules allow are timed, and the fastest right one taken.

        Raises NoBackendError where none that was tried may be used.
        """
        from entrypoint.auto.contest import Contest, hold  # not for a start that remembers

        began = time.monotonic()
        allowed = [item for item in self.candidates() if item.reason is None]
        device = "cpu" if self.flight.facts.on_cpu else "cuda:0"
        say(f"auto: timing {', '.join(item.backend for item in allowed)}; at most {timeout * SHARE:g} s")
        contest = Contest(home=home, environ=environ, device=device, deadline=began + timeout * SHARE)
        results = hold(contest, [item.contestant for item in allowed if item.contestant], self.shape)
        if results.gpu and results.gpu.capability and not self.flight.facts.capabilities:
            seen = replace(self, flight=self.flight.on([results.gpu.capability]))
            return seen._chosen(results.timed, began)
        return self._chosen(results.timed, began)

    def _chosen(self, timed: Sequence[Timed], began: float) -> dict[str, Any]:
        known = self.candidates()
        possible = {item.backend for item in known if item.reason is None}
        best = choice.pick([item for item in timed if item.backend in possible])
        if best is None:
            raise _none_left(timed)
        overlay = next(dict(item.change) for item in known if item.backend == best.backend)
        return {
            "backend": best.backend,
            "candidates": choice.rows(known, timed, best.backend),
            "shape": asdict(self.shape),
            "whole": self.shape == shape_of(self.flight.facts, WITH_FLOAT32),
            "overlay": overlay,
            "seconds": round(time.monotonic() - began, 3),
        }

    # --- what follows from it ---------------------------------------------------------------------------------------

    def follow(
        self, chosen: Mapping[str, Any], devices: Devices, environ: Mapping[str, str]
    ) -> tuple[Flight, tuple[str, ...], dict[str, Any]]:
        """The run as it will be: its flight, its command, and what the report says of the configuration's copy.

        Raises ConfigError where the copy cannot be written, or does not ask for what was chosen.
        """
        if not chosen["overlay"]:
            return self.flight, self.command, {"file": None, "of": self.flight.facts.config.path, "difference": []}
        packages, facts = software.site_packages(), self.flight.facts
        wanted = apply(facts, chosen["overlay"]).config.values
        _, values, _ = config.of_file(facts.config.path, packages)
        after = copy.merged(values, wanted)
        file = copy.write(config.dump(after, packages), environ)
        command = replaced(self.command, str(file), KEYS) if self.command else ()
        request = parse(command or ()) or replace(self.flight.request, config=str(file))
        flight = look(request, facts.spec, devices, environ, packages)
        if command is None or flight is None or not _agree(flight.facts.config.values, wanted):
            what = f"ATTN_BACKEND=auto chose {chosen['backend']}, and this command could not be made to ask for it"
            raise ConfigError(f"{what}.", f"Write {_keys(chosen['overlay'])} in the configuration.")
        difference = copy.difference(facts.config.values, wanted)
        told = {"file": str(file), "of": facts.config.path, "difference": difference}
        return replace(flight, allowed=self.flight.allowed), command, told


def entered(flight: Flight | None, command: Sequence[str]) -> Auto | str:
    """The run, where its attention can be chosen by timing; else why not, in words that follow a colon."""
    shape = shape_of(flight.facts, WITH_FLOAT32) if flight else None
    if flight is None or shape is None or not flight.facts.axolotl or flight.facts.stage < Stage.BATCHES:
        return _cannot(flight)
    request = parse(command) if command else None
    auto = Auto(
        flight=flight,
        shape=_affordable(shape) if flight.facts.on_cpu else shape,
        command=tuple(command),
        fixed=bool(command) and (request is None or request.config is None),
    )
    known = auto.candidates()
    return "; ".join(f"{item.backend}: {item.reason}" for item in known) if all(item.reason for item in known) else auto


def _cannot(flight: Flight | None) -> str:
    """Why a run's attention cannot be chosen by timing."""
    if flight is None:
        return "no configuration is known"
    if not flight.facts.axolotl:
        return "the rules do not know this Axolotl"
    if flight.facts.stage < Stage.BATCHES:
        return f"axolotl {flight.facts.action} trains nothing"
    if flight.facts.model is None:
        return "the model's config.json is not there yet"
    return "config.json does not tell the shapes of the model's attention"


def _affordable(shape: Shape) -> Shape:
    """One row of few positions and heads, as many query heads to a kv head as there are."""
    kv_heads = min(shape.kv_heads, _CPU_KV_HEADS)
    group = shape.heads // shape.kv_heads
    return replace(
        shape, rows=1, length=min(shape.length, _CPU_LENGTH), kv_heads=kv_heads, heads=kv_heads * min(group, 4)
    )


def _agree(values: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a configuration is the wanted one, as Axolotl will have it."""
    return {key: values[key] for key in KEYS if key in values} == {key: wanted[key] for key in KEYS if key in wanted}


def _keys(overlay: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {json.dumps(value)}" for key, value in overlay.items())


def _none_left(timed: Sequence[Timed]) -> NoBackendError:
    """What failed decides: wrong numbers before a crash, and a crash before the want of time or memory."""
    why = "; ".join(f"{item.backend}: {item.reason}" for item in timed)
    failed = {item.failed for item in timed}
    code = 92 if "wrong" in failed else 94 if "broken" in failed else 95
    advice = "Look at the log below, or name a backend to see its own check."
    return NoBackendError(f"ATTN_BACKEND=auto found no backend that is right for this run: {why}.", advice, code)
