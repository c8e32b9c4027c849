"""How many processes a check may keep busy: what binds a container, and what limits it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from entrypoint.machine import limits

GIB = 1 << 30


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups without any limit, on a machine of 8 processors and 64 GiB of free memory."""
    monkeypatch.setattr(limits, "CGROUP", tmp_path)
    monkeypatch.setattr(limits, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {64 * GIB // 1024} kB\n")
    for name in ("cpu.max", "memory.max"):
        (tmp_path / name).write_text("max 100000\n" if name == "cpu.max" else "max\n")
    (tmp_path / "memory.current").write_text(f"{GIB}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("400000 100000", 4), ("150000 100000", 1), ("50000 100000", 1), ("9900000 100000", 8)],
)
def test_a_quota_is_kept(quota: str, expected: int, group: Path) -> None:
    """Whole processors, at least one, and never more than the container is bound to."""
    (group / "cpu.max").write_text(f"{quota}\n")
    assert limits.cpus() == expected


@pytest.mark.parametrize(("limit", "expected"), [("max", 8), (str(13 * GIB), 4), (str(2 * GIB), 1), (str(0), 1)])
def test_memory_is_kept_free(limit: str, expected: int, group: Path) -> None:
    """A helper more than there is memory for would have the check killed."""
    (group / "memory.max").write_text(f"{limit}\n")
    assert limits.jobs() == expected


def test_a_full_machine_has_one_job(group: Path) -> None:
    """Whatever the container's own limit is."""
    (group / "meminfo").write_text("MemAvailable:   1000000 kB\n")
    assert limits.jobs() == 1


def test_without_control_groups_the_machine_counts(group: Path) -> None:
    """A guess too high costs little."""
    for name in ("cpu.max", "memory.max", "memory.current"):
        (group / name).unlink()
    assert (limits.cpus(), limits.memory(), limits.jobs(), limits.oom_kills()) == (8, 64 * GIB, 8, 0)


@pytest.mark.parametrize(
    ("quota", "limit", "expected"), [("-1", 1 << 63, (8, 64 * GIB)), ("300000", 13 * GIB, (3, 12 * GIB))]
)
def test_version_1_of_control_groups_counts_too(quota: str, limit: int, expected: tuple[int, int], group: Path) -> None:
    """Its files have other names, and other words for no limit."""
    for name in ("cpu.max", "memory.max", "memory.current"):
        (group / name).unlink()
    (group / "cpu").mkdir()
    (group / "memory").mkdir()
    (group / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (group / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (group / "memory/memory.limit_in_bytes").write_text(f"{limit}\n")
    (group / "memory/memory.usage_in_bytes").write_text(f"{GIB}\n")
    (group / "memory/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert ((limits.cpus(), limits.memory()), limits.oom_kills()) == (expected, 2)


def test_what_cannot_be_read_is_one_job(group: Path) -> None:
    """A machine without /proc/meminfo."""
    (group / "meminfo").unlink()
    assert limits.jobs() == 1
