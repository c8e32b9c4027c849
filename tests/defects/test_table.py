"""Every seeded defect is found by the check itself, and a right kernel by nothing; the kept table says where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from entrypoint.probe import cases  # noqa: E402 - after the skip
from tests.defects import table  # noqa: E402
from tests.unit.wrong_kernels import EVERYTHING, backend, kernel  # noqa: E402

CASES = {case.id: case for case in cases.startup_cases(EVERYTHING, far=True)}


@pytest.fixture(autouse=True)
def far_is_near() -> Iterator[None]:
    with table.small_far():
        yield


@pytest.fixture(scope="module")
def results() -> dict[str, tuple[str, str] | None]:
    return table.found()


def test_every_defect_is_found(results: dict[str, tuple[str, str] | None]) -> None:
    """By the measurement, its event and the verdict's own functions."""
    assert len(results) >= 60
    assert [name for name, found in results.items() if found is None] == []


def test_the_kept_table_is_this_runs(results: dict[str, tuple[str, str] | None]) -> None:
    """Written again with `python -m tests.defects.table`."""
    assert table.TABLE.read_text(encoding="utf-8") == table.render(results)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_right_kernel_passes(case: cases.Case) -> None:
    """What the defects get wrong is their mistake alone; and it repeats itself, as it claims here."""
    right = backend(kernel(), deterministic=True)
    assert table.finding(table.event_of(right, case)) is None


@pytest.mark.parametrize("seed", [11, 12])
def test_other_seeds_are_no_alarm(seed: int) -> None:
    """The families with the largest cancellations, where healthy errors are largest."""
    right = backend(kernel())
    for name in ("causal-d128-uniform", "causal-d64-massive", "full-d64-low", "causal-d64-float16-overflow"):
        assert table.finding(table.event_of(right, replace(CASES[name], seed=seed))) is None
