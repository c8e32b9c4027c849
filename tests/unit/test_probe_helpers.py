"""Helpers of a check: when there are any, what they measure, and that none outlives its use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from entrypoint.events import CaseErrorEvent, Event, FirstCallEvent, encode
from entrypoint.probe import backends, helpers, schedule
from entrypoint.probe import share as probe_share
from tests.patience import PATIENCE
from tests.unit.test_probe_depth import LLAMA

ROOT = Path(__file__).parents[2]
CACHE = "TORCHINDUCTOR_CACHE_DIR"


def test_a_cache_without_a_file_is_cold(tmp_path: Path) -> None:
    """One that is not there yet too; directories alone are no kernels."""
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    assert helpers.is_cold("flex", {CACHE: str(tmp_path / "missing")})
    assert helpers.is_cold("flex", {CACHE: str(tmp_path / "empty")})
    (tmp_path / "empty" / "deeper" / "kernel").touch()
    assert not helpers.is_cold("flex", {CACHE: str(tmp_path / "empty")})


def test_a_backend_says_itself_where_its_cache_is() -> None:
    """S2 runs on FlexAttention; what is not named here is compiled already."""
    variables = {name: variable for name in backends.NAMES if (variable := backends.cache_variable(name))}
    assert variables == {"flex": CACHE, "s2": CACHE, "fa4": "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR"}


@pytest.mark.parametrize(("backend", "environ"), [("sdpa", {CACHE: "/nowhere"}), ("flex", {}), ("flex", {CACHE: ""})])
def test_where_nothing_would_be_kept_nothing_is_cold(backend: str, environ: dict[str, str]) -> None:
    """A backend that is compiled already, and one whose helpers' work nobody would find."""
    assert not helpers.is_cold(backend, environ)


FILLED = {CACHE: "/usr/bin"}  # some folder with files in it


