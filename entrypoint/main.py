"""The order of a start: settings, spec, cache, check, verdict, report, and then the user's command."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from entrypoint import cache, compilers, kernels_cache, launch, libcuda, seal
from entrypoint.choice import refuse_early, vendor_of
from entrypoint.console import say, write
from entrypoint.devices import NVIDIA, Devices, cpu_name, look
from entrypoint.errors import BrokenImageError, ConfigError, Interrupted, LaunchError, MismatchError, NoBackendError
from entrypoint.judge.cause import cause
from entrypoint.judge.finding import Code, Finding, VerdictName
from entrypoint.light import dataclass, field, replace
from entrypoint.settings import AUTO, DEFAULT_REPORT, Settings, read
from entrypoint.spec import ImageSpec, from_json
from entrypoint.spelling import did_you_mean
from entrypoint.text import summary, to_json, to_text

if TYPE_CHECKING:
    from entrypoint.auto.start import Auto
    from entrypoint.preflight.flight import Flight

HOME: Final = Path(__file__).resolve().parent.parent
TERMINATION_LOG: Final = Path("/dev/termination-log")
_HELP: Final = ("--help", "-h")
USAGE: Final = """\
usage: docker run {options}axolotl-attn:ID [COMMAND [ARG…]]
       docker run {options}axolotl-attn:ID check [--json] [--deep] [--config FILE] [--html FILE]
       docker run {options}axolotl-attn:ID check --collective

Proves that attention is right, fast and the kernel asked for on the GPU at hand, then becomes COMMAND.
Without COMMAND, or with `check`, it prints the report and exits with the verdict's code; with --json the
report goes to stdout as JSON, and with --deep everything is checked. The Axolotl configuration in COMMAND,
or FILE, is judged first: what attention it will really run, and whether that is what it asks for. With
--collective the GPUs add and exchange integers, and nothing else is checked: those of this container, or under
torchrun all ranks of all nodes.

  ATTN_CHECK    enforce (default), warn: run COMMAND whatever the verdict, off: no check
  ATTN_BACKEND  a backend of this image ({backends}), or auto; default: the configuration's
  ATTN_SLOW     warn (default), fail: a slow GPU or kernel stops the start
  ATTN_REPORT   where the JSON report goes; default /tmp/attn/report.json
  ATTN_CACHE    where verdicts and what compilers make are kept; default /tmp/attn/cache; empty: none are
  ATTN_TIMEOUT  seconds that check and rehearsal may take; default 120
  ATTN_ALLOW    limitations you accept, by comma: forward-only, or ids of preflight rules
  ATTN_DEPTH    start (default): what decides whether this run can start; deep: everything
  ATTN_CONFIG   the Axolotl configuration, where COMMAND does not name it
  ATTN_REHEARSE on (default): a training command is rehearsed on a model of few layers, off

check also writes, each to its FILE:
  --html FILE        the report as a page, for a person
  --junit FILE       JUnit XML, for a CI system
  --prometheus FILE  metrics, for node_exporter's textfile collector (NAME.prom)
  --nfd FILE         labels, for node-feature-discovery (features.d/NAME)
  --npd FILE         the verdict in a line, for a custom plugin of node-problem-detector
  NODE_NAME names the node in them and in the report; default: the host name
  --exit-codes=nvsentinel  ends with 0 for passed, 1 for 92 to 94, 2 for 90, 91 and 95

