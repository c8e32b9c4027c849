"""The one door to Docker and to other programs: exit codes, signals, clean-up, and errors that say what to install."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attn_matrix import ROOT
from attn_matrix.errors import CommandFailed, EngineMissing, UsageError
from attn_matrix.host import engine

from tests.patience import PATIENCE

Programs = Callable[..., Path]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Make a shell script the only program of its name on PATH, and every other one of this machine absent."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    def make(name: str, body: str) -> Path:
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        program.chmod(0o755)
        return program

    return make


def test_a_missing_docker_names_what_to_install(programs: Programs) -> None:
    """Without the program there is no engine to talk to: EngineMissing, with the page that helps."""
    with pytest.raises(EngineMissing, match=r"no program 'docker'(.|\n)*docs\.docker\.com"):
        engine.require()


def test_a_missing_program_is_not_a_missing_engine(programs: Programs) -> None:
    """uv is no engine: the error says how to get uv."""
    with pytest.raises(CommandFailed, match=r"no program 'uv'(.|\n)*tools\.txt"):
        engine.capture(["uv", "--version"])


def test_an_engine_that_does_not_answer_is_missing(programs: Programs) -> None:
    """What docker itself says of it is in the first line."""
    programs("docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    with pytest.raises(EngineMissing, match="Cannot connect to the Docker daemon"):
        engine.require()


def test_docker_without_buildx_names_buildx(programs: Programs) -> None:
    """The engine answers, and the plugin that builds is what is missing."""
    programs("docker", '[ "$1" = version ]')
    with pytest.raises(EngineMissing, match=r"no `buildx`(.|\n)*install-buildx"):
        engine.require()


def test_an_engine_with_buildx_is_enough(programs: Programs) -> None:
    """Nothing is raised."""
    programs("docker", "exit 0")
    engine.require()


def test_a_program_beside_this_python_comes_first(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The locked uv of the host's environment is used, whatever PATH holds."""
    on_path = programs("uv", "exit 0")
    beside = tmp_path / "venv/bin/uv"
    beside.parent.mkdir(parents=True)
    assert engine.find("uv") == str(on_path)
    monkeypatch.setattr(sys, "executable", str(beside.with_name("python")))
    assert engine.find("uv") == str(on_path)
    beside.touch()
    assert engine.find("uv") == str(beside)


def test_call_echoes_and_raises_on_failure(programs: Programs, capfd: pytest.CaptureFixture[str]) -> None:
    """The command is on stderr, its own stdout stays stdout, and a failure is an error with its exit code."""
    programs("tool", 'echo "out $1"; exit 7')
    with pytest.raises(CommandFailed, match="exit code 7 from tool 'a b'"):
        engine.call(["tool", "a b"])
    assert capfd.readouterr() == ("out a b\n", "+ tool 'a b'\n")


@pytest.mark.parametrize(("body", "code"), [("exit 0", 0), ("exit 91", 91), ("kill -9 $$", 137)])
def test_status_is_the_exit_code_as_a_shell_has_it(programs: Programs, body: str, code: int) -> None:
    """A signal is 128 and its number."""
    programs("tool", body)
    assert engine.status(["tool"]) == code


