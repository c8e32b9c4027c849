"""The child as its parent sees it: lines in order, reasons, and what an exception becomes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from entrypoint.events import PHASES, FirstCallEvent
from entrypoint.probe import __main__ as child
from entrypoint.probe import backends, cases, device, helpers, observe, performance, rivals, schedule, variants
from entrypoint.probe.accuracy import Measured
from entrypoint.probe.eventlog import EventLog
from entrypoint.probe.limit import Limit, Step
from entrypoint.probe.trouble import Unusable
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]


def run(*arguments: str, pass_fds: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "entrypoint.probe", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, pass_fds=pass_fds, timeout=PATIENCE, check=False
    )


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def healthy() -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """One real run of SDPA on the CPU, its events on a descriptor of their own."""
    pytest.importorskip("torch")
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    finished = run("--backend", "sdpa", "--device", "cpu", "--events", str(write_end), pass_fds=(write_end,))
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        return finished, events(pipe.read())


def test_a_healthy_run_ends_with_done_and_writes_nothing_to_stdout(healthy: Any) -> None:
    """Every line is an event; stdout is the user's."""
    finished, lines = healthy
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == ""
    assert lines[-1]["event"] == "done"
    assert set(lines[-1]["seconds"]) == set(PHASES)
    assert all(seconds >= 0.0 for seconds in lines[-1]["seconds"].values())


def test_phases_come_before_what_they_announce(healthy: Any) -> None:
    """So that the parent knows what a child was doing when it was last heard of."""
    _, lines = healthy
    phases = [line["name"] for line in lines if line["event"] == "phase"]
    assert list(dict.fromkeys(phases)) == list(PHASES)
    announced = {"machine": "machine", "case": "correctness", "kernels": "observe", "speed": "performance"}
    last = ""
    for line in lines:
        last = line["name"] if line["event"] == "phase" else last
        assert last == announced.get(line["event"], last)


def test_every_claimed_case_is_reported_with_all_its_tensors(healthy: Any) -> None:
    """Those of the backend and the first few of each forced kernel, with gradients, dtype, family and conduct."""
    import torch

    _, lines = healthy
    reported = {line["id"]: line for line in lines if line["event"] == "case"}
    planned = schedule.checked(backends.load("sdpa", torch.device("cpu")), far=False)
    assert list(reported) == [run.case.id for run in planned]
    assert any(":" in name for name in reported)
    for run in planned:
        line = reported[run.case.id]
        assert (line["dtype"], line["inputs"]) == (run.case.dtype, run.case.inputs)
        assert (line["no_gradient"], line["mutated"], line["relative_error"]) == (None, [], None)
        assert all(line["tensors"][name]["finite"] for name in ("out", "dq", "dk", "dv"))


def test_the_first_call_of_each_variant_is_timed_apart(healthy: Any) -> None:
    """A JIT backend's compilation is in it; the cases that share the variant have none."""
    _, lines = healthy
    first = [line["id"] for line in lines if line["event"] == "first_call"]
    assert len(first) == len(set(first)) < len([line for line in lines if line["event"] == "case"])
    assert all(line["seconds"] > 0.0 for line in lines if line["event"] == "first_call")
    assert lines[-1]["left_out"] == []


def test_speed_and_kernels_are_measured(healthy: Any) -> None:
    """Both directions with their samples, no ceiling on a CPU, and the kernel that ran."""
    _, lines = healthy
    assert not {"ceiling", "bandwidth"} & {line["event"] for line in lines}
    kernels = [line for line in lines if line["event"] == "kernels"]
    assert kernels[0]["asked"] == kernels[0]["observed"] == "sdpa"
    assert all(line["reason"] is None and line["recorded"] > 0 for line in kernels)
    speeds = [line for line in lines if line["event"] == "speed"]
    assert [line["direction"] for line in speeds] == ["forward", "backward"]
    assert all(line["tflops"] > 0.0 and 1 <= len(line["samples"]) <= line["planned"] for line in speeds)