exit codes: 90 CONFIG  91 MISMATCH  92 WRONG  93 SLOW  94 GPU_FAULT  95 INTERNAL; else COMMAND's own
"""


@dataclass(kw_only=True)
class Start:
    """One start of the container. `command` is empty when only the check was asked for.

    `environ` is the user's, and what finds `library`, the NVIDIA driver's, for the check and the command; None where
    the image is not for NVIDIA's GPUs.
    """

    spec: ImageSpec
    environ: dict[str, str]
    library: libcuda.Library | None = None
    command: tuple[str, ...] = ()
    as_json: bool = False
    deep: bool = False
    config: str | None = None  # the configuration that `check` names
    collective: bool = False
    speaks: bool = True  # one rank of many prints the report, unless another has more to say than that all is well
    files: dict[str, str] = field(default_factory=dict)  # where `check` writes each form of the report
    nvsentinel: bool = False  # whether `check` ends with NVSentinel's exit codes
    flight: Flight | None = None
    auto: Auto | None = None  # where ATTN_BACKEND=auto can choose by timing
    untimed: str = "no configuration is known"  # why it cannot
    choice: dict[str, Any] | None = None
    kept: compilers.Kept = compilers.NONE
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def given(self) -> dict[str, str]:
        """The environment without the compilers' folders that we chose: no verdict depends on where they are."""
        return {name: value for name, value in self.environ.items() if name not in self.kept.variables}

    def keep(self, kept: compilers.Kept) -> None:
        """Let the check's compilers and the command's use this folder."""
        self.kept = kept
        self.environ.update(kept.variables)
        self.notes += filter(None, [kernels_cache.seed(HOME, self.environ)])


def main(argv: Sequence[str]) -> int:
    """Run one start and return the exit code; with a command that may start, it does not return."""
    _catch_signals()
    try:
        return _start(argv, dict(os.environ))
    except Interrupted as interruption:
        say(f"{signal.Signals(interruption.signum).name} during the check: stopped.")
        return 128 + interruption.signum
    except LaunchError as error:
        say(str(error))
        return error.code
    except BrokenImageError as error:
        say(f"FAIL (95 INTERNAL): {error.what}")
        say(f"  what to do: {error.advice}")
        return 95


def _start(argv: Sequence[str], environ: dict[str, str]) -> int:
    start = Start(spec=_spec(HOME / "image.json"), environ=environ)
    if argv and (argv[0] in _HELP or argv[0] == "check" and set(argv[1:]) & set(_HELP)):
        print(usage(start.spec), end="")
        return 0
    try:
        _parse(argv, start)
        settings = read(environ, start.spec)
        if settings.check == "off" and not start.command:
            raise ConfigError(
                "ATTN_CHECK=off forbids the check, and no command was given.", "Unset it, or give a command."
            )
        settings = replace(settings, depth="deep") if start.deep else settings
    except ConfigError as error:
        # Not a verdict that ATTN_CHECK=warn goes past: nobody can say what was meant.
        return _stop(start, error)
    path = launch.resolve(start.command, environ) if start.command else ""
    if start.spec.vendor == NVIDIA:
        start.library = libcuda.find(environ)
        environ.update(start.library.variables)
    start.keep(_kept(start, settings.cache))
    if settings.check == "off":
        launch.become(path, start.command, environ)
    return _finish(start, settings, _verdict(start, settings), path)


def _kept(start: Start, directory: str | None) -> compilers.Kept:
    """The folder of the compilers in `directory`, or one of this container's own."""
    cpu = cpu_name() if start.spec.device == "cpu" else None
    name = compilers.identity(look(start.environ, vendor=start.spec.vendor), cpu, start.environ)
    return compilers.prepare(directory, str(HOME), name, start.given, start.notes.append)


def usage(spec: ImageSpec) -> str:
    """What --help prints: with the image's backends, and with what docker run needs to hand out its maker's GPUs."""
    options = "" if spec.device == "cpu" else f"{vendor_of(spec).options} "
    return USAGE.format(options=options, backends=", ".join(choice.name for choice in spec.choices))


def _parse(argv: Sequence[str], start: Start) -> None:
    """Split the container's arguments into our `check` and the user's command."""
    if argv and argv[0] != "check":
        start.command = tuple(argv)
        return
    from entrypoint.writers import NAMES

    values = ("--config", "--exit-codes", *(f"--{name}" for name in NAMES))
    words = iter(argv[1:])
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--json":
            start.as_json = True
        elif word == "--collective":
            start.collective = True
        elif word == "--deep":
            start.deep = True
        elif name in values:
            _take(name, value if equals else next(words, ""), start)
        else:
            known = did_you_mean(name, ["--json", "--deep", "--collective", *values, "--help"])
            raise ConfigError(f"check does not take {word!r}. {known}", "See check --help.")


