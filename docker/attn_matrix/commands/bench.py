"""`nox -s bench [-- NAME...]`: what a start, a build and a rendering cost, each beside its own baseline in one run.

A promise is a ratio of medians of two commands that take turns, so that a slow machine slows both. Programs that work
by themselves are measured in processor time, which a busy machine does not stretch; what an engine does, on the clock.
A promise that needs an engine or an image which is not there is listed with its reason. Exit code 1 when one does not
hold.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attn_matrix.commands import generated, terminal, timeline
from attn_matrix.commands.terminal import Table
from attn_matrix.errors import AttnError, UsageError
from attn_matrix.hints import did_you_mean
from attn_matrix.host import engine, environment, machine
from attn_matrix.host.sources import Sources, default_bundle, default_wheelhouse
from attn_matrix.matrix.load import FILE, read

ROUNDS: Final = 15
IMAGE: Final = "axolotl-attn:sdpa-cpu-base"
GENERATED_IMAGES: Final = 1000
HEAD: Final = ("milliseconds, medians", "measured", "baseline", "ratio", "allowed", "")
DEFECTS: Final = "tests/data/defects.md"
# What any program pays that reads images.yaml with pydantic and PyYAML.
BARE: Final = """
import sys, yaml
from pydantic import BaseModel
yaml.load(open(sys.argv[1]), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
"""


@dataclass(frozen=True)
class Promise:
    """`measured` and `baseline` are medians in seconds; the promise is that the first is at most `times` the second."""

    what: str
    measured: float
    baseline: float
    times: float

    @property
    def holds(self) -> bool:
        return self.measured <= self.times * self.baseline

    def row(self) -> tuple[str, ...]:
        """Milliseconds, then how many times the baseline that is, and may be."""
        seconds = (f"{each * 1e3:.0f}" for each in (self.measured, self.baseline))
        verdict = "holds" if self.holds else "DOES NOT HOLD"
        return (self.what, *seconds, f"{self.measured / self.baseline:.2f}x", f"{self.times:g}x", verdict)


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    parser = subparsers.add_parser("bench")
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help=f"of {', '.join([*BENCHMARKS, *LISTINGS])}; default: all"
    )
    parser.set_defaults(handler=_handle)


def _handle(arguments: Namespace) -> int:
    names = arguments.names or [*BENCHMARKS, *LISTINGS]
    for name in names:
        if name not in BENCHMARKS and name not in LISTINGS:
            raise UsageError(f"no benchmark {name!r}{did_you_mean(name, [*BENCHMARKS, *LISTINGS])}")
    held = _promises([name for name in names if name in BENCHMARKS], arguments.root)
    for name in names:
        if name in LISTINGS:
            print("", *LISTINGS[name](arguments.root), sep="\n", flush=True)
    return 0 if held else 1


def _promises(names: Sequence[str], root: Path) -> bool:
    """A table of the benchmarks; whether every promise that could be measured holds."""
    promises, absent = [], []
    for name in names:
        engine.say(f"measuring: {name}")
        try:
            promises.append(BENCHMARKS[name](root))
        except AttnError as error:
            absent.append(f"{name}: not measured: {error.lines[0]}")
    if promises:
        terminal.show(Table([each.row() for each in promises], HEAD, right=range(1, 5)))
    if absent:
        terminal.show(*absent)
    return all(each.holds for each in promises)


# ---- the benchmarks ----


def parent(root: Path) -> Promise:
    """A start whose verdict is in the cache, as a process, beside a bare Python: what our own code costs."""
    with _laid_out(root) as (python, home, environ):
        isolated = [python, "-I", "-S"]
        cached = [*isolated, str(home / "entrypoint/__main__.py"), "true"]
        _processor(cached, environ)
        bare = [*isolated, "-c", "pass"]
        measured, baseline = _take_turns((cached, environ), (bare, environ), 3 * ROUNDS, _processor)
    return Promise("cached start of the entrypoint, beside a bare `python -I -S` (processor)", measured, baseline, 3.0)


def container(root: Path) -> Promise:
    """The same in a container, beside the same image with --entrypoint set to the command."""
    if not engine.identity(IMAGE):
        raise UsageError(f"no image {IMAGE}: nox -s build -- sdpa-cpu-base")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        mounted = ["docker", "run", "--rm", "--network=none", f"--volume={folder}:/tmp/attn"]
        cached, bare = [*mounted, IMAGE, "true"], [*mounted, "--entrypoint=true", IMAGE]
        _time(cached, os.environ)
        measured, baseline = _take_turns((cached, os.environ), (bare, os.environ))
        _empty(folder)
    return Promise("cached start of a container, beside --entrypoint=true", measured, baseline, 1.3)


def build(root: Path) -> Promise:
    """A build of cu128 images that changes nothing, beside nox's own start."""
    engine.require()
    loaded = read(root / FILE)
    whole = (image for image in loaded.images if image.platform == "cu128" and image.architecture is None)
    ids = [image.id for image in whole if loaded.quick(image) and not loaded.prebuilt_wheels(image)]
    command = ["nox", "-s", "build", "--", *ids, "--base", loaded.bases["bookworm"].image.rpartition("/")[2]]
    _time(command, os.environ)
    measured, baseline = _take_turns((command, os.environ), (["nox", "-l"], os.environ), rounds=3)
    return Promise(f"no-op `nox -s build` of {len(ids)} cu128 images, beside `nox -l`", measured, baseline, 6.0)


def matrix(root: Path) -> Promise:
    """plan and render of a generated matrix, beside what both have to do: import their libraries, parse the file."""
    with tempfile.TemporaryDirectory() as folder:
        generated.write(Path(folder), GENERATED_IMAGES)
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path[:2])}
        start = [sys.executable, "-P", "-m", "attn_matrix", "--root", folder]
        bare = [sys.executable, "-P", "-c", BARE, str(Path(folder) / FILE)]
        _processor([*start, "render"], environ)
        pairs = [_take_turns(([*start, name], environ), (bare, environ), 5, _processor) for name in ("plan", "render")]
    measured, baseline = (sum(side) for side in zip(*pairs, strict=True))
    what = f"plan, then render, of {GENERATED_IMAGES} images, beside twice a bare parsing of the file (processor)"
    return Promise(what, measured, baseline, 3.0)