def test_status_adds_to_the_environment(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Given variables are added, and ours stay."""
    monkeypatch.setenv("OURS", "1")
    programs("tool", 'echo "$OURS $GIVEN"')
    engine.status(["tool"], env={"GIVEN": "2"})
    assert capfd.readouterr().out == "1 2\n"


def test_capture_returns_stdout_and_feeds_stdin(programs: Programs) -> None:
    """stderr is no part of it."""
    programs("tool", "read line; echo noise >&2; echo got $line")
    assert engine.capture(["tool"], stdin="this\n") == "got this"


def test_capture_fails_with_what_the_program_said(programs: Programs) -> None:
    """The reason on stderr is the second line of the error."""
    programs("tool", "echo because >&2; exit 3")
    with pytest.raises(CommandFailed, match="exit code 3 from tool") as caught:
        engine.capture(["tool"])
    assert caught.value.lines[-1] == "because"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # docker-py leaves its socket open
def test_no_engine_at_docker_host_says_which_was_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """docker-py's own error has no address in it."""
    address = f"unix://{tmp_path}/none.sock"
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(EngineMissing, match=f"no Docker Engine answers at {address}"), engine.connect():
        pass
    gc.collect()


def test_a_request_reads_as_the_docker_run_that_repeats_it() -> None:
    """GPUs, variables, image and command, in the order that docker wants."""
    request = engine.Request("it:id", ["check", "--json"], {"ATTN_CHECK": "warn"}, gpus=True)
    expected = "docker run --rm --gpus all -e ATTN_CHECK=warn it:id check --json"
    assert " ".join(request.as_docker_run()) == expected


def test_the_docker_run_of_a_request_with_files_and_some_gpus() -> None:
    """As a shell reads it: a list of GPUs stands in quotes of its own."""
    request = engine.Request(
        "it:id", gpus=True, which_gpus="device=0,1", volumes=("/a:/workspace", "cache:/cache:ro"), user="7:0"
    )
    expected = 'docker run --rm --gpus "device=0,1" --user 7:0 -v /a:/workspace -v cache:/cache:ro it:id'
    assert " ".join(request.as_docker_run()) == expected


class Containers:
    """Stands in for docker-py's client: it remembers what a container was created with."""

    def __init__(self) -> None:
        self.containers = self
        self.created: dict[str, object] = {}
        self.removed = 0

    def create(self, image: str, command: list[str], **options: object) -> Containers:
        self.created = {"image": image, "command": command, **options}
        return self

    def remove(self, *, force: bool) -> None:
        self.removed += force


@pytest.mark.parametrize(
    ("which", "count", "ids"), [("all", -1, []), ("2", 2, []), ("device=0,GPU-1", 0, ["0", "GPU-1"])]
)
def test_a_container_is_created_as_the_request_says(which: str, count: int, ids: list[str]) -> None:
    """GPUs, volumes and user reach the engine, and the container is removed at the end."""
    client: Any = Containers()
    request = engine.Request("it:id", ["check"], {"A": "1"}, gpus=True, which_gpus=which, volumes=["/a:/b"], user="7:0")
    with engine.created(client, request):
        assert client.removed == 0
    (gpus,) = client.created.pop("device_requests")
    assert (gpus["Count"], gpus["DeviceIDs"]) == (count, ids)
    assert client.created == {
        "image": "it:id", "command": ["check"], "environment": {"A": "1"}, "volumes": ["/a:/b"], "user": "7:0",
        "devices": [], "group_add": [],
    }  # fmt: skip
    assert client.removed == 1


def test_gpus_that_docker_would_not_understand() -> None:
    """Said before the engine is asked."""
    client: Any = Containers()
    request = engine.Request("it:id", gpus=True, which_gpus="some")
    with pytest.raises(UsageError, match="--gpus: 'some' is not `all`, a number"), engine.created(client, request):
        pytest.fail("it was created")


PARENT = """
import sys
from attn_matrix.host import engine
print("code", engine.status([sys.executable, "-c", CHILD]), flush=True)
"""
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(33))
print("ready", flush=True); time.sleep(600)
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True); time.sleep(600)
"""


def start(child: str) -> subprocess.Popen[str]:
    """A parent that runs `child` through engine.status, once the child is ready for signals."""
    program = PARENT.replace("CHILD", repr(child))
    environ = os.environ | {"PYTHONPATH": str(ROOT / "docker")}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environ, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    return parent


def test_a_signal_is_handed_on_and_the_child_decides() -> None:
    """SIGTERM to us is SIGTERM to what runs in the foreground, and its exit code is ours."""
    with start(POLITE) as parent:
        parent.send_signal(signal.SIGTERM)
        assert parent.communicate(timeout=PATIENCE)[0] == "code 33\n"


def test_a_second_signal_kills() -> None:
    """A child that ignores the first signal ends with the second."""
    with start(DEAF) as parent:
        parent.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert parent.poll() is None
        parent.send_signal(signal.SIGTERM)
        assert parent.communicate(timeout=PATIENCE)[0] == "code 137\n"