def _take(name: str, value: str, start: Start) -> None:
    """One option of `check` that has a value."""
    if name == "--exit-codes":
        start.nvsentinel = value == "nvsentinel"
        if not start.nvsentinel:
            raise ConfigError(f"check --exit-codes={value} is not known.", "Write --exit-codes=nvsentinel, or none.")
    elif not value:
        raise ConfigError(f"check {name} names no file.", f"Write check {name} FILE.")
    elif name == "--config":
        start.config = value
    else:
        start.files[name.removeprefix("--")] = value


def _spec(path: Path) -> ImageSpec:
    try:
        return from_json(path.read_text())
    except (OSError, ValueError) as error:
        raise BrokenImageError(f"{path} cannot be read: {error}", "Rebuild or pull the image again.") from error


def _verdict(start: Start, settings: Settings) -> dict[str, Any]:
    """The report of this start: refused, remembered or measured. A fault of our own is a verdict too (95)."""
    try:
        devices = look(start.environ, vendor=start.spec.vendor)
        settings = _preflight(start, settings, devices)
        if settings.backend == AUTO and start.auto is None:
            what = "ATTN_BACKEND=auto timed nothing and takes the image's first backend that runs"
            start.notes.append(f"{what}: {start.untimed}.")
        refuse_early(start.spec, settings, devices)
        if start.library:
            libcuda.require(start.library, start.environ)
        if start.collective:
            return _collective(start, settings, devices)
        key = None
        if settings.cache is not None:
            key = cache.key_of(start.spec, HOME, devices, settings, start.given, run=_run(start))
        if settings.cache is not None and key is None:
            start.notes.append("The GPUs cannot be told apart before the check, so no verdict is kept or reused.")
        report = _remembered(start, settings, key)
        if start.auto:
            settings = _chosen(start, start.auto, settings, devices, report)
        report = _on_these_gpus(start, report or _measured(start, settings, devices, key))
        return _rehearsed(start, settings, key, report)
    except NoBackendError as error:
        return _refused(start, AUTO, Code(error.code), error.what, error.advice)
    except ConfigError as error:
        return _refused(start, settings.backend, Code.CONFIG, error.what, error.advice)
    except MismatchError as error:
        return _refused(start, settings.backend, Code.MISMATCH, error.what, error.advice)
    except Exception as error:  # noqa: BLE001  (whatever it is, the user gets a verdict and may go past it)
        what = f"The check itself failed: {cause(f'{type(error).__name__}: {error}')}"
        report = _refused(start, settings.backend, Code.INTERNAL, what, "Report it; ATTN_CHECK=warn goes past it.")
        import traceback

        return {**report, "logs": [traceback.format_exc()]}


def _preflight(start: Start, settings: Settings, devices: Devices) -> Settings:
    """Judge the run that is about to start, and let its configuration choose the backend where nobody else did.

    Raises ConfigError for a run that is certain to fail, or to train something else than was asked for.
    """
    named = start.config or settings.config
    if not named and not any("axolotl" in word for word in start.command):
        return settings  # nothing of the preflight is loaded
    from entrypoint.preflight import flight

    request = flight.requested(start.command, start.config, settings.config)
    found = request and flight.look(request, start.spec, devices, start.environ)
    if not found:
        if request or os.path.basename(start.command[0]) != "axolotl":  # `axolotl fetch` has none to judge
            start.notes.append(
                "No file of a configuration is in the command, so the run was not judged; ATTN_CONFIG names one."
            )
        return settings
    start.flight = replace(found, allowed=settings.allow)
    if settings.backend == AUTO:
        from entrypoint.auto.start import entered

        auto = entered(start.flight, start.command)
        if not isinstance(auto, str):
            start.auto = auto
            return settings  # what the rules refuse as it stands, a backend that is chosen may cure
        start.untimed = auto
    if error := start.flight.error():
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
    refused = _refused(start, report["backend"]["requested"], Code.CONFIG, error.what, error.advice)
    return {**report, **{key: refused[key] for key in ("verdict", "code", "reasons", "headline")}}


def _shape(start: Start) -> dict[str, Any] | None:
    """The attention calls of the run that follows, where its configuration and config.json tell them."""
    if start.flight is None:
        return None
    from dataclasses import asdict

    from entrypoint.preflight.shape import shape_of

    shape = shape_of(start.flight.facts)
    return asdict(shape) if shape else None


def _run(start: Start) -> dict[str, Any] | None:
    """What is known of the run that follows and decides what is checked."""
    known = {**(start.auto.key if start.auto else {}), "shape": _shape(start)}
    return {name: value for name, value in known.items() if value}


def _remembered(start: Start, settings: Settings, key: cache.Key | None) -> dict[str, Any] | None:
    """The verdict reached before for the very same thing, or None."""
    if key is None or settings.cache is None:
        return None
    report = cache.load_deepest(settings.cache, key, start.notes.append)
    return None if report is None else {**report, "cached": True, "notes": [*report["notes"], *start.notes]}


def _measured(start: Start, settings: Settings, devices: Devices, key: cache.Key | None) -> dict[str, Any]:
    """Measure and judge; a verdict that lets a start go on is kept, and so is what was compiled for it."""
    if problem := compilers.problem(start.kept):
        start.notes.append(problem)
        start.keep(_kept(start, None))
    doubtful = compilers.unproved(start.kept)
    report = _checked(start, settings, devices)
    if doubtful and report["verdict"] not in cache.KEPT:
        start.notes.append(f"It failed with what compilers kept in {start.kept.path}, so it was checked without that.")
        start.keep(compilers.fresh(start.kept.variables, start.notes.append))
        report = _checked(start, settings, devices)
    if report["verdict"] in cache.KEPT and start.kept.path:
        with contextlib.suppress(OSError):  # it is full: what was compiled serves this start
            seal.write(start.kept.path, start.kept.sealed)
    if key is not None and settings.cache is not None:
        cache.save(settings.cache, key, report, start.notes.append)
    return {**report, "notes": [*report["notes"], *start.notes]}


def _checked(start: Start, settings: Settings, devices: Devices) -> dict[str, Any]:
    """The report of one check, without the notes of the start."""
    from entrypoint.measure import Check
    from entrypoint.report import build

    say(f"checking {settings.backend} of {start.spec.id}; at most {settings.timeout:g} s (ATTN_TIMEOUT)")
    left = max(1.0, start.started + settings.timeout - time.monotonic()) if start.auto else settings.timeout
    shape = _shape(start)
    call = json.dumps(shape) if shape else ""
    check = Check(start.spec, replace(settings, timeout=left), HOME, start.environ, call)
    before = kernels_cache.compiled(start.environ)
    try:
        judged = check.run(devices)
    except Interrupted:
        check.stop()
        raise
    if added := len(kernels_cache.compiled(start.environ) - before):
        start.notes.append(f"{added} kernels were compiled: none that came with the image fitted this GPU and call.")
    requested = AUTO if start.auto else settings.backend
    report = build(start.spec, requested, judged, [], time.monotonic() - start.started, depth=settings.depth)
    return {**report, "choice": start.choice}


def _collective(start: Start, settings: Settings, devices: Devices) -> dict[str, Any]:
    """The report of `check --collective`. No verdict is kept: links and other nodes are no part of a cache's key."""
    from entrypoint import collected, gang
    from entrypoint.judge.collective import judge_collective
    from entrypoint.report import build

    group = gang.plan(start.environ, start.spec.device, devices.count)
    start.speaks = 0 in group.ranks
    say(f"collectives of {group.world_size} ranks; at most {settings.timeout:g} s (ATTN_TIMEOUT)")
    with gang.Gang(HOME, start.spec.device, start.environ, group, settings.timeout) as running:
        ranks = running.run()
    findings = judge_collective(ranks, fails=settings.slow == "fail")
    report = build(start.spec, settings.backend, [], findings, time.monotonic() - start.started)
    logs = [facts.log for facts in ranks.every if facts.log and facts.ending != "over"]
    return {**report, "logs": [*report["logs"], *logs], "collective": collected.document(ranks)}


