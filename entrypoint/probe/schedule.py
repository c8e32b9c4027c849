"""Which calls a check makes, in which order: the backend's cases, and in a deep one the same of its forced kernels."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from entrypoint.events import Depth
from entrypoint.probe import backends, cases, compact, own, performance, rivals
from entrypoint.probe.backends import NAMES, Backend

if TYPE_CHECKING:
    from entrypoint.shape import Shape

# Causal and full, head_dim 64 and 128: no check goes without them, whatever they take to compile.
ALWAYS = 4
# Of a kernel that is forced: causal and full, both head dims, then strided inputs and the first feature.
CASES_PER_KERNEL = 6


# Of a compiled kernel: the name of its backend, and what of a case it depends on.
Key = tuple[str, cases.Case]


@dataclass(frozen=True)
class Scheduled:
    """One case for a backend, or for one of its kernels, forced: then the case's id begins with the kernel's name."""

    backend: Backend
    case: cases.Case

    @property
    def key(self) -> Key:
        """Runs that share it share a compiled kernel."""
        return (self.backend.name, self.case.variant)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How deep a check looks, and the attention calls of the run that follows, where they are known."""

    depth: Depth = "deep"
    shape: Shape | None = None

    @property
    def flags(self) -> list[str]:
        """The same for another process, which `add_options` reads."""
        return [f"--depth={self.depth}", *([f"--shape={self.shape.to_json()}"] if self.shape else [])]


EVERYTHING = Asked()


@dataclass(frozen=True)
class Plan:
    """All that a check runs: `always` however long it takes, `checked` as far as there is time; then what is `timed`.

    `compiles`: whether a first call may be much slower than the next. On a CPU it is so for just-in-time compilers
    alone, and first calls of all variants would double the time of the check. `compared` is what torch's other kernels
    are timed on too. `kernels` are those whose own names the
    profiler is asked for. `left_out` are the ids of what a deeper check would run.
    """

    always: Sequence[Scheduled]
    checked: Sequence[Scheduled]
    compiles: bool = True
    timed: Sequence[cases.Case] = ()
    compared: Sequence[cases.Case] = ()
    kernels: Sequence[Backend] = ()
    left_out: Sequence[str] = ()

    @property
    def variants(self) -> Iterator[Scheduled]:
        """What needs a first call of its own."""
        return variants([*self.always, *self.checked] if self.compiles else self.always)

    @property
    def keys(self) -> set[Key]:
        """The keys of `always`."""
        return {run.key for run in self.always}

    @property
    def timed_keys(self) -> set[Key]:
        """The keys of what is timed: only the process that does so can."""
        return {run.key for run in self.always if run.case in self.timed}

    @property
    def own(self) -> Scheduled:
        """The variant that a check with helpers begins with: one that is timed, or else the first."""
        every, timed = [*self.variants], self.timed_keys
        return next((run for run in every if run.key in timed), every[0])

    @property
    def shared(self) -> list[Scheduled]:
        """The variants that helpers compile and check meanwhile."""
        own = self.own.key
        return [run for run in self.variants if run.key != own]


def plan(backend: Backend, device_type: str, asked: Asked = EVERYTHING, *, far: bool) -> Plan:
    """The plan for a backend on this type of device; `far`: with the case that takes gigabytes.

    A start runs the calls of the run that follows where they are known, and else what the backend claims; it
    forces no kernel that torch would not take. A deep check runs both, and everything else.
    """
    depth, shape = asked.depth, asked.shape
    few = depth == "start" and backends.compiles_each_variant(backend.name)
    mine = own.own_cases(shape, backend, device_type, few=few) if shape else own.NONE
    every, short = checked(backend, device_type, far=far), _short(backend, few=few, far=far)
    generic = every if depth == "deep" else [] if shape else _started(backend, short, device_type, few=few)
    runs = [*(Scheduled(backend, case) for case in mine.cases), *generic]
    plainest = (mine.cases or short)[:ALWAYS]
    if backend.name not in NAMES:  # a kernel by its own name: whoever prefers it wants all of them tried
        plainest = tuple(run.case for run in runs)
    timed = _timed(backend, mine, device_type, few=few)
    compared = timed if device_type == "cuda" else (cases.LONG_CPU_128 if few else cases.COMPARED_CPU,)
    kept = {run.case.id for run in runs}
    return Plan(
        always=[Scheduled(backend, case) for case in (*plainest, *timed)],
        checked=runs,
        compiles=device_type != "cpu" or backends.cache_variable(backend.name) is not None,
        timed=timed,
        compared=[case for case in compared if rivals.is_comparable(case)],
        kernels=(backend, *backend.kernels.values()) if depth == "deep" else (backend,),
        left_out=[*mine.left_out, *(run.case.id for run in every if run.case.id not in kept)],
    )


