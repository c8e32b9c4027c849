"""How many processors a check may keep busy: what binds a container, and what limits it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from entrypoint import child


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("400000 100000", 4), ("150000 100000", 1), ("50000 100000", 1), ("9900000 100000", 8)],
)
def test_a_quota_is_kept(quota: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole processors, at least one, and never more than the container is bound to."""
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(child, "CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert child.cpus() == expected


def test_without_control_groups_the_binding_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1 of them has another file; a guess too high costs little."""
    monkeypatch.setattr(child, "CPU_MAX", tmp_path / "missing")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5})
    assert child.cpus() == 2