def _rehearsed(start: Start, settings: Settings, key: cache.Key | None, report: dict[str, Any]) -> dict[str, Any]:
    """The report with the rehearsal of the run that may now start; untouched where none may, or nobody wants one."""
    if start.flight is None or settings.rehearse == "off" or report["code"]["number"]:
        return report
    from entrypoint.rehearse import Wanted, rehearsed

    wanted = Wanted(
        flight=start.flight,
        home=HOME,
        environ=start.environ,
        seconds=settings.timeout,
        deadline=start.started + settings.timeout,
        directory=settings.cache,
        key=key,
        note=report["notes"].append,
    )
    return rehearsed(wanted, report)


def _refused(start: Start, requested: str, code: Code, what: str, advice: str) -> dict[str, Any]:
    """The report of a start in which nothing was measured."""
    from entrypoint.report import build

    verdict: VerdictName = "FAIL" if code in {Code.WRONG, Code.GPU_FAULT} else "NOT_CHECKED"
    finding = Finding(verdict=verdict, code=code, what=what, advice=advice)
    report = build(start.spec, requested, [], [finding], time.monotonic() - start.started)
    return {**report, "notes": [*report["notes"], *start.notes]}


def _stop(start: Start, error: ConfigError) -> int:
    """End a start whose request cannot be understood."""
    report = _refused(start, start.spec.default.name, Code.CONFIG, error.what, error.advice)
    return _publish(start, DEFAULT_REPORT, report)


def _finish(start: Start, settings: Settings, report: dict[str, Any], path: str) -> int:
    """Publish the report, then either exit with the verdict's code or become the command."""
    report = {**report, "run": start.flight.document() if start.flight else None, "choice": start.choice}
    code = _publish(start, settings.report, report)
    if start.command and (not code or settings.check == "warn"):
        if code:
            say("ATTN_CHECK=warn: the command runs in spite of this verdict.")
        checked = report["backend"]["checked"] or settings.backend
        launch.become(path, start.command, {**start.environ, "ATTN_BACKEND": checked})
    return code


def _publish(start: Start, path: str, report: dict[str, Any]) -> int:
    """The report to its files, to stderr, to Kubernetes, and to stdout when asked; none of them may stop the start.

    Returns the exit code that the report means.
    """
    report = {**report, "node": start.environ.get("NODE_NAME") or os.uname().nodename}
    for name, target in start.files.items():
        from entrypoint import writers

        try:
            writers.write(name, target, report)
        except Exception as error:  # noqa: BLE001  (whatever it is, a form of the verdict must not cost the verdict)
            why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            report["notes"].append(f"check --{name} could not write {target} ({why}).")
    try:
        cache.write_atomically(Path(path), to_json(report))
    except OSError as error:
        report["notes"].append(f"The report could not be written to {path} ({error.strerror}).")
    try:
        with TERMINATION_LOG.open("r+", encoding="utf-8") as file:  # never created: only Kubernetes provides it
            file.truncate()
            file.write(summary(report))
    except OSError:
        pass
    if start.speaks or report["verdict"] != "PASS":
        write(to_text(report))
    if start.as_json and start.speaks:
        sys.stdout.write(to_json(report))
        sys.stdout.flush()
    return _code(start, int(report["code"]["number"]))


def _code(start: Start, number: int) -> int:
    """An exit code of the contract, in the codes that the caller reads."""
    if not start.nvsentinel:
        return number
    from entrypoint.writers.nvsentinel import exit_code

    return exit_code(number)


def _catch_signals() -> None:
    """As process 1 of a container we get no default action of the kernel: without a handler, SIGTERM does nothing."""

    def interrupt(signum: int, _: object) -> None:
        raise Interrupted(signum)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, interrupt)
