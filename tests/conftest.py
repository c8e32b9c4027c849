"""What the tests need of the machine: an engine, images, a GPU. What is absent is listed by name at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from attn_matrix.errors import EngineMissing
from attn_matrix.host import engine

ROOT = Path(__file__).resolve().parents[1]
# CI promises an engine (.ci/run starts one), so that a test which finds none fails there.
PROMISED = bool(os.environ.get("CI"))


@pytest.fixture(scope="session")
def docker_engine() -> None:
    """A Docker Engine with buildx, or a skip that says what is missing."""
    try:
        engine.require()
    except EngineMissing as error:
        if PROMISED:
            pytest.fail(f"CI promises an engine: {error}")
        pytest.skip(f"needs a Docker Engine: {error.lines[0]}")


def build(*ids: str) -> str:
    """Build images from the local base; what the build printed."""
    command = [sys.executable, "-P", "-m", "attn_matrix", "build", "--local-base", *ids]
    environ = os.environ | {"PYTHONPATH": f"{ROOT / 'docker'}:{ROOT}"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def sdpa_cpu(docker_engine: None) -> str:
    """The tag of the freshly built sdpa-cpu image."""
    build("sdpa-cpu")
    return "axolotl-attn:sdpa-cpu"


@pytest.fixture(scope="session")
def sdpa_cpu_base(docker_engine: None) -> str:
    """The tag of the freshly built image without Axolotl."""
    build("sdpa-cpu-base")
    return "axolotl-attn:sdpa-cpu-base"


@pytest.fixture(scope="session")
def flex_cpu(sdpa_cpu: str) -> str:
    """The tag of the freshly built flex-cpu image."""
    build("flex-cpu")
    return "axolotl-attn:flex-cpu"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name every test that did not run, under the reason that kept it from running."""
    kept_out: dict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        kept_out[reason].append(report.nodeid)
    for reason, names in kept_out.items():
        terminalreporter.section(f"not run on this machine: {len(names)}")
        terminalreporter.line(reason)
        for name in names:
            terminalreporter.line(f"  {name}")
