"""`nox -s check` as a newcomer runs it: with an engine, and without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.patience import CHECK, PATIENCE

ROOT = Path(__file__).resolve().parents[2]


def check(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "attn_matrix", "check", *arguments]
    environ = os.environ | {"PYTHONPATH": f"{ROOT / 'docker'}:{ROOT}", "ATTN_TIMEOUT": CHECK} | env
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_with_an_engine_it_runs_the_image(sdpa_cpu: str) -> None:
    """The image is built (here: found up to date) and its report is what comes out on stdout."""
    done = check("sdpa-cpu", "--json")

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["verdict"], report["image"]["id"]) == ("PASS", "sdpa-cpu")
    assert "docker run" in done.stderr


def test_without_an_engine_it_runs_the_same_check_in_a_virtual_environment() -> None:
    """No engine is no reason to leave a newcomer without a verdict; the line says which way it went."""
    done = check("sdpa-cpu", "--json", DOCKER_HOST="tcp://127.0.0.1:9")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "PASS"
    assert "virtual environment" in done.stderr


def test_the_verdicts_code_and_settings_pass_through(sdpa_cpu: str) -> None:
    """A caller's ATTN_ variables reach the container, and its exit code comes back."""
    done = check("sdpa-cpu", ATTN_BACKEND="fa4")

    assert done.returncode == 90
    assert "ATTN_BACKEND='fa4'" in done.stderr


def test_an_unknown_image_names_the_closest() -> None:
    """Before anything is built."""
    done = check("spda-cpu")

    assert done.returncode == 2
    assert "sdpa-cpu" in done.stderr
