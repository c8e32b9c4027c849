"""`attn-run`, the entrypoint's name on PATH, where something else has replaced ENTRYPOINT: the same start."""

from __future__ import annotations

import json
import re
import signal

import pytest
from attn_matrix import ROOT

from tests.launcher.launchers import ContainerLauncher
from tests.launcher.test_command import wait_for_word
from tests.patience import PATIENCE

BYTES = bytes(range(256)) * 16


@pytest.fixture
def by_name(container: ContainerLauncher) -> ContainerLauncher:
    """A container whose command begins with `attn-run`, as Kubernetes' `command:` starts it."""
    container.options.append("--entrypoint=attn-run")
    return container


def test_it_is_the_program_of_entrypoint() -> None:
    """Word for word, so that an option of Python's is not in one of them alone."""
    text = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    (entrypoint,) = re.findall(r"^ENTRYPOINT (\[.*\])$", text, re.MULTILINE)
    (by_name,) = re.findall(r'^exec (/opt/venv/bin/python .*) "\$@"$', text, re.MULTILINE)
    assert by_name.split() == json.loads(entrypoint)


def test_the_command_runs_after_a_check(by_name: ContainerLauncher) -> None:
    """Its exit code and its bytes, a report, and no process of ours between it and the engine: it is process 1."""
    (by_name.data / "bytes").write_bytes(BYTES)
    result = by_name.run("sh", "-c", f"cat {by_name.inside}/bytes; echo $$ >{by_name.inside}/pid; exit 42")

    assert (result.code, result.stdout) == (42, BYTES)
    assert (by_name.data / "pid").read_text() == "1\n"
    assert by_name.report()["verdict"] == "PASS"


def test_a_failing_check_ends_the_start(by_name: ContainerLauncher) -> None:
    """With the verdict's code, and the command does not run."""
    by_name.behave("wrong")

    result = by_name.run("touch", f"{by_name.inside}/ran")

    assert result.code == 92
    assert not (by_name.data / "ran").exists()


def test_without_a_command_it_checks(by_name: ContainerLauncher) -> None:
    """As the entrypoint does."""
    assert by_name.run().code == 0
    assert by_name.report()["verdict"] == "PASS"


def test_a_login_shell_finds_it(container: ContainerLauncher) -> None:
    """Slurm and ssh start one, and /etc/profile sets another PATH than the image's."""
    container.options.append("--entrypoint=bash")
    result = container.run("-lc", "attn-run /bin/echo $PATH; command -v python")

    assert result.stdout.decode().startswith("/usr/local/bin:")
    assert "/opt/venv" not in result.stdout.decode()
    assert container.report()["verdict"] == "PASS"


def test_a_signal_reaches_the_check(by_name: ContainerLauncher) -> None:
    """No shell stands in between, which would keep it to itself as process 1."""
    by_name.behave("hang in correctness")
    process = by_name.start("true")
    wait_for_word(process, b"correctness")

    by_name.signal(process, signal.SIGTERM)

    process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM
