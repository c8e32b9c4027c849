"""Helpers of a cold start: when there are any, what they compile, and that none outlives its use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from entrypoint.probe import ahead, backends, schedule
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
CACHE = "TORCHINDUCTOR_CACHE_DIR"


def test_a_cache_without_a_file_is_cold(tmp_path: Path) -> None:
    """One that is not there yet too; directories alone are no kernels."""
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    assert ahead.is_cold("flex", {CACHE: str(tmp_path / "missing")})
    assert ahead.is_cold("flex", {CACHE: str(tmp_path / "empty")})
    (tmp_path / "empty" / "deeper" / "kernel").touch()
    assert not ahead.is_cold("flex", {CACHE: str(tmp_path / "empty")})


def test_a_backend_says_itself_where_its_cache_is() -> None:
    """S2 runs on FlexAttention; what is not named here is compiled already."""
    variables = {name: variable for name in backends.NAMES if (variable := backends.cache_variable(name))}
    assert variables == {"flex": CACHE, "s2": CACHE, "fa4": "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR"}


@pytest.mark.parametrize(("backend", "environ"), [("sdpa", {CACHE: "/nowhere"}), ("flex", {}), ("flex", {CACHE: ""})])
def test_where_nothing_would_be_kept_nothing_is_cold(backend: str, environ: dict[str, str]) -> None:
    """A backend that is compiled already, and one whose helpers' work nobody would find."""
    assert not ahead.is_cold(backend, environ)


@pytest.mark.parametrize(("jobs", "helpers"), [(0, 0), (1, 0), (3, 2), (64, ahead.MOST["deep"])])
def test_the_check_is_one_of_the_jobs(jobs: int, helpers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And there are never more helpers than variants are worth."""
    commands: list[list[str]] = []
    popen = subprocess.Popen

    def remember(command: list[str], **options: object) -> subprocess.Popen[str]:
        commands.append(command)
        return popen([sys.executable, "-c", "print('causal-d64')"], stdout=subprocess.PIPE, text=True)

    monkeypatch.setattr(subprocess, "Popen", remember)
    with ahead.start("flex", "cuda:1", jobs, {CACHE: str(tmp_path)}) as started:
        assert len(started) == helpers
        assert started.finish(PATIENCE) == (frozenset({"causal-d64"}) if helpers else frozenset())
    assert [command[-1] for command in commands] == [f"--share={index}/{helpers}" for index in range(helpers)]
    assert all(["--backend", "flex", "--device", "cuda:1"] == command[4:8] for command in commands)


def test_what_was_said_before_the_end_counts() -> None:
    """A helper that takes too long is ended; what it has compiled is in the cache all the same."""
    command = [
        "sh",
        "-c",
        "echo causal-d64; exec sleep 600",
    ]  # said long before the second is over, also when it is slow
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with ahead.Helpers([process]) as helpers:
        assert helpers.finish(1.0) == {"causal-d64"}
    assert process.returncode == -9


def test_leaving_ends_helpers_that_nobody_waited_for() -> None:
    """A check that fails early leaves no process behind."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], stdout=subprocess.PIPE, text=True
    )
    with pytest.raises(RuntimeError), ahead.Helpers([process]):
        raise RuntimeError
    assert process.poll() == -9


def test_shares_are_every_variant_but_the_first_once() -> None:
    """Real helpers, of a backend that needs none but is quick: together what the check runs, each once."""
    torch = pytest.importorskip("torch")
    said = [share(index, 2) for index in range(2)]
    backend = backends.load("sdpa", torch.device("cpu"))
    variants = [run.case.id for run in schedule.plan(backend, "cpu", far=False).variants]
    assert sorted([*said[0], *said[1]]) == sorted(variants[1:])
    assert said[0][0] == variants[1]
    assert said[1][0] == variants[2]


def share(index: int, count: int) -> list[str]:
    command = [sys.executable, "-P", "-m", "entrypoint.probe.ahead", "--backend", "sdpa", "--device", "cpu"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, f"--share={index}/{count}"],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return done.stdout.split()
