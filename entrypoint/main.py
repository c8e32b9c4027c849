"""The order of a start: arguments, settings, verdict, report, and then the user's command."""

from __future__ import annotations

import os
import signal

from entrypoint import launch
from entrypoint.arguments import asks_for_help, parse, usage
from entrypoint.console import answer, hold_closed, say
from entrypoint.errors import BrokenImageError, ConfigError, Interrupted, LaunchError, UsageError
from entrypoint.light import TYPE_CHECKING, replace
from entrypoint.machine.devices import NVIDIA
from entrypoint.pipeline import verdict
from entrypoint.publish import publish
from entrypoint.settings import DEFAULT_REPORT, read
from entrypoint.spec import from_json
from entrypoint.start import HOME, Start

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from entrypoint.settings import Settings
    from entrypoint.spec import ImageSpec


def main(argv: Sequence[str]) -> int:
    """Run one start and return the exit code; with a command that may start, it does not return.

    Raises BrokenImageError, and what nobody foresaw.
    """
    hold_closed()
    _catch_signals()
    try:
        return _start(argv, dict(os.environ))
    except Interrupted as interruption:
        say(f"{signal.Signals(interruption.signum).name} during the check: stopped.")
        return 128 + interruption.signum
    except LaunchError as error:
        say(str(error))
        return error.code


def _start(argv: Sequence[str], environ: dict[str, str]) -> int:
    spec = _spec(os.path.join(HOME, "image.json"))
    if asks_for_help(argv):
        answer(usage(spec))
        return 0
    try:
        arguments = parse(argv)
    except UsageError as error:
        return _stop(Start(spec=spec, environ=environ, arguments=error.before), error)
    start = Start(spec=spec, environ=environ, arguments=arguments, command=arguments.command)
    try:
        settings = _settings(start)
    except ConfigError as error:
        return _stop(start, error)
    path = launch.resolve(start.command, environ) if start.command else ""
    if spec.vendor == NVIDIA:
        from entrypoint.machine import libcuda

        start.library = libcuda.find(environ)
        environ.update(start.library.variables)
    start.keep_in(settings.cache)
    if settings.check == "off":
        launch.become(path, start.command, environ)
    return _finish(start, settings, verdict(start, settings), path)


def _spec(path: str) -> ImageSpec:
    try:
        with open(path, encoding="utf-8") as file:
            return from_json(file.read())
    except (OSError, ValueError) as error:
        raise BrokenImageError(f"{path} cannot be read: {error}", "Rebuild or pull the image again.") from error


def _settings(start: Start) -> Settings:
    """What the variables ask for, and `check --deep`. Raises ConfigError."""
    settings = read(start.environ, start.spec)
    if settings.check == "off" and not start.command:
        raise ConfigError("ATTN_CHECK=off forbids the check, and no command was given.", "Unset it, or give a command.")
    return replace(settings, depth="deep") if start.arguments.deep else settings


def _stop(start: Start, error: ConfigError) -> int:
    """End a start whose request cannot be understood.

    Not a verdict that ATTN_CHECK=warn goes past: nobody can say what was meant.
    """
    return publish(start, DEFAULT_REPORT, start.refused(start.spec.default.name, error))


def _finish(start: Start, settings: Settings, report: dict[str, Any], path: str) -> int:
    """Publish the report, then either exit with the verdict's code or become the command."""
    report = {**report, "run": start.flight.document() if start.flight else None, "choice": start.choice}
    code = publish(start, settings.report, report)
    if start.command and (not code or settings.check == "warn"):
        if code:
            say("ATTN_CHECK=warn: the command runs in spite of this verdict.")
        checked = report["backend"]["checked"] or settings.backend
        launch.become(path, start.command, {**start.environ, "ATTN_BACKEND": checked})
    return code


def _catch_signals() -> None:
    """As process 1 of a container we get no default action of the kernel: without a handler, SIGTERM does nothing."""

    stops = (signal.SIGTERM, signal.SIGINT)

    def interrupt(signum: int, _: object) -> None:
        for each in stops:  # one is enough: another would end the clearing up
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(signum)

    for signum in stops:
        signal.signal(signum, interrupt)