def test_events_may_go_to_stdout() -> None:
    """The default, for a person at a shell: still nothing else is there."""
    pytest.importorskip("torch")
    finished = run("--backend", "fa4", "--device", "cpu")
    assert finished.returncode == 0, finished.stderr
    assert [line["event"] for line in events(finished.stdout)][-1] == "unusable"


def test_a_missing_package_is_unusable_with_its_reason() -> None:
    """Exit status 0: the reason is the result. The machine is reported before."""
    pytest.importorskip("torch")
    if importable("sageattention"):
        pytest.skip("sageattention is installed here")
    finished = run("--backend", "sage", "--device", "cpu")
    lines = events(finished.stdout)
    assert finished.returncode == 0, finished.stderr
    assert lines[-1] == {
        "event": "unusable",
        "subject": "backend",
        "reason": "ModuleNotFoundError: No module named 'sageattention'",
    }
    assert "machine" in [line["event"] for line in lines]


def importable(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def test_a_device_that_is_not_there_is_unusable() -> None:
    """With torch's own reason."""
    torch = pytest.importorskip("torch")
    beyond = f"cuda:{torch.cuda.device_count()}"
    last = events(run("--backend", "sdpa", "--device", beyond).stdout)[-1]
    assert (last["event"], last["subject"]) == ("unusable", "device")
    assert last["reason"]


def test_without_torch_the_reason_is_the_imports(tmp_path: Path) -> None:
    """A broken torch, such as one with an undefined symbol, is reported in its own words."""
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: undefined symbol: example')\n")
    command = [sys.executable, "-P", "-m", "entrypoint.probe", "--backend", "sdpa", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr
    assert events(finished.stdout) == [
        {"event": "phase", "name": "import", "detail": "torch"},
        {
            "event": "unusable",
            "subject": "torch",
            "reason": "ImportError: libcudart.so.12: undefined symbol: example",
        },
    ]


def test_an_unknown_backend_is_a_mistake_in_the_arguments() -> None:
    """Exit status 2, no event, and the closest name."""
    finished = run("--backend", "fa5", "--device", "cpu")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert "unknown backend 'fa5'. Did you mean 'fa4'?" in finished.stderr


# --- what exceptions become, with backends of the tests' own ----------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what these tests do not look at: timing, the profiler, and long sequences."""
    pytest.importorskip("torch")
    short = tuple(replace(case, seqlen=16) for case in cases.startup_cases())
    monkeypatch.setattr(cases, "startup_cases", lambda *_, **__: short)
    monkeypatch.setattr(schedule, "long_cases", lambda *_, **__: ())
    monkeypatch.setattr(performance, "attention_speeds", lambda *_: iter(()))
    monkeypatch.setattr(rivals, "compare", lambda *_: iter(()))
    monkeypatch.setattr(observe, "record", lambda *_: observe.Recording(names=(), recorded=0))


def probe(
    monkeypatch: pytest.MonkeyPatch, attention: backends.Attention, **kernels: backends.Attention
) -> list[dict[str, Any]]:
    forced = {name: backends.Backend(name=f"sdpa-{name}", attention=kernel) for name, kernel in kernels.items()}
    backend = backends.Backend(name="sdpa", attention=attention, kernels=forced)
    monkeypatch.setattr(backends, "load", lambda name, where: backend)
    stream = io.StringIO()
    child.probe("sdpa", "cpu", EventLog(stream))
    return events(stream.getvalue())


def test_a_case_that_raises_is_reported_and_the_others_run(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One refused head_dim does not hide what the rest is worth."""
    from entrypoint.probe import reference

    def attention(arguments: backends.Arguments) -> Any:
        if arguments.q.shape[-1] == 128:
            raise NotImplementedError("head_dim 128 is not supported")
        return reference.reordered(arguments)

    lines = probe(monkeypatch, attention)
    errors = [line for line in lines if line["event"] == "case_error"]
    assert [line["id"] for line in errors] == ["causal-d128", "full-d128", "causal-d128-x3", "full-d128-x3"]
    assert errors[0]["reason"] == "NotImplementedError: head_dim 128 is not supported"
    assert errors[0]["out_of_memory"] is False
    assert len([line for line in lines if line["event"] == "case"]) == 4
    assert lines[-1]["event"] == "done"


def test_a_backend_that_runs_no_case_is_unusable(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a kernel without code for this GPU; the first reason stands for all."""

    def attention(arguments: backends.Arguments) -> Any:
        raise AssertionError("Unsupported compute capability")

    with pytest.raises(Unusable, match="AssertionError: Unsupported compute capability") as caught:
        probe(monkeypatch, attention)
    assert caught.value.subject == "backend"


def test_memory_that_runs_out_is_told_from_a_refusal(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may hold the GPU: that says nothing of the backend, so each case reports it."""
    import torch

    def attention(arguments: backends.Arguments) -> Any:
        raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")

    lines = probe(monkeypatch, attention)
    errors = [line for line in lines if line["event"] == "case_error"]
    assert len(errors) >= len(cases.startup_cases())
    assert all(line["out_of_memory"] for line in errors)


def test_a_device_that_no_longer_works_ends_the_child(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an illegal memory access every later call fails; going on would report nonsense."""

    def attention(arguments: backends.Arguments) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def sticky(where: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(device, "recover", sticky)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        probe(monkeypatch, attention)


def test_sdpa_is_looked_for_in_a_call_without_a_mask() -> None:
    """With documents or a window it is math beside grouped heads: on an H200 a packed run was refused for that."""
    import torch

    from entrypoint.probe.__main__ import unmasked

    packed = replace(cases.VARLEN_64, window=(100, 0))
    for name in ("sdpa", "sdpa-flash"):
        seen = unmasked(packed, backends.load(name, torch.device("cpu")))
        assert (seen.cu_seqlens, seen.window) == (None, None)
    assert unmasked(packed, backends.Backend(name="fa4", attention=lambda arguments: arguments.q)) == packed


def test_a_broken_profiler_is_no_fault_of_the_backend(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was observed, with the reason; the rest goes on."""
    from entrypoint.probe import reference

    def broken(*_: object) -> observe.Recording:
        raise RuntimeError("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES")

    monkeypatch.setattr(observe, "record", broken)
    lines = probe(monkeypatch, reference.reordered)
    kernels = next(line for line in lines if line["event"] == "kernels")
    assert kernels["observed"] is None
    assert kernels["names"] == []
    assert kernels["reason"] == "RuntimeError: CUPTI_ERROR_INSUFFICIENT_PRIVILEGES"
    assert lines[-1]["event"] == "done"


def test_a_forced_kernel_is_checked_under_its_own_name(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong one shows in its cases, beside the backend's own."""
    from entrypoint.probe import reference

    lines = probe(monkeypatch, reference.reordered, cudnn=lambda arguments: reference.reordered(arguments) * 2.0)
    errors = {line["id"]: line["tensors"]["out"]["relative"] for line in lines if line["event"] == "case"}
    assert list(errors)[:2] == ["causal-d64", "cudnn:causal-d64"]
    assert errors["causal-d64"] < 0.01
    assert errors["cudnn:causal-d64"] > 0.9
    assert sum(name.startswith("cudnn:") for name in errors) == schedule.CASES_PER_KERNEL
    assert [line["asked"] for line in lines if line["event"] == "kernels"] == ["sdpa", "sdpa-cudnn"]


def test_compilation_that_takes_too_long_leaves_the_rest_out(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left out is named, and what was compiled is checked in every case that shares it."""
    from entrypoint.probe import reference

    monkeypatch.setattr(variants, "COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(backends, "cache_variable", lambda name: "A_COMPILERS_CACHE")
    more = (*cases.startup_cases(), replace(cases.BASE[0], id="one-more", head_dim=96))
    monkeypatch.setattr(cases, "startup_cases", lambda capabilities=None, far=False: more)
    lines = probe(monkeypatch, reference.reordered)
    assert [line["id"] for line in lines if line["event"] == "first_call"] == [
        *(case.id for case in cases.BASE),
        "causal-s333-d64",
    ]
    assert lines[-1]["left_out"] == ["one-more"]
    assert {line["id"] for line in lines if line["event"] == "case"} >= {case.id for case in cases.BASE}


def test_when_time_runs_short_cases_are_left_out_by_name(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine so slow that nothing of the limit is left: the plainest cases still run, the rest is named."""
    from entrypoint.probe import reference

    backend = backends.Backend(name="sdpa", attention=reference.reordered)
    monkeypatch.setattr(backends, "load", lambda name, where: backend)
    stream = io.StringIO()
    child.probe("sdpa", "cpu", EventLog(stream), limit=Limit(0.0))
    lines = events(stream.getvalue())
    run = [line["id"] for line in lines if line["event"] == "case"]
    assert run == [case.id for case in cases.BASE]
    assert [*run, *lines[-1]["left_out"]] == [case.id for case in cases.startup_cases()]
    assert len(lines[-1]["left_out"]) > 0


def test_a_limit_ends_compiling_before_correctness() -> None:
    """So that what was compiled is also checked, and the end comes before the parent's."""
    clock = iter((1000.0, 1039.0, 1041.0, 1069.0, 1071.0))
    limit = Limit(100.0, lambda: next(clock))
    steps: tuple[Step, ...] = ("compile", "compile", "correctness", "correctness")
    assert [limit.allows(step) for step in steps] == [True, False, True, False]


def test_only_what_compiles_has_a_first_call_of_each_variant_on_a_cpu() -> None:
    """Without a compiler it would double the time of a check; on a GPU a library may compile, so each has one."""
    torch = pytest.importorskip("torch")
    sdpa = backends.load("sdpa", torch.device("cpu"))
    on_cpu, on_gpu = (schedule.plan(sdpa, where, far=False) for where in ("cpu", "cuda"))
    flex = schedule.plan(replace(sdpa, name="flex"), "cpu", far=False)
    assert [run.case.id for run in on_cpu.variants] == [case.id for case in cases.BASE]
    assert len([*on_gpu.variants]) > len([*flex.variants]) > len([*on_cpu.variants])


class Helped(helpers.Helpers):
    """One helper, which has found this by the time that the check waits for it, after `waited_after` first calls."""

    def __init__(self, found: helpers.Finished, stream: io.StringIO) -> None:
        super().__init__(())
        self._found, self._stream = found, stream
        self.waited_after: list[str] = []

    def __len__(self) -> int:
        return 1

    def finish(self, seconds: float) -> helpers.Finished:
        self.waited_after = [line["id"] for line in events(self._stream.getvalue()) if line["event"] == "first_call"]
        return self._found


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> schedule.Plan:
    """A backend that compiles each variant, on a CPU, with two variants more than the usual; its plan."""
    from entrypoint.probe import reference

    monkeypatch.setattr(backends, "cache_variable", lambda name: "A_COMPILERS_CACHE")
    added = (replace(cases.BASE[0], id=name, head_dim=head_dim) for name, head_dim in (("one-more", 96), ("two", 80)))
    more = (*cases.startup_cases(), *added)
    monkeypatch.setattr(cases, "startup_cases", lambda capabilities=None, far=False: more)
    backend = backends.Backend(name="sdpa", attention=reference.reordered)
    monkeypatch.setattr(backends, "load", lambda name, where: backend)
    return schedule.plan(backend, "cpu", far=False)


def probed_with(found: helpers.Finished) -> tuple[list[dict[str, Any]], list[str]]:
    """The events of a check beside a helper that has found this, and what it had called before it waited."""
    stream = io.StringIO()
    helped = Helped(found, stream)
    child.probe("sdpa", "cpu", EventLog(stream), aids=helped)
    return events(stream.getvalue()), helped.waited_after


def test_what_a_helper_compiled_is_checked_however_late(
    quick: None, many: schedule.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the cache now. They are waited for after the check's own variant, which is one that it times."""
    monkeypatch.setattr(variants, "COMPILE_SECONDS", 0.0)
    compiled = FirstCallEvent(id="one-more", seconds=1.0)
    lines, waited_after = probed_with(helpers.Finished(first_calls={"one-more": compiled}))
    assert waited_after == [many.own.case.id]
    assert lines[-1]["left_out"] == ["two"]
    assert "one-more" in {line["id"] for line in lines if line["event"] == "case"}


def measured_by_a_helper(plan: schedule.Plan, name: str) -> helpers.Finished:
    """Every case of the variant of the case `name`, with errors that no check would measure here."""
    key = next(run.key for run in (plan.own, *plan.checked) if run.case.id == name)
    mine = [run.case for run in plan.checked if run.key == key]
    return helpers.Finished(
        first_calls={name: FirstCallEvent(id=name, seconds=77.0)},
        cases={case.id: Measured(tensors={}, no_gradient=None).event(case, 99.0) for case in mine},
    )


def test_what_a_helper_measured_is_reported_in_its_place_and_not_run_again(quick: None, many: schedule.Plan) -> None:
    """Each case once, in the order of the plan, and the variant is not compiled here."""
    lines, _ = probed_with(measured_by_a_helper(many, "two"))
    cases_of = [line for line in lines if line["event"] == "case"]
    assert [line["id"] for line in cases_of] == [run.case.id for run in many.checked]
    assert {line["id"]: line["seconds"] for line in cases_of}["two"] == 99.0
    assert [line["seconds"] for line in lines if line["event"] == "first_call" and line["id"] == "two"] == [77.0]
    assert "two" not in [line["detail"] for line in lines if line["event"] == "phase"]
    assert lines[-1]["left_out"] == []


def test_what_a_helper_did_not_finish_is_run_here(quick: None, many: schedule.Plan) -> None:
    """It compiled the variant and died in a case: the check meets the same, and reports it."""
    found = measured_by_a_helper(many, "causal-d64")
    some = dict([*found.cases.items()][:1])
    lines, _ = probed_with(replace(found, cases=some))
    called = [line["detail"] for line in lines if line["event"] == "phase" and line["name"] == "compile"]
    assert "causal-d64" in called
    seconds = {line["id"]: line["seconds"] for line in lines if line["event"] == "case"}
    assert set(seconds) == {run.case.id for run in many.checked}
    assert [name for name, value in seconds.items() if value == 99.0] == [*some]


def test_what_is_timed_is_called_here_whoever_else_did(quick: None, many: schedule.Plan) -> None:
    """Only this process times, and a first call among the timed ones would compile."""
    name = many.own.case.id
    lines, _ = probed_with(measured_by_a_helper(many, name))
    assert [line["id"] for line in lines if line["event"] == "first_call"].count(name) == 1
    assert 77.0 not in [line["seconds"] for line in lines if line["event"] == "first_call"]


def test_a_start_imports_nothing_that_it_does_not_need(healthy: Any) -> None:
    """torch.profiler brings torch.distributed, and a gradient that is given brings sympy: half a second each."""
    code = (
        "import io, sys, torch; from entrypoint.probe import backends, calls, cases, observe;"
        "where = torch.device('cpu'); backend = backends.load('sdpa', where); before = set(sys.modules);"
        "observe.record(backend, cases.BASE[0], where); calls.first(backend, cases.BASE[0], where);"
        "print(len(set(sys.modules) - before), sorted({'sympy', 'torch._dynamo'} & (set(sys.modules) - before)))"
    )
    command = [sys.executable, "-P", "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=PATIENCE)
    count, heavy = finished.stdout.split(maxsplit=1)
    assert heavy.strip() == "[]"
    assert int(count) < 50


def test_the_far_case_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the forced kernels too: whoever gets it wrong may take the device with it."""
    from tests.unit.wrong_kernels import backend, kernel

    pytest.importorskip("torch")
    twice = replace(backend(kernel()), kernels={"one": backend(kernel())})
    near, far = schedule.checked(twice, far=False), schedule.checked(twice, far=True)
    assert [run.case.id for run in far] == [*(run.case.id for run in near), "causal-d64-far"]
