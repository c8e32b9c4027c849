"""The rehearsal's child imports beside the check of a GPU, and goes on once that has passed."""

from __future__ import annotations

import signal

import pytest

from tests.launcher.launchers import ProcessLauncher, Result, wait_until
from tests.launcher.test_preflight import launcher
from tests.launcher.test_rehearsal import command, part, train
from tests.patience import PATIENCE

__all__ = ["launcher"]  # the fixture
GPU = '\n\ndef look(*_, **__):\n    gpu = Gpu(minor=0, name="fake", uuid="GPU-0")\n'
GPU += '    return Devices(driver="580.1", listed=(gpu,), count=1, usable=(gpu,))\n'
PROCESSORS = "\n\ndef jobs():\n    return {}\n"


@pytest.fixture
def gpu(launcher: ProcessLauncher) -> ProcessLauncher:
    """A machine that seems to hold a GPU and eight processors."""
    launcher.spec |= {"device": "cuda", "vendor": "amd", "architectures": {"hopper": ["9.0"]}, "supported": ["hopper"]}
    launcher.spec["backends"][0]["architectures"] = ["hopper"]
    launcher.appended = {"machine/devices.py": GPU, "machine/limits.py": PROCESSORS.format(8)}
    return launcher


def order(launcher: ProcessLauncher) -> list[str]:
    """What the children noted, in the order of time."""
    file = launcher.folder / "attn/entrypoint/probe/order"
    return file.read_text().splitlines() if file.exists() else []


def passed(gpu: ProcessLauncher, result: Result) -> bool:
    return (result.code, result.stdout, part(gpu)["verdict"]) == (0, b"trained sdpa\n", "PASS")


def test_it_imports_beside_the_check_and_rehearses_after_it(gpu: ProcessLauncher) -> None:
    """`total` is what the start waited for it, not how long it has been there."""
    result = train(gpu, "beside")

    assert passed(gpu, result), result.stderr
    assert order(gpu) == ["imported", "checked", "rehearses"]
    seconds = part(gpu)["seconds"]
    assert (seconds["import"], seconds["wait"]) == (0.25, 3600.0)
    assert 0.0 < seconds["total"] < PATIENCE


@pytest.mark.parametrize(
    "given", [{"machine/limits.py": PROCESSORS.format(7)}, {"machine/devices.py": GPU.replace("=1", "=2")}]
)
def test_with_fewer_processors_for_each_gpu_it_begins_after_the_check(
    gpu: ProcessLauncher, given: dict[str, str]
) -> None:
    gpu.appended |= given
    result = train(gpu)

    assert passed(gpu, result), result.stderr
    assert "wait" not in part(gpu)["seconds"]


def test_so_it_does_where_the_check_has_changed_its_environment(gpu: ProcessLauncher) -> None:
    """Here the check finds that what compilers kept is no good, and lets them begin in another folder."""
    gpu.appended["checked.py"] = (
        "\n\nchecked = _checked\n\ndef _checked(start, *more):\n"
        '    start.environ["TRITON_CACHE_DIR"] = "/tmp/another"\n    return checked(start, *more)\n'
    )
    result = train(gpu, "beside")

    assert passed(gpu, result), result.stderr
    assert order(gpu) == ["imported", "checked", "imported", "rehearses"]


@pytest.mark.parametrize("word", ["has ended", "is about to end"])
def test_and_where_it_does_not_wait(gpu: ProcessLauncher, word: str) -> None:
    """Such as one whose import took hold of the GPU: it ends, so as not to be in the way of the check."""
    result = train(gpu, f"beside, and {word}")

    assert passed(gpu, result), result.stderr
    assert order(gpu) == ["imported", "checked", "imported", "rehearses"]


def test_a_check_that_fails_ends_it(gpu: ProcessLauncher) -> None:
    result = train(gpu, "beside a wrong check")

    assert (result.code, gpu.report()["rehearsal"]) == (92, None), result.stderr
    assert order(gpu) == ["imported", "checked"]
    assert gpu.processes() == []


def test_a_signal_ends_it(gpu: ProcessLauncher) -> None:
    process = gpu.start(*command(gpu, "beside a hang"))
    wait_until(lambda: order(gpu) == ["imported"])
    assert gpu.processes() != []

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)

    assert process.returncode == 128 + signal.SIGTERM
    assert gpu.processes() == []


def test_it_does_not_outlive_a_parent_that_is_killed(gpu: ProcessLauncher) -> None:
    process = gpu.start(*command(gpu, "beside a parent that is killed"))
    process.communicate(timeout=PATIENCE)

    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: gpu.processes() == [])
    assert order(gpu) == ["imported"]
