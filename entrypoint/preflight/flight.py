"""One start's preflight: from a command to findings, and the report's part `run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from entrypoint.errors import ConfigError
from entrypoint.light import TYPE_CHECKING, dataclass, replace
from entrypoint.machine.devices import Devices
from entrypoint.preflight import config, gpus, model, software
from entrypoint.preflight.commandline import Request, parse
from entrypoint.preflight.facts import KNOWN, Facts
from entrypoint.preflight.judge import Found, judge
from entrypoint.preflight.kernel import Run
from entrypoint.spec import ImageSpec

if TYPE_CHECKING:
    from typing import Any

    from _typeshed import StrPath


@dataclass(frozen=True, kw_only=True)
class Flight:
    """A run that is about to start, as the rules see it. `notes`: what could not be looked at, and why."""

    facts: Facts
    request: Request
    run: Run
    findings: tuple[Found, ...]
    notes: tuple[str, ...] = ()
    allowed: frozenset[str] = frozenset()

    @property
    def refusals(self) -> tuple[Found, ...]:
        """What this start must not do, beside what the user has allowed."""
        return tuple(item for item in self.findings if item.level == "refuse" and item.id not in self.allowed)

    @property
    def backend(self) -> str | None:
        """The backend of this image that holds the kernel that will run."""
        name = self.run.backend
        return name if name and self.facts.spec.backend(name) else None

    def on(self, capabilities: Sequence[str]) -> Flight:
        """The same run once the GPUs are known."""
        facts = replace(self.facts, capabilities=tuple(capabilities))
        run, findings = judge(facts)
        return replace(self, facts=facts, run=run, findings=findings)

    def error(self) -> ConfigError | None:
        """The refusal that decides, in the words of a verdict."""
        if not self.refusals:
            return None
        first, *others = self.refusals
        where = f"{self.facts.config.path}{', ' + first.where if first.where else ''}"
        more = f" ({len(others)} more: {', '.join(item.id for item in others)})" if others else ""
        what = f"{where} [{first.id}]: {first.why}{more}"
        write = f"Write {first.instead}. " if first.instead else ""
        return ConfigError(what, f"{write}ATTN_ALLOW={','.join(item.id for item in self.refusals)} accepts it.")

    def document(self) -> dict[str, Any]:
        """The report's part `run`, as JSON."""
        known = self.facts.model
        return {
            "action": self.request.action,
            "config": self.facts.config.path,
            "overrides": dict(self.request.flags),
            "dropped": list(self.facts.config.dropped),
            "axolotl": self.facts.packages.get("axolotl"),
            "rules_known": bool(self.facts.axolotl),
            "model": None if known is None else _model(known),
            "capability": self.facts.capability,
            "asked": self.run.asked,
            "runs": self.run.kernel,
            "packed_apart": self.run.isolated,
            "findings": [_row(item, item.id in self.allowed) for item in self.findings],
            "notes": list(self.notes),
        }


def _model(known: model.Model) -> dict[str, Any]:
    return {"type": known.type, "head_dim": known.head_dim, "value_dim": known.value_dim, "window": known.window}


def _row(item: Found, allowed: bool) -> dict[str, Any]:
    return {
        "id": item.id,
        "level": item.level,
        "allowed": allowed,
        "key": item.key or None,
        "line": item.line,
        "why": item.why,
        "instead": item.instead or None,
        "source": item.source,
    }


def requested(command: Sequence[str], named: str | None, default: str | None) -> Request | None:
    """The run whose configuration the check has `named`, or `command`, or the default (ATTN_CONFIG); None for none."""
    if named is not None:
        return Request(action="train", config=named)
    request = parse(command)
    if request is None or request.config is None:
        fallback = request or Request(action="train")
        return replace(fallback, config=default) if default else None
    return request


def look(
    request: Request, spec: ImageSpec, devices: Devices, environ: Mapping[str, str], packages: StrPath | None = None
) -> Flight | None:
    """The preflight of `request`, whose configuration is named; None for an https address. What the user allows is the
    caller's to add. Raises ConfigError for a configuration that Axolotl could not read either.
    """
    path = request.config or ""
    if path.startswith("https://"):
        return None
    folder = packages or software.site_packages()
    read = config.read(path, request.flags, folder)
    held = software.installed(folder)
    file, missing = model.find(read, environ)
    found = model.load(file, read, held.get("axolotl", "")) if file else None
    facts = Facts(
        config=read,
        spec=spec,
        packages=held,
        model=found,
        capabilities=gpus.before_torch(devices) if spec.device != "cpu" else (),
        action=request.action,
        passed_on=request.passed_on,
        environ=environ,
        mends=frozenset(mend.name for mend in spec.mends),
    )
    run, findings = judge(facts)
    notes = tuple(filter(None, [_version(facts), _unseen(file, missing, found), _sweep(request)]))
    return Flight(facts=facts, request=request, run=run, findings=findings, notes=notes)


def _version(facts: Facts) -> str:
    if facts.axolotl:
        return ""
    here = f"Axolotl {facts.packages.get('axolotl')} with transformers {facts.packages.get('transformers')}"
    pairs = ", ".join(f"{axolotl} with {transformers}" for axolotl, transformers in KNOWN.items())
    return f"The run was not judged: the rules know Axolotl {pairs}, and here is {here}."


def _unseen(file: str | None, missing: str, found: model.Model | None) -> str:
    if file is not None and found is None:
        return f"{file} cannot be read, so what needs the model's shapes was left open."
    return f"What needs the model's shapes was left open: {missing}." if missing else ""


def _sweep(request: Request) -> str:
    return "Of a sweep only the configuration itself was judged." if request.sweep else ""
