"""The stages of a start, from its settings to its report: preflight, refusals, cache, choice, check, rehearsal."""

from __future__ import annotations

import os

from entrypoint.choice import refuse_early
from entrypoint.errors import EntrypointError
from entrypoint.kept import cache
from entrypoint.light import TYPE_CHECKING, replace
from entrypoint.settings import AUTO
from entrypoint.start import HOME

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from entrypoint.auto.start import Auto
    from entrypoint.children.child import Worker
    from entrypoint.children.rehearse import Wanted
    from entrypoint.machine.devices import Devices
    from entrypoint.preflight.flight import Flight
    from entrypoint.rehearsal.outcome import Rehearsal
    from entrypoint.settings import Settings
    from entrypoint.start import Start

# Processors for each GPU, with memory for a process on each, from which on one may import beside the check.
SPARE: Final = 8


def verdict(start: Start, settings: Settings) -> dict[str, Any]:
    """The report of this start: refused, remembered or measured. A fault of our own is a verdict too (95)."""
    try:
        devices = start.devices
        settings = _preflight(start, settings, devices)
        _refuse(start, settings, devices)
        if start.arguments.collective:
            from entrypoint.checked import collective

            return collective(start, settings, devices)
        key = _key(start, settings, devices)
        report = _remembered(start, settings, key)
        if start.auto:
            settings = _chosen(start, start.auto, settings, devices, report)
        if report is None:
            from entrypoint.checked import measured

            start.early = _early(start, settings)
            report = measured(start, settings, devices, key)
        return _rehearsed(start, settings, key, _on_these_gpus(start, report))
    except EntrypointError as error:
        return start.refused(settings.backend, error)
    except Exception as error:  # noqa: BLE001  (whatever it is, the user gets a verdict and may go past it)
        import traceback

        return {**start.refused(settings.backend, _failed(error)), "logs": [traceback.format_exc()]}
    finally:
        if start.early is not None:
            start.early.end()


def _failed(error: Exception) -> EntrypointError:
    """What became of the check itself, and what to do."""
    from entrypoint.judge.cause import cause

    why = cause(f"{type(error).__name__}: {error}")
    if isinstance(error, BlockingIOError) or "start new thread" in why:
        advice = "Allow the container more of them (docker run --pids-limit, ulimit -u)."
        return EntrypointError(f"The check could not start a process or thread: {why}", advice)
    return EntrypointError(f"The check itself failed: {why}", "Report it; ATTN_CHECK=warn goes past it.")


def _preflight(start: Start, settings: Settings, devices: Devices) -> Settings:
    """Judge the run that is about to start, and let its configuration choose the backend where nobody else did.

    Raises ConfigError for a run that is certain to fail, or to train something else than was asked for.
    """
    found = _flight(start, settings, devices)
    if found is None:
        return settings
    start.flight = found
    if settings.backend == AUTO:
        from entrypoint.auto.start import entered

        auto = entered(found, start.command)
        if not isinstance(auto, str):
            start.auto = auto
            return settings  # what the rules refuse as it stands, a backend that is chosen may cure
        start.untimed = auto
    if error := found.error():
        raise error
    if not settings.backend_given:
        return replace(settings, backend=found.backend or settings.backend)
    # sdpa-cudnn is a kernel of sdpa: the configuration asks for the one, and ATTN_BACKEND says how.
    checked = settings.backend.partition("-")[0]
    if found.backend not in {None, checked} and settings.backend != AUTO:
        start.notes.append(
            f"ATTN_BACKEND={settings.backend} is what is checked; the configuration runs {found.backend}."
        )
    return settings


def _flight(start: Start, settings: Settings, devices: Devices) -> Flight | None:
    """The judged configuration of the run that is about to start; None where there is none to judge."""
    config = start.arguments.config
    if not (config or settings.config) and not any("axolotl" in word for word in start.command):
        return None  # nothing of the preflight is loaded
    from entrypoint.preflight import flight

    request = flight.requested(start.command, config, settings.config)
    found = request and flight.look(request, start.spec, devices, start.environ)
    if found:
        return replace(found, allowed=settings.allow)
    if request or os.path.basename(start.command[0]) != "axolotl":  # `axolotl fetch` has none to judge
        start.notes.append(
            "No file of a configuration is in the command, so the run was not judged; ATTN_CONFIG names one."
        )
    return None


