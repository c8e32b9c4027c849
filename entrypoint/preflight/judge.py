"""The rules over the facts: what they find, and what to write instead. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from entrypoint.light import TYPE_CHECKING, dataclass, replace
from entrypoint.preflight.facts import FLASH, MEANS, NAMED, Facts
from entrypoint.preflight.kernel import BACKENDS, Run, resolve
from entrypoint.preflight.rule import LEVELS, Hit, Rule
from entrypoint.preflight.rules import RULES

if TYPE_CHECKING:
    from typing import Any, Final

    from entrypoint.preflight.rule import Level

# What asks for attention in a configuration.
KEYS: Final = ("attn_implementation", *MEANS, "s2_attention")
# The kernels that advice may name, the fastest first.
_PREFERRED: Final = (*reversed(FLASH), "flex_attention", "sdpa", "xformers")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one rule found. `line` is the configuration's, where the key stands in it. `instead` may be empty."""

    id: str
    level: Level
    why: str
    instead: str
    key: str
    line: int | None
    source: str

    @property
    def where(self) -> str:
        return f"line {self.line}" if self.line else "by flag" if self.key else ""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A change of the configuration that asks for an attention (None as a value removes a key), and what comes of it:
    what `run`s, and each `refusal`; `warned`: a rule warns of it."""

    change: Mapping[str, Any]
    run: Run
    refusals: tuple[Found, ...]
    warned: bool


def judge(facts: Facts) -> tuple[Run, tuple[Found, ...]]:
    """What runs, and the findings, refusals first. An Axolotl that is not known is judged by no rule."""
    run = resolve(facts)
    hits = list(_hits(facts, run))
    fixed_otherwise = frozenset(rule.id for rule, hit in hits if hit.instead is not None)
    advice: str | None = None
    found = []
    for rule, hit in hits:
        if hit.instead is None and advice is None:
            advice = advise(facts, run, fixed_otherwise)
        found.append(_found(facts, rule, hit, advice or ""))
    return run, tuple(sorted(found, key=lambda item: LEVELS.index(item.level)))


def _hits(facts: Facts, run: Run) -> Iterable[tuple[Rule, Hit]]:
    for rule in RULES:
        if facts.axolotl in rule.versions and facts.stage >= rule.stage:
            hit = rule.check(facts, run)
            if hit is not None:
                yield rule, hit


def _found(facts: Facts, rule: Rule, hit: Hit, advice: str) -> Found:
    return Found(
        id=rule.id,
        level=hit.level or rule.level,
        why=hit.why,
        instead=advice if hit.instead is None else hit.instead,
        key=hit.key,
        line=None if hit.key in facts.config.set_by_flag else facts.config.lines.get(hit.key),
        source=rule.source,
    )


# --- what to write instead ----------------------------------------------------------------------------------------


def advise(facts: Facts, run: Run, fixed_otherwise: frozenset[str] = frozenset()) -> str:
    """Keys that no rule refuses for this model, image and GPU; `fixed_otherwise`: refusals with a cure of their own."""
    best = overlay(facts, run, fixed_otherwise)
    if best is None:
        return "no attention of this image is right for this model here: take another image"
    keys = [f"{key}: {_plain(value)}" for key, value in best.items() if value is not None]
    gone = [key for key, value in best.items() if value is None]
    return " and ".join(keys) + (f", without {' and '.join(gone)}" if gone else "")


def overlay(facts: Facts, run: Run, fixed_otherwise: frozenset[str] = frozenset()) -> Mapping[str, Any] | None:
    """The smallest change of attention's keys that no rule refuses (None as a value removes a key); None without one.

    What was asked for comes first, then the fastest; one that a rule warns of comes after those without.
    """
    held = {backend.name for backend in facts.spec.backends if backend.gradients}
    held |= {"fa2"} if facts.has("flash-attn") else set()
    named = run.name in _PREFERRED and not facts.on("flash_attention")  # which means any FlashAttention
    asked = [run.name] if named else []
    candidates = [name for name in dict.fromkeys([*asked, *_PREFERRED]) if BACKENDS[name] in held]
    warned: Mapping[str, Any] | None = None
    for name in candidates:
        for way in ways(facts, name, fixed_otherwise):
            if not way.refusals and not way.warned:
                return way.change
            if not way.refusals:
                warned = warned or way.change
    return warned


def ways(facts: Facts, name: str, accepted: frozenset[str] = frozenset()) -> Iterable[Way]:
    """Each way to ask for the attention `name`, the best first; rules with `accepted` ids do not count."""
    return (way(facts, change, accepted) for change in changes(facts, name))


def way(facts: Facts, change: Mapping[str, Any], accepted: frozenset[str] = frozenset()) -> Way:
    """What the rules say of the configuration with `change` in it; the refusals come without advice."""
    changed = apply(facts, change) if change else facts
    run = resolve(changed)
    found = [_found(changed, rule, hit, "") for rule, hit in _hits(changed, run) if rule.id not in accepted]
    refusals = tuple(item for item in found if item.level == "refuse")
    return Way(change=change, run=run, refusals=refusals, warned=any(item.level == "warn" for item in found))


def changes(facts: Facts, name: str) -> Iterable[dict[str, Any]]:
    """How a configuration asks for the attention `name`, the best way first."""
    if facts.axolotl in NAMED:
        wanted: list[dict[str, Any]] = [{"attn_implementation": name}]
    elif facts.pack:
        wanted = _old_packed(name)
    else:
        booleans: dict[str, dict[str, Any]] = {
            "xformers": {"xformers_attention": True},
            "flex_attention": {"flex_attention": True},
        }
        named = [] if name == "xformers" else [{"attn_implementation": name}]
        wanted = [*named, *([booleans[name]] if name in booleans else [])]
    for keys in wanted:
        yield {**keys, **{key: None for key in KEYS if key not in keys and facts.on(key)}}


def _old_packed(name: str) -> list[dict[str, Any]]:
    """0.16.1 packs by its booleans; flex_attention's leaves the kernel to attn_implementation (causal.py:260)."""
    by_flex: dict[str, Any] = {"flex_attention": True, "attn_implementation": name}
    ways: dict[str, list[dict[str, Any]]] = {
        "flash_attention_2": [{"flash_attention": True}, by_flex],
        "flex_attention": [{"flex_attention": True}],
        "sdpa": [{"sdp_attention": True, "sample_packing": False}],
        "xformers": [{"xformers_attention": True}],
    }
    return ways.get(name, [by_flex])


def apply(facts: Facts, change: Mapping[str, Any]) -> Facts:
    """The facts of a configuration with `change` in it."""
    values = {**facts.config.values, **change}
    kept = {key: value for key, value in values.items() if key not in change or value is not None}
    dropped = tuple(key for key in facts.config.dropped if key not in KEYS)  # a flag that the change stands for
    return replace(facts, config=replace(facts.config, values=kept, dropped=dropped))


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