def _short(backend: Backend, *, few: bool, far: bool) -> tuple[cases.Case, ...]:
    """The backend's cases where nothing is known of the run: all of them where they cost milliseconds; where each
    variant is compiled for seconds, few that find the same.
    """
    claims = backend.capabilities
    return compact.compact_cases(claims, far=far) if few and claims else cases.startup_cases(claims, far=far)


def _started(backend: Backend, short: Sequence[cases.Case], device_type: str, *, few: bool) -> list[Scheduled]:
    """What a start runs where nothing is known of the run: the backend as it is called, and no forced kernel."""
    long = long_cases(backend, device_type, few=few)
    return _ordered([Scheduled(backend, case) for case in (*short[:ALWAYS], *long, *short[ALWAYS:])])


def _timed(backend: Backend, mine: own.Own, device_type: str, *, few: bool) -> tuple[cases.Case, ...]:
    """The run's own calls, and those that have floors; where each is compiled for seconds, one or the other."""
    generic = performance.timed_cases(device_type, backend.capabilities)
    return (mine.timed or generic[:1]) if few else (*mine.timed, *generic)


def checked(backend: Backend, device_type: str = "cpu", *, far: bool) -> list[Scheduled]:
    """Every case that the backend claims, long ones among them, and beside it the first few of its forced kernels."""
    short, long = cases.startup_cases(backend.capabilities, far=far), long_cases(backend, device_type)
    if device_type == "cuda":
        long += tuple(cases.claimed(cases.LONG, backend.capabilities or cases.LEAST))
    runs = [Scheduled(backend, case) for case in (*short[:ALWAYS], *long, *short[ALWAYS:])]
    for name, kernel in backend.kernels.items():
        first = cases.startup_cases(kernel.capabilities)[:CASES_PER_KERNEL]
        runs += [Scheduled(kernel, replace(case, id=f"{name}:{case.id}")) for case in first]
    return _ordered(runs)


def long_cases(backend: Backend, device_type: str, *, few: bool = False) -> tuple[cases.Case, ...]:
    """On a GPU what is timed, since it is compiled and long; on a CPU one that it can afford."""
    long: tuple[cases.Case, ...] = (cases.LONG_CPU_128 if few else cases.LONG_CPU,)
    if device_type == "cuda":
        long = performance.timed_cases(device_type, backend.capabilities)[: 1 if few else None]
    return tuple(cases.claimed(long, backend.capabilities or cases.LEAST))


def _ordered(runs: Sequence[Scheduled]) -> list[Scheduled]:
    """Side by side they share the reference; the far case stays the last."""
    order = {problem: index for index, problem in enumerate(dict.fromkeys(run.case.problem for run in runs))}
    return sorted(runs, key=lambda run: (run.case.layout == "far", order[run.case.problem]))


def always(backend: Backend, device_type: str, *, far: bool = False) -> list[Scheduled]:
    """What a deep check compiles however long it takes: the plainest cases, and what is timed.

    Of a kernel that is asked for by its own name, every case: cuDNN's was wrong in one input family and in the far case
    alone.
    """
    return [*plan(backend, device_type, far=far).always]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those that `asked` reads."""
    parser.add_argument("--depth", default="deep", choices=get_args(Depth), help="how much is run (default: deep)")
    parser.add_argument(
        "--shape", default="", metavar="JSON", help="calls of the run that follows (entrypoint/shape.py)"
    )


def asked(options: argparse.Namespace) -> Asked:
    """Raises what json and Shape raise."""
    if not options.shape:
        return Asked(depth=options.depth)
    from entrypoint.shape import from_json

    return Asked(depth=options.depth, shape=from_json(options.shape))


def variants(runs: Iterable[Scheduled]) -> Iterator[Scheduled]:
    """The first run of each compiled kernel."""
    seen = set()
    for run in runs:
        if run.key not in seen:
            seen.add(run.key)
            yield run