def seconds(root: Path) -> Iterator[str]:
    """Where each second of a check goes, for every backend of the image that fits this machine."""
    with _laid_out(root) as (python, home, environ):
        environ |= {"PYTHONPATH": str(home)}
        for backend in machine.choose(read(root / FILE), machine.Machine()).image.backends:
            command = timeline.probe(python, backend, "cpu", os.cpu_count() or 1)
            yield from timeline.rows(backend, [*timeline.spans(timeline.dated(command, environ))], top=8)


def defects(root: Path) -> Iterator[str]:
    """The seeded defects and the case that finds each, as `nox -s tests` has verified them."""
    yield (root / DEFECTS).read_text(encoding="utf-8").rstrip()


BENCHMARKS: Final[Mapping[str, Callable[[Path], Promise]]] = {
    "matrix": matrix,
    "parent": parent,
    "container": container,
    "build": build,
}
# What is shown and promises nothing.
LISTINGS: Final[Mapping[str, Callable[[Path], Iterator[str]]]] = {"seconds": seconds, "defects": defects}


# ---- how ----

Command = tuple[Sequence[str], Mapping[str, str]]


def _time(command: Sequence[str], environ: Mapping[str, str]) -> float:
    """Wall-clock seconds of a command. Raises CommandFailed when the command fails."""
    started = time.perf_counter()
    engine.capture(command, env=environ)
    return time.perf_counter() - started


def _processor(command: Sequence[str], environ: Mapping[str, str]) -> float:
    """Processor seconds of a command and its children. Raises CommandFailed when the command fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    engine.capture(command, env=environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _take_turns(
    first: Command, second: Command, rounds: int = ROUNDS, clock: Callable[..., float] = _time
) -> tuple[float, float]:
    """The median seconds of two commands, run alternately."""
    pairs = [(clock(*first), clock(*second)) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


@contextmanager
def _laid_out(root: Path) -> Iterator[tuple[str, Path, dict[str, str]]]:
    """The environment of sdpa-cpu, which holds what the image holds, with its verdict cache in a temporary folder."""
    loaded = read(root / FILE)
    image = machine.choose(loaded, machine.Machine()).image
    sources = Sources(None, True, default_wheelhouse(os.environ), default_bundle(os.environ))
    venv = environment.prepare(root, loaded, image, sources)
    with tempfile.TemporaryDirectory() as folder:
        environ = {"PATH": os.environ["PATH"], "ATTN_CACHE": folder, "ATTN_REPORT": f"{folder}/report.json"}
        yield str(venv / "bin/python"), venv / "attn", environ


def _empty(folder: str) -> None:
    """Remove what the container wrote as its own user, which we may not be allowed to."""
    as_root = ["docker", "run", "--rm", "--user=0", f"--volume={folder}:/it", "--entrypoint=sh", IMAGE]
    engine.capture([*as_root, "-c", "rm -rf /it/*"])
