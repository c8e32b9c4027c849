"""What is begun while Python imports: the driver's own steps, and torch's kernels; neither is ever a failure."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from entrypoint.probe import accuracy, early, performance, rows, share  # noqa: E402 - after the skip


class Driver:
    """libcuda of a GPU in this compute mode, which writes down what is asked of it; `codes` are its answers."""

    def __init__(self, mode: int = 0, **codes: int) -> None:
        self.asked: list[str] = []
        self.mode = mode
        self.codes = codes

    def __getattr__(self, name: str) -> Any:
        def function(*arguments: Any) -> int:
            numbers = [argument for argument in arguments if isinstance(argument, int)]
            self.asked.append(f"{name} {numbers}" if name == "cuDeviceGet" else name)
            if name == "cuDeviceGetAttribute":
                assert numbers == [20]
                arguments[0]._obj.value = self.mode
            return self.codes.get(name, 0)

        return function


def asked_of(monkeypatch: pytest.MonkeyPatch, driver: Driver, device: str) -> list[str]:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    early.open_context(device).join()
    return driver.asked


def test_the_context_of_that_gpu_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The primary one: torch's runtime takes the same."""
    asked = asked_of(monkeypatch, Driver(), "cuda:3")
    assert asked == ["cuInit", "cuDeviceGet [3]", "cuDevicePrimaryCtxRetain"]


def test_a_driver_that_refuses_is_asked_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_of(monkeypatch, Driver(cuInit=999), "cuda:0") == ["cuInit"]


def test_a_cpu_needs_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_of(monkeypatch, Driver(), "cpu") == []


def test_a_library_that_is_not_there_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says so, in the words that its users know."""

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    early.open_context("cuda:0").join()


def test_each_precision_of_the_cases_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU: a CPU has no kernels to load, and would only compute twice."""
    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(accuracy, "measure", lambda backend, case, where: seen.append((case.dtype, str(where))))
    monkeypatch.setattr(torch.cuda, "set_device", lambda where: seen.append(("current", str(where))))

    early.load_kernels(torch.device("cpu")).join()
    early.load_kernels(torch.device("cuda:1")).join()

    assert seen == [("current", "cuda:1"), ("bfloat16", "cuda:1"), ("float16", "cuda:1")]


def test_the_products_of_long_cases_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their rows are found once too, after everything that every case needs."""
    seen: list[str] = []
    monkeypatch.setattr(accuracy, "measure", lambda backend, case, where: seen.append(case.id))
    monkeypatch.setattr(rows, "solve", lambda case, where, backend: seen.append(case.id))
    monkeypatch.setattr(torch.cuda, "set_device", lambda where: None)
    long = performance.timed_cases("cuda")
    early.load_kernels(torch.device("cuda:0"), long).join()
    assert seen[2:] == [case.id for case in long]
    assert all(case.sampled for case in long)


@pytest.mark.parametrize(("mode", "shared"), [(0, True), (2, False), (3, False)])
def test_a_gpu_in_exclusive_mode_is_for_one_process(monkeypatch: pytest.MonkeyPatch, mode: int, shared: bool) -> None:
    """A helper that came first would keep the check itself from it. (3: exclusive process, 2: prohibited.)"""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(mode))
    assert early.is_shared("cuda:1") is shared
    assert early.is_shared("cpu")


def test_a_helper_leaves_such_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends before it opens anything."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(3))
    monkeypatch.setattr(share, "opened", lambda *_: pytest.fail("it was opened"))
    assert share.main(["--backend=flex", "--device=cuda:0", "--share=0/1"]) == 0


def test_where_nobody_can_be_asked_it_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """AMD's GPUs, and a driver that is not there."""

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert early.is_shared("cuda:0")


@pytest.mark.parametrize(
    ("backend", "device", "loaded"), [("flex", "cuda:0", True), ("sdpa", "cuda:0", False), ("flex", "cpu", False)]
)
def test_a_launcher_is_built_where_triton_will_launch(
    backend: str, device: str, loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gcc compiles it: whoever needs none does not wait for it."""
    calls: list[str] = []
    monkeypatch.setattr(early, "_load_launcher", lambda: calls.append("loaded"))
    early.build_launcher(backend, torch.device(device)).join()
    assert calls == (["loaded"] if loaded else [])
