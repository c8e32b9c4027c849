"""What compilers keep between starts: used as it was proved, and never if it is anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.launcher.launchers import ContainerLauncher, Launcher
from tests.patience import PATIENCE


@pytest.fixture
def compiling(launcher: Launcher) -> Launcher:
    """Its child compiles one kernel, and is wrong if it loads another."""
    launcher.behave("compiled")
    return launcher


def start(launcher: Launcher, directory: str = "cache", **environ: str) -> dict[str, Any]:
    """The report of a check that remembers no verdict, only what was compiled."""
    for verdict in (launcher.data / directory).glob("*.json"):
        verdict.unlink()
    result = launcher.run("check", "--json", ATTN_CACHE=f"{launcher.inside}/{directory}", **environ)
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def folder(launcher: Launcher) -> Path:
    """The one folder of this software and hardware."""
    (found,) = (launcher.data / "cache/compiled").iterdir()
    return found


def test_what_a_check_compiled_is_sealed(compiling: Launcher) -> None:
    """And is there at the next start."""
    report = start(compiling)
    sealed = json.loads((folder(compiling) / "sealed.json").read_text())
    assert (report["verdict"], report["notes"]) == ("PASS", [])
    assert list(sealed["files"]) == ["triton/kernel"]
    before = (folder(compiling) / "triton/kernel").stat().st_mtime_ns
    assert start(compiling)["notes"] == []
    assert (folder(compiling) / "triton/kernel").stat().st_mtime_ns == before


@pytest.mark.parametrize("poison", ["", "goo", "evil"])
def test_a_poisoned_kernel_is_not_loaded(compiling: Launcher, poison: str) -> None:
    """Empty, truncated, or of the same length: a note, and the right verdict."""
    start(compiling)
    (folder(compiling) / "triton/kernel").write_text(poison)
    report = start(compiling)
    assert (report["verdict"], report["cached"]) == ("PASS", False)
    assert "was ignored: triton/kernel" in report["notes"][0]


def test_a_remembered_verdict_with_a_truncated_kernel(compiling: Launcher) -> None:
    """The command gets another folder."""
    start(compiling)
    (folder(compiling) / "triton/kernel").write_text("goo")
    cache = f"{compiling.inside}/cache"
    result = compiling.run("sh", "-c", "readlink -f $TRITON_CACHE_DIR", ATTN_CACHE=cache)
    assert "from the verdict cache" in result.stderr
    assert "was ignored" in result.stderr
    assert not result.stdout.decode().startswith(cache)


def test_a_failure_by_an_unproved_kernel_is_no_verdict(compiling: Launcher) -> None:
    """A training was killed while it linked: the check fails with what that left, and passes without."""
    start(compiling)
    (folder(compiling) / "sealed.json").unlink()
    (folder(compiling) / "triton/kernel").write_text("goo")
    report = start(compiling)
    assert report["verdict"] == "PASS"
    assert "It failed with what compilers kept in" in report["notes"][0]


def test_a_failure_without_an_unproved_kernel_is_one(compiling: Launcher) -> None:
    """Nothing is checked twice until it passes."""
    start(compiling)
    compiling.behave("wrong")
    report = start(compiling)
    assert (report["verdict"], report["notes"]) == ("FAIL", [])


def test_a_verdict_does_not_depend_on_where_kernels_are(compiling: Launcher) -> None:
    """Another mount of the same volume finds the same verdict."""
    start(compiling)
    (compiling.data / "cache").rename(compiling.data / "moved")
    result = compiling.run("true", ATTN_CACHE=f"{compiling.inside}/moved")
    assert "from the verdict cache" in result.stderr


def test_without_a_directory_nothing_is_kept(compiling: Launcher) -> None:
    """ATTN_CACHE= is the container's own folder."""
    result = compiling.run("sh", "-c", "readlink -f $TRITON_CACHE_DIR", ATTN_CACHE="")
    assert result.stdout.decode().startswith("/tmp/attn/compiled/")
    assert not any(path.name != "report.json" for path in compiling.data.iterdir())


# ---- what only a container has ----


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--tmpfs=/cache:size=1m,mode=1777", "No space left on device"),
        ("--tmpfs=/cache:ro,mode=1777", "Read-only file system"),
        ("--tmpfs=/cache:mode=755", "Permission denied"),
    ],
)
def test_a_directory_that_keeps_nothing_is_a_note(container: ContainerLauncher, option: str, says: str) -> None:
    """Full, read-only, another user's."""
    container.behave("compiled")
    container.options += [option]
    report = json.loads(container.run("check", "--json", ATTN_CACHE="/cache").stdout)
    assert report["verdict"] == "PASS"
    assert f"({says})" in report["notes"][0]
    assert "What compilers make is not kept in /cache/compiled/" in report["notes"][0]


def test_another_users_folder_is_not_used(container: ContainerLauncher) -> None:
    """Of user 12345 before, of the image's own now."""
    container.behave("compiled")
    container.options += ["--user=12345:0"]
    start(container)
    container.options.remove("--user=12345:0")
    report = start(container)
    assert report["verdict"] == "PASS"
    assert "it belongs to user 12345, not to 1000" in report["notes"][0]


def test_eight_starts_at_once(container: ContainerLauncher) -> None:
    """On one volume: each passes, none has anything to say, and what is kept is whole."""
    container.behave("compiled")
    names = [f"{container.name}-{index}" for index in range(8)]
    processes = []
    for container.name in names:
        report = f"/data/{container.name}.json"
        processes.append(container.start("check", ATTN_CACHE="/data/cache", ATTN_REPORT=report))
    for process in processes:
        process.communicate(timeout=PATIENCE)
    reports = [json.loads((container.data / f"{name}.json").read_text()) for name in names]
    assert [(report["verdict"], report["notes"]) for report in reports] == [("PASS", [])] * 8
    assert start(container)["notes"] == []
