"""Which calls a check makes, in which order: the backend's cases, and beside them the same of its forced kernels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from entrypoint.probe import backends, cases, performance
from entrypoint.probe.backends import NAMES, Backend

# Causal and full, head_dim 64 and 128: no start goes without them, whatever they take to compile.
ALWAYS = 4
# Of a kernel that is forced: causal and full, both head dims, then strided inputs and the first feature.
CASES_PER_KERNEL = 6


@dataclass(frozen=True)
class Scheduled:
    """One case for a backend, or for one of its kernels, forced: then the case's id begins with the kernel's name."""

    backend: Backend
    case: cases.Case

    @property
    def key(self) -> tuple[str, cases.Case]:
        """Runs that share it share a compiled kernel."""
        return (self.backend.name, self.case.variant)


@dataclass(frozen=True)
class Plan:
    """All that a check runs: `always` however long it takes, `checked` as far as there is time.

    `compiles`: whether a first call may be much slower than the next. On a CPU it is so for just-in-time compilers
    alone, and first calls of all variants would double the time of the check.
    """

    always: Sequence[Scheduled]
    checked: Sequence[Scheduled]
    compiles: bool = True

    @property
    def variants(self) -> Iterator[Scheduled]:
        """What needs a first call of its own."""
        return variants([*self.always, *self.checked] if self.compiles else self.always)

    @property
    def keys(self) -> set[tuple[str, cases.Case]]:
        """The keys of `always`."""
        return {run.key for run in self.always}


def plan(backend: Backend, device_type: str, *, far: bool) -> Plan:
    """The plan for a backend on this type of device; `far`: with the case that takes gigabytes."""
    compiles = device_type != "cpu" or backends.cache_variable(backend.name) is not None
    return Plan(always(backend, device_type, far=far), checked(backend, far=far), compiles)


def checked(backend: Backend, *, far: bool) -> list[Scheduled]:
    """Every case that the backend claims, and beside it the same of its kernels, of each the first few."""
    runs = [Scheduled(backend, case) for case in cases.startup_cases(backend.capabilities, far=far)]
    for name, kernel in backend.kernels.items():
        few = cases.startup_cases(kernel.capabilities)[:CASES_PER_KERNEL]
        runs += [Scheduled(kernel, replace(case, id=f"{name}:{case.id}")) for case in few]
    # Side by side they share the reference; the far case stays the last.
    order = {problem: index for index, problem in enumerate(dict.fromkeys(run.case.problem for run in runs))}
    return sorted(runs, key=lambda run: (run.case.layout == "far", order[run.case.problem]))


def always(backend: Backend, device_type: str, *, far: bool = False) -> list[Scheduled]:
    """What is compiled however long it takes: the plainest cases, and what is timed.

    Of a kernel that is asked for by its own name, every case: whoever prefers it to torch's choice wants all of them
    tried, and cuDNN's was wrong in one input family and in the far case alone.
    """
    timed = [Scheduled(backend, case) for case in performance.timed_cases(device_type, backend.capabilities)]
    wanted = cases.startup_cases(backend.capabilities, far=far)
    wanted = wanted[:ALWAYS] if backend.name in NAMES else wanted
    return [*(Scheduled(backend, case) for case in wanted), *timed]


def variants(runs: Iterable[Scheduled]) -> Iterator[Scheduled]:
    """The first run of each compiled kernel."""
    seen = set()
    for run in runs:
        if run.key not in seen:
            seen.add(run.key)
            yield run