def _refuse(start: Start, settings: Settings, devices: Devices) -> None:
    """Raise ConfigError or MismatchError for what can be refused before torch is started."""
    if settings.backend == AUTO and start.auto is None:
        what = "ATTN_BACKEND=auto timed nothing and takes the image's first backend that runs"
        start.notes.append(f"{what}: {start.untimed}.")
    refuse_early(start.spec, settings, devices)
    if start.library:
        from entrypoint.machine import libcuda

        libcuda.require(start.library, start.environ)


def _key(start: Start, settings: Settings, devices: Devices) -> cache.Key | None:
    """What the verdict is kept under; None where none is kept."""
    if settings.cache is None:
        return None
    key = cache.key_of(start.spec, HOME, devices, settings, start.given, run=start.known())
    if key is None:
        start.notes.append("The GPUs cannot be told apart before the check, so no verdict is kept or reused.")
    return key


def _remembered(start: Start, settings: Settings, key: cache.Key | None) -> dict[str, Any] | None:
    """The verdict reached before for the very same thing, or None."""
    if key is None or settings.cache is None:
        return None
    report = cache.load_deepest(settings.cache, key, start.notes.append)
    return None if report is None else {**report, "cached": True, "notes": [*report["notes"], *start.notes]}


def _chosen(
    start: Start, auto: Auto, settings: Settings, devices: Devices, remembered: dict[str, Any] | None
) -> Settings:
    """Choose the backend by timing, or as `remembered`, and let the command ask for it. Raises as Auto's methods do."""
    start.choice = (remembered or {}).get("choice") or auto.choose(HOME, start.environ, settings.timeout)
    start.flight, start.command, copied = auto.follow(start.choice, devices, start.environ)
    start.choice = {**start.choice, **copied}
    return replace(settings, backend=start.choice["backend"])


def _on_these_gpus(start: Start, report: dict[str, Any]) -> dict[str, Any]:
    """The report, or a refusal in it once the check has asked the GPUs what only they knew."""
    capabilities = tuple(str(gpu["capability"]) for gpu in report["gpus"] if gpu.get("capability"))
    if start.flight is None or not capabilities or capabilities == start.flight.facts.capabilities:
        return report
    start.flight = start.flight.on(capabilities)
    error = start.flight.error()
    if error is None:
        return report
    refused = start.refused(report["backend"]["requested"], error)
    return {**report, **{key: refused[key] for key in ("verdict", "code", "reasons", "headline")}}


def _rehearsed(start: Start, settings: Settings, key: cache.Key | None, report: dict[str, Any]) -> dict[str, Any]:
    """The report with the rehearsal of the run that may now start; untouched where none may, or nobody wants one."""
    if start.flight is None or settings.rehearse == "off" or report["code"]["number"]:
        return report
    from entrypoint.children.rehearse import rehearsed

    return rehearsed(_wanted(start, start.flight, settings, key, report["notes"].append), report)


def _early(start: Start, settings: Settings) -> Worker[Rehearsal] | None:
    """The rehearsal's child, importing beside the check of GPUs where there are processors to spare: compilers and
    clocks of the check shall not notice it. Under `auto` the configuration is not final before the check."""
    if start.flight is None or start.auto or settings.rehearse == "off" or start.spec.device == "cpu":
        return None
    from entrypoint.children.rehearse import begun
    from entrypoint.machine import limits

    if limits.jobs() < SPARE * start.devices.count:
        return None
    return begun(_wanted(start, start.flight, settings, None, start.notes.append))


def _wanted(
    start: Start, flight: Flight, settings: Settings, key: cache.Key | None, note: Callable[[str], None]
) -> Wanted:
    from entrypoint.children.rehearse import Wanted

    return Wanted(
        flight=flight,
        home=HOME,
        environ=start.environ,
        seconds=settings.timeout,
        deadline=start.started + settings.timeout,
        directory=settings.cache,
        key=key,
        note=note,
        early=start.early,
    )
