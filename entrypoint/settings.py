"""The `ATTN_…` environment variables, parsed once into a frozen value."""

from __future__ import annotations

from entrypoint.errors import ConfigError
from entrypoint.light import TYPE_CHECKING, dataclass
from entrypoint.spelling import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Final, Literal

    from entrypoint.events import Depth
    from entrypoint.spec import ImageSpec

    CheckMode = Literal["enforce", "warn", "off"]
    SlowMode = Literal["warn", "fail"]
    RehearseMode = Literal["on", "off"]

PREFIX: Final = "ATTN_"
AUTO: Final = "auto"
DEFAULT_REPORT: Final = "/tmp/attn/report.json"
DEFAULT_CACHE: Final = "/tmp/attn/cache"
FORWARD_ONLY: Final = "forward-only"
ALLOWABLE: Final = (FORWARD_ONLY,)  # and the ids of preflight rules


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user asked for. `backend` is a backend's or kernel's name or `auto`; `cache` None keeps no verdict."""

    check: CheckMode = "enforce"
    backend: str
    slow: SlowMode = "warn"
    report: str = DEFAULT_REPORT
    cache: str | None = DEFAULT_CACHE
    timeout: float = 120.0
    allow: frozenset[str] = frozenset()
    depth: Depth = "start"
    config: str | None = None
    rehearse: RehearseMode = "on"
    # Whether `backend` was asked for; else it is what the command's configuration asks for, or the image's own.
    backend_given: bool = False


def read(environ: Mapping[str, str], spec: ImageSpec) -> Settings:
    """The settings in `environ`. Raises ConfigError that names every unknown variable and value at once."""
    given = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    parsers = _parsers(spec)
    problems: list[str] = []
    values: dict[str, object] = {"backend": spec.default.name, "backend_given": "ATTN_BACKEND" in given}
    for name, value in sorted(given.items()):
        if name not in parsers:
            problems.append(f"{name} is not a variable of this image. {did_you_mean(name, parsers)}")
            continue
        try:
            values[name.removeprefix(PREFIX).lower()] = parsers[name](value.strip())
        except ValueError as error:
            problems.append(f"{name}={value!r}: {error}")
    if problems:
        raise ConfigError(" ".join(problems), "Correct it, or unset it to get the default.")
    return Settings(**values)  # type: ignore[arg-type]  # each parser returns its field's type


def _parsers(spec: ImageSpec) -> dict[str, Callable[[str], object]]:
    return {
        "ATTN_CHECK": _one_of("enforce", "warn", "off"),
        "ATTN_BACKEND": _one_of(AUTO, *(choice.name for choice in spec.choices)),
        "ATTN_SLOW": _one_of("warn", "fail"),
        "ATTN_REPORT": _path,
        "ATTN_CACHE": lambda value: _path(value) if value else None,
        "ATTN_TIMEOUT": _seconds,
        "ATTN_ALLOW": _names,
        "ATTN_DEPTH": _one_of("start", "deep"),
        "ATTN_CONFIG": _path,
        "ATTN_REHEARSE": _one_of("on", "off"),
    }


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in choices:
            raise ValueError(
                f"expected one of {', '.join(choices)}. {did_you_mean(value, choices) if value else ''}".strip()
            )
        return value

    return parse


def _path(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("expected an absolute path.")
    return value


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        raise ValueError("expected a number of seconds.") from None
    if not 0 < seconds < float("inf"):
        raise ValueError("expected a number of seconds above 0.")
    return seconds


def _names(value: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in value.split(",") if name.strip())
    if names <= set(ALLOWABLE):
        return names
    from entrypoint.preflight.rules import IDS  # only for who names one: 106 rules are not loaded for every start

    for name in sorted(names - {*ALLOWABLE, *IDS}):
        known = did_you_mean(name, (*ALLOWABLE, *IDS))
        raise ValueError(f"{name!r} is neither a limitation that can be accepted nor a preflight rule. {known}")
    return names


def describe(settings: Settings) -> dict[str, object]:
    """The settings that a verdict depends on, as JSON: what a cached verdict must have in common with this run."""
    return {
        "backend": settings.backend,
        "slow": settings.slow,
        "depth": settings.depth,
        "allow": sorted(settings.allow),
    }
