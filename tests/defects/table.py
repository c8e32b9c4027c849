"""The table of seeded defects and the case that found each: `python -m tests.defects.table [--check]`.

Run from the repository's root with the interpreter that has torch. Each defect goes through the real pipeline (the
measurement, its event, the verdict), case by case in the order of a start, up to the first that finds it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from entrypoint.events import CaseEvent
from entrypoint.judge.budgets import weigh_case, worst_of
from entrypoint.judge.verdict import conduct_of
from entrypoint.probe import accuracy, cases, compact, memory, own
from entrypoint.probe.backends import Backend
from entrypoint.probe.rivals import one_thread
from entrypoint.shape import Shape
from tests.defects.seeded import wrong_kernels
from tests.unit.wrong_kernels import EVERYTHING, backend, kernel

TABLE = Path(__file__).parents[1] / "data" / "defects.md"
# Of tests/gpu/defects_by_depth.py.
ON_A_GPU = TABLE.with_name("defects.h200.json")
# In place of 2^31 elements: the far case as it is, in 40 MB.
SMALL_FAR = 2**22
INTRODUCTION = """\
<!-- Written by `python -m tests.defects.table`; do not edit. -->

Each defect is a kernel with one mistake (tests/defects/). Its case is the first that finds it on a CPU, in the order of
a check but the long cases last. There the far case is run with 2^22 in place of 2^31 elements, and torch itself fills
memory that is not initialised with NaN, where on a GPU the check has done so (entrypoint/probe/memory.py).

A deep check, and a start of a backend that is compiled already, run the cases of the first column (a deep one forces
kernels beside it). A start of one that compiles each variant has few that find the same (entrypoint/probe/compact.py).
A start whose run is known has its calls alone (entrypoint/probe/own.py), here of a model with 4 heads on a kv head,
head_dim 64, packed in bf16: what is not found there is in calls that the run does not make.
"""
# Of the third column. On a CPU a start would shorten it further.
OWN = Shape(
    heads=8, kv_heads=2, head_dim=64, value_dim=64, scale=0.125, rows=2, length=4225, dtype="bfloat16", packed=True
)
# What decides in the order of a column, and what takes most of its time.
Found = dict[str, tuple[str, str] | None]


def event_of(kernel: Backend, case: cases.Case) -> CaseEvent:
    """The event of one case, as the check makes it."""
    import torch

    return accuracy.measure(kernel, case, torch.device("cpu")).event(case, seconds=0.0)


def finding(event: CaseEvent) -> str | None:
    """What the verdict has against a case, in a few words; None when it passes."""
    if event.no_gradient:
        return event.no_gradient
    worst = worst_of(weigh_case(event))
    if not worst.within:
        return f"{worst.tensor} {'not finite' if worst.rule == 'finite' else f'({worst.rule})'}"
    return conduct_of(event)


@contextmanager
def patched(table: dict[str, int], key: str, value: int) -> Iterator[None]:
    """The table with another value for a while."""
    kept, table[key] = table[key], value
    try:
        yield
    finally:
        table[key] = kept


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


def columns() -> dict[str, Sequence[cases.Case]]:
    """The cases of each column by its head."""
    long = (cases.LONG_CPU,)
    with patched(own.LONGEST, "cpu", OWN.length):
        mine = own.own_cases(OWN, backend(kernel()), "cpu", few=False)
    return {
        "deep, or start": (*cases.startup_cases(EVERYTHING, far=True), *long),
        "start, few variants": (*compact.compact_cases(EVERYTHING, far=True), *cases.SHIFTED[:1], cases.LONG_CPU_128),
        "start of a known run": sorted(mine.cases, key=lambda case: case.sampled),
    }


def found(column: Sequence[cases.Case]) -> Found:
    """For each defect the case that finds it and what it finds; None for a defect that goes unseen.

    Case by case, because what they share is the reference.
    """
    backends = wrong_kernels()
    results: Found = dict.fromkeys(backends)
    with small_far(), dirty_memory(), one_thread():
        for case in column:
            for name in [name for name, result in results.items() if result is None]:
                seen = finding(event_of(backends[name], case))
                results[name] = (case.id, seen) if seen else None
    return results


def render(results: Mapping[str, Found]) -> str:
    """Markdown: of each column the case, and in the first also where."""
    counts = [f"{head}: {sum(map(bool, found.values()))} of {len(found)}" for head, found in results.items()]
    first, *others = results.values()
    rows = []
    for name, seen in first.items():
        cells = [*(seen or ("not found", "")), *((found[name] or ("",))[0] for found in others)]
        rows.append(f"| {' | '.join((name, *cells))} |")
    head, *heads = results
    table = [f"| defect | {head} | in | {' | '.join(heads)} |", f"|{' --- |' * (3 + len(heads))}", *rows]
    return "\n".join([INTRODUCTION, f"Found: {'; '.join(counts)}.", on_a_gpu(), "", *table]) + "\n"


def on_a_gpu() -> str:
    """What the kept run on a GPU found, by column."""
    run = json.loads(ON_A_GPU.read_text(encoding="utf-8"))
    columns = {head: column["found"] for head, column in run["defects"].items()}
    counts = [f"{head}: {sum(map(bool, found.values()))} of {len(found)}" for head, found in columns.items()]
    where = f"On an {run['gpu'].partition(',')[0]} ({run['date']}, torch {run['torch']})"
    return f"{where}: {'; '.join(counts)}; .github/MEASURED.md says what not, and why."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare with tests/data/defects.md; 1 if it differs")
    options = parser.parse_args()
    results = {head: found(column) for head, column in columns().items()}
    text = render(results)
    sys.stdout.write(text)
    if not options.check:
        TABLE.write_text(text, encoding="utf-8")
        return 0
    stale = not TABLE.is_file() or TABLE.read_text(encoding="utf-8") != text
    return int(stale or None in next(iter(results.values())).values())


if __name__ == "__main__":
    sys.exit(main())
