"""The backends of an image for one run: how its configuration asks for each, or why it cannot. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from entrypoint.preflight.facts import NEW, Facts
from entrypoint.preflight.judge import KEYS, Way, way, ways
from entrypoint.preflight.kernel import BACKENDS, PACKING
from entrypoint.race.contestant import Contestant
from entrypoint.spec import BackendSpec

# Names in transformers and Axolotl, by backend.
ATTENTIONS: Final = {backend: name for name, backend in BACKENDS.items()}
# What torch's varlen attention takes (Axolotl 0.19.0 loaders/patch_manager.py:825, _apply_sdpa_varlen_patch).
_VARLEN_WIDTH: Final = 256


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One backend. `reason`: why it is none, where it is none; else `contestant` is what the race times, and `change`
    what has to change in the configuration (None as a value removes a key)."""

    backend: str
    reason: str | None = None
    contestant: Contestant | None = None
    change: Mapping[str, Any] = field(default_factory=dict)


def candidates(facts: Facts, accepted: frozenset[str], *, fixed: bool) -> tuple[Candidate, ...]:
    """Each backend of the image, in its order, and each single kernel that can be named. Rules with `accepted` ids do
    not count. `fixed`: the command does not name its configuration, so nothing in it can be changed."""
    return tuple(_candidate(facts, choice, accepted, fixed=fixed) for choice in facts.spec.choices)


def _candidate(facts: Facts, choice: BackendSpec, accepted: frozenset[str], *, fixed: bool) -> Candidate:
    name = choice.name.partition("-")[0]
    if reason := _impossible(facts, choice, name):
        return Candidate(backend=choice.name, reason=reason)
    given = way(facts, {}, accepted)
    # As it stands, where that does; else the first way that no rule warns of, else the first.
    fitting = [each for each in (given, *ways(facts, ATTENTIONS[name], accepted)) if _fits(each, name)]
    best = next((each for each in fitting if each is given or not each.warned), next(iter(fitting), None))
    if best is None:
        return Candidate(backend=choice.name, reason=_refusal(facts, name, accepted))
    change = changed(facts, best.change)
    if change and fixed:
        reason = "the command does not name its configuration, so the keys in it stay as they are"
        return Candidate(backend=choice.name, reason=reason)
    return Candidate(backend=choice.name, contestant=_contestant(facts, choice.name, best), change=change)


def _impossible(facts: Facts, choice: BackendSpec, name: str) -> str | None:
    architecture = facts.spec.architecture_of(facts.capability) if facts.capability else None
    if not choice.gradients:
        return "no gradients"
    if facts.capability and not facts.on_cpu and architecture not in choice.architectures:
        return f"not for this GPU (compute capability {facts.capability})"
    return None if name in ATTENTIONS else "no attention of Axolotl trains with it"


def _fits(each: Way, backend: str) -> bool:
    """Whether that backend runs, nothing is refused, and only attention's keys change."""
    runs = each.run.backend or BACKENDS.get(each.run.name)
    return runs == backend and not each.refusals and each.change.keys() <= {*KEYS}


def _refusal(facts: Facts, name: str, accepted: frozenset[str]) -> str:
    """Why the best way to ask for it does not do."""
    first: Way = next(iter(ways(facts, ATTENTIONS[name], accepted)))
    if first.refusals:
        return "; ".join(f"[{item.id}] {item.why}" for item in first.refusals)
    if not first.change.keys() <= {*KEYS}:
        others = " and ".join(f"{key}: {value}" for key, value in first.change.items() if key not in KEYS)
        return f"only with {others}"
    return f"Axolotl runs {first.run.kernel} when {first.run.name} is asked for"


def changed(facts: Facts, change: Mapping[str, Any]) -> dict[str, Any]:
    """What of `change` is not so already."""
    values = facts.config.values
    return {
        key: value for key, value in change.items() if values.get(key) != value or (value is None and key in values)
    }


def _contestant(facts: Facts, backend: str, best: Way) -> Contestant:
    attention = best.run.kernel or best.run.name
    rows = facts.get("multipack_real_batches")
    one_row = facts.pack and (attention in PACKING if rows is None else not rows)
    return Contestant(
        backend=backend, attention=attention, one_row=one_row, varlen=attention == "sdpa" and _varlen(facts)
    )


def _varlen(facts: Facts) -> bool:
    """Whether Axolotl 0.19.0 puts torch's varlen attention in sdpa's place for packed rows."""
    model, asked = facts.model, facts.get("sdpa_varlen")
    if facts.axolotl not in NEW or facts.on_cpu or asked is False or model is None or facts.dtype == "fp32":
        return False
    served = (model.head_dim or 0) <= _VARLEN_WIDTH and model.value_dim in {None, model.head_dim}
    # It looks at the top level of config.json alone, where a wrapper's language model has no window.
    return (asked is True or facts.pack) and served and (model.window is None or model.wrapped)