@pytest.mark.parametrize(("jobs", "count"), [(0, 0), (1, 0), (3, 2), (64, helpers.MOST["deep"])])
def test_the_check_is_one_of_the_jobs(jobs: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And there are never more helpers than variants are worth."""
    commands: list[list[str]] = []
    popen = subprocess.Popen

    def remember(command: list[str], **_: object) -> subprocess.Popen[bytes]:
        commands.append(command)
        return popen(["echo", encode(FirstCallEvent(id="causal-d64", seconds=1.0))], stdout=subprocess.PIPE)

    monkeypatch.setattr(subprocess, "Popen", remember)
    with helpers.start("flex", "cuda:1", jobs, {CACHE: "/nowhere"}) as started:
        assert len(started) == count
        assert set(started.finish(PATIENCE).first_calls) == ({"causal-d64"} if count else set())
    assert [command[-1] for command in commands] == ([f"--helpers={count}"] if count else [])
    assert all(["--backend", "flex", "--device", "cuda:1"] == command[4:8] for command in commands)


@pytest.mark.parametrize(
    ("backend", "device", "environ", "wanted"),
    [
        ("flex", "cuda:0", {CACHE: "/nowhere"}, 5),
        ("s2", "cuda:0", FILLED, 1),
        ("flex", "cpu", {CACHE: "/nowhere"}, 5),
        ("flex", "cpu", FILLED, 0),  # it would share the cores with the check
        ("fa4", "cuda:0", {"FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": "/usr/bin"}, 0),  # it finds its kernels there
        ("fa4", "cuda:0", {"FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": "/nowhere"}, 6),
        ("sage", "cuda:0", {}, 0),
    ],
)
def test_a_start_has_helpers_where_they_are_worth_their_own(
    backend: str, device: str, environ: dict[str, str], wanted: int
) -> None:
    """On a GPU what is traced anew in each process is, also where its cache is filled."""
    assert helpers.wanted(backend, device, environ, schedule.Asked(depth="start")) == wanted


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        (schedule.EVERYTHING, 12),
        (schedule.Asked(depth="start", shape=LLAMA), 0),
        (schedule.Asked(depth="start", shape=replace(LLAMA, window=1024, mixed=True)), 1),
        (schedule.Asked(depth="deep", shape=LLAMA), 12),
    ],
)
def test_a_known_run_needs_a_helper_for_its_other_variant_alone(
    asked: schedule.Asked, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each imports torch beside the check and takes memory of the GPU; and it is told what is asked."""
    started: list[tuple[list[str], int]] = []
    monkeypatch.setattr(helpers, "Helpers", lambda *arguments: started.append(arguments))
    helpers.start("flex", "cuda:0", 64, {}, asked)
    assert [number for _, number in started] == [count]
    assert all(set(asked.flags) <= set(command) for command, _ in started)


def test_what_was_said_before_the_end_counts() -> None:
    """A helper that takes too long is ended; a line that it had not finished is none."""
    said = [encode(FirstCallEvent(id="causal-d64", seconds=1.0)), '{"event": "first_call", "id": "half']
    script = f"printf '%s\\n%s' '{said[0]}' '{said[1]}'; exec sleep 600"
    with helpers.Helpers(["sh", "-c", script], 1) as aids:
        assert set(aids.finish(1.0).first_calls) == {"causal-d64"}  # said long before the second is over
    assert status(aids) == -signal.SIGTERM


def test_more_lines_than_a_pipe_holds_stop_no_helper() -> None:
    """They are read while it runs: it would wait for the check, and the check for it."""
    line = encode(FirstCallEvent(id="x" * 1000, seconds=1.0))
    script = f"print('\\n'.join(['{line}'] * 1000)); print('{line.replace('xx', 'last', 1)}')"
    with helpers.Helpers([sys.executable, "-c", script], 1) as aids:
        assert len(aids.finish(PATIENCE).first_calls) == 2


def test_an_error_of_a_helper_is_no_result() -> None:
    """Its memory may have run out because of the others; the check runs that case itself, and says what it meets."""
    events: list[Event] = [CaseErrorEvent(id="far", reason="out of memory", out_of_memory=True)]
    assert helpers.finished(encode(event).encode() for event in events) == helpers.NOTHING


def test_leaving_ends_helpers_that_nobody_waited_for() -> None:
    """A check that fails early leaves no process behind."""
    aids = helpers.Helpers([sys.executable, "-c", "import time; time.sleep(600)"], 1)
    with pytest.raises(RuntimeError), aids:
        raise RuntimeError
    assert status(aids) == -signal.SIGTERM


def status(aids: helpers.Helpers) -> int | None:
    assert aids.process
    return aids.process.poll()


FORKED = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from entrypoint.probe import share

def work(index):
    os.write(1, b"%d\\n" % os.getpid())  # print may write the end of the line by itself
    if index == 0:
        raise RuntimeError("planted")
    if index == 1:
        os.abort()
    time.sleep({{seconds}})
    return 0

sys.exit(share.forked(3, work))
"""


def test_one_that_raises_or_crashes_is_none_of_the_others_business() -> None:
    """Each does its share, and none goes on as the process that forked it."""
    script = FORKED.format(seconds=0)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert len(set(done.stdout.split())) == 3
    assert done.stderr.count("RuntimeError: planted") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ending_them_ends_every_one_that_was_forked(number: signal.Signals) -> None:
    """Asked to, the process goes last, when none of its own is left to disturb a measurement; killed for want of
    memory, it leaves none behind either.
    """
    with subprocess.Popen([sys.executable, "-c", FORKED.format(seconds=600)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        children = [int(parent.stdout.readline()) for _ in range(3)]
        parent.send_signal(number)
        assert parent.wait(PATIENCE) == (0 if number == signal.SIGTERM else -number)
    until = time.monotonic() + 60
    while left := [child for child in children if running(child)]:
        assert time.monotonic() < until, left
        time.sleep(0.01)


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


def test_where_no_more_processes_may_be_started_those_that_were_do_their_share() -> None:
    """The check runs what nobody has finished."""
    script = FORKED.format(seconds=0).replace("sys.exit(", PIDS_LIMIT + "sys.exit(")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert len(done.stdout.split()) == 1


PIDS_LIMIT = """
fork = os.fork

def once():
    os.fork = refuse
    return fork()

def refuse():
    raise BlockingIOError(11, "Resource temporarily unavailable")

os.fork = once
"""


@pytest.fixture(scope="module")
def said() -> list[list[dict[str, object]]]:
    """What each of two real helpers says, of a backend that needs none but is quick."""
    pytest.importorskip("torch")
    return [share(f"--share={index}/2") for index in range(2)]


def test_shares_are_every_variant_but_the_checks_own_once(said: list[list[dict[str, object]]]) -> None:
    """Together what the check would run, each case once."""
    torch = pytest.importorskip("torch")
    plan = schedule.plan(backends.load("sdpa", torch.device("cpu")), "cpu", schedule.Asked(depth="start"), far=False)
    called = [[line["id"] for line in lines if line["event"] == "first_call"] for lines in said]
    measured = [str(line["id"]) for lines in said for line in lines if line["event"] == "case"]
    assert called == [[run.case.id for run in plan.shared[index::2]] for index in range(2)]
    keys = {run.key for run in plan.shared}
    assert sorted(measured) == sorted(run.case.id for run in plan.checked if run.key in keys)
    assert len(measured) > len(called[0] + called[1])


def test_forked_helpers_say_what_each_would_say_alone(said: list[list[dict[str, object]]]) -> None:
    """All of it in one pipe, each line whole; the seconds are their own."""
    assert sorted(map(timeless, share("--helpers=2"))) == sorted(
        map(timeless, [line for each in said for line in each])
    )


def test_where_cuda_was_asked_before_the_fork_a_helper_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an import of another torch may do: in a process that is forked later no GPU works."""
    torch = pytest.importorskip("torch")
    started: list[list[str]] = []
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    monkeypatch.setattr(os, "execv", lambda _, command: started.append(command))
    monkeypatch.setattr(probe_share, "work", lambda *_: 0)
    asked = ["--backend=flex", "--device=cuda:0", "--depth=start", "--helpers=3"]
    probe_share.helped(probe_share.parse(asked), 1, asked)
    assert started == [[sys.executable, "-P", "-m", "entrypoint.probe.share", *asked, "--share=1/3"]]


ASKED_ABOUT_GPUS = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from entrypoint.probe import backends

asked = []
for name in ("is_available", "device_count"):
    setattr(torch.cuda, name, lambda name=name, real=getattr(torch.cuda, name): asked.append(name) or real())
backends.preload("flex")
COMPILER = "torch._inductor.compile_fx"
print(asked, "torch._dynamo" in sys.modules, COMPILER in sys.modules)
backends.preload_compiler("flex")
print(COMPILER in sys.modules, flush=True)
os._exit(0)  # torch's compiler workers take seconds to say goodbye
"""


def test_what_is_imported_before_the_fork_asks_no_gpu_anything() -> None:
    """A process whose driver was asked cannot fork one that uses a GPU; so the compiler, which asks, comes later."""
    pytest.importorskip("torch")
    environ = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    command = [sys.executable, "-c", ASKED_ABOUT_GPUS]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout.splitlines() == ["[] True False", "True"]


def timeless(line: dict[str, object]) -> str:
    return json.dumps({key: value for key, value in line.items() if key != "seconds"}, sort_keys=True)


def share(which: str) -> list[dict[str, object]]:
    command = [sys.executable, "-P", "-m", "entrypoint.probe.share", "--backend", "sdpa", "--device", "cpu"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--depth=start", which], env=environ, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    return [json.loads(line) for line in done.stdout.splitlines()]
