"""The table of seeded defects and the case that found each: `python -m tests.defects.table [--check]`.

Run from the repository's root with the interpreter that has torch. Each defect goes through the real pipeline (the
measurement, its event, the verdict), case by case in the order of a start, up to the first that finds it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from entrypoint.events import CaseEvent
from entrypoint.judge.budgets import weigh_case, worst_of
from entrypoint.judge.verdict import conduct_of
from entrypoint.probe import accuracy, cases, memory
from entrypoint.probe.backends import Backend
from tests.defects.seeded import wrong_kernels
from tests.unit.wrong_kernels import EVERYTHING

TABLE = Path(__file__).parents[1] / "data" / "defects.md"
# In place of 2^31 elements: the far case as it is, in 40 MB.
SMALL_FAR = 2**22
INTRODUCTION = """\
<!-- Written by `python -m tests.defects.table`; do not edit. -->

Each defect is a kernel with one mistake (tests/defects/). Its case is the first, in the order of a start, that
finds it on a CPU. There the far case is run with 2^22 in place of 2^31 elements, and torch itself fills memory that is
not initialised with NaN, where on a GPU the check has done so (entrypoint/probe/memory.py).
"""


def event_of(backend: Backend, case: cases.Case) -> CaseEvent:
    """The event of one case, as the check makes it."""
    import torch

    return accuracy.measure(backend, case, torch.device("cpu")).event(case, seconds=0.0)


def finding(event: CaseEvent) -> str | None:
    """What the verdict has against a case, in a few words; None when it passes."""
    if event.no_gradient:
        return event.no_gradient
    worst = worst_of(weigh_case(event))
    if not worst.within:
        return f"{worst.tensor} {'not finite' if worst.rule == 'finite' else f'({worst.rule})'}"
    return conduct_of(event)


@contextmanager
def small_far() -> Iterator[None]:
    """The far layout at a size that any machine has."""
    kept, memory.FAR = memory.FAR, SMALL_FAR
    try:
        yield
    finally:
        memory.FAR = kept


@contextmanager
def dirty_memory() -> Iterator[None]:
    """New tensors hold NaN, as a GPU's do after memory.poison; which block a CPU's allocator gives is its own."""
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine make these small tensors ten times slower."""
    import torch

    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(kept)


def found() -> dict[str, tuple[str, str] | None]:
    """For each defect the case that finds it and what it finds; None for a defect that goes unseen.

    Case by case, because what they share is the reference.
    """
    backends = wrong_kernels()
    results: dict[str, tuple[str, str] | None] = dict.fromkeys(backends)
    with small_far(), dirty_memory(), one_thread():
        for case in cases.startup_cases(EVERYTHING, far=True):
            for name in [name for name, result in results.items() if result is None]:
                seen = finding(event_of(backends[name], case))
                results[name] = (case.id, seen) if seen else None
    return results


def render(results: dict[str, tuple[str, str] | None]) -> str:
    """Markdown."""
    rows = [f"| {name} | {' | '.join(found) if found else 'not found | '} |" for name, found in results.items()]
    count = f"{sum(found is not None for found in results.values())} of {len(results)} defects found."
    return "\n".join([INTRODUCTION, count, "", "| defect | found by | in |", "| --- | --- | --- |", *rows]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare with tests/data/defects.md; 1 if it differs")
    options = parser.parse_args()
    results = found()
    text = render(results)
    sys.stdout.write(text)
    if not options.check:
        TABLE.write_text(text, encoding="utf-8")
        return 0
    stale = not TABLE.is_file() or TABLE.read_text(encoding="utf-8") != text
    return int(stale or None in results.values())


if __name__ == "__main__":
    sys.exit(main())
