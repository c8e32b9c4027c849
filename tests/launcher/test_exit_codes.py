"""Each exit code of the contract, provoked from outside."""

from __future__ import annotations

import json

import pytest

from tests.launcher.launchers import ContainerLauncher, Launcher, wait_until
from tests.patience import SHORT

FLOOR = {"gpu": "fake CPU", "backend": "sdpa", "case": "s512", "forward": 0.9, "backward": 0.9, "source": "test"}


def first_line(stderr: str) -> str:
    """The headline of the report: the first line that is not progress."""
    return next(line for line in stderr.splitlines() if line.startswith("axolotl-attn sdpa-cpu: "))


def test_a_healthy_check_passes(launcher: Launcher) -> None:
    """Without a command the report is printed and the exit code is PASS."""
    result = launcher.run()

    assert result.code == 0
    assert first_line(result.stderr).startswith("axolotl-attn sdpa-cpu: PASS: sdpa is right in 1 of 1 cases")
    assert result.stdout == b""


def test_check_json_prints_the_report_to_stdout(launcher: Launcher) -> None:
    """`check --json` puts one JSON document on stdout, the same as in the file."""
    result = launcher.run("check", "--json")

    assert result.code == 0
    assert json.loads(result.stdout) == launcher.report()
    assert launcher.report()["code"] == {"name": "PASS", "number": 0}


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"ATTN_CHEK": "off"}, "ATTN_CHEK is not a variable of this image. Did you mean 'ATTN_CHECK'?"),
        ({"ATTN_CHECK": "enforced"}, "Did you mean 'enforce'?"),
        ({"ATTN_CHECK": ""}, "expected one of enforce, warn, off"),
        ({"ATTN_BACKEND": "fa4"}, "ATTN_BACKEND='fa4': expected one of auto, sdpa"),
        ({"ATTN_SLOW": "fial"}, "Did you mean 'fail'?"),
        ({"ATTN_TIMEOUT": "soon"}, "expected a number of seconds"),
        ({"ATTN_TIMEOUT": "-1"}, "expected a number of seconds above 0"),
        ({"ATTN_REPORT": "report.json"}, "expected an absolute path"),
        ({"ATTN_ALLOW": "forwardonly"}, "Did you mean 'forward-only'?"),
        ({"ATTN_A": "1", "ATTN_B": "2"}, "ATTN_B is not a variable"),
    ],
)
def test_an_unknown_variable_or_value_is_config(launcher: Launcher, env: dict[str, str], says: str) -> None:
    """The request cannot be understood: 90, with the closest name, whatever ATTN_CHECK says; the command never runs."""
    result = launcher.run("echo", "ran", **{"ATTN_CHECK": "warn"} | env)

    assert result.code == 90
    assert result.stdout == b""
    assert says in result.stderr
    assert "(90 CONFIG)" in result.stderr


@pytest.mark.parametrize("arguments", [("check", "--jsno"), ("check", "--json", "more")])
def test_an_unknown_argument_of_check_is_config(launcher: Launcher, arguments: tuple[str, ...]) -> None:
    """A misspelt option of ours is not silently ignored."""
    result = launcher.run(*arguments)

    assert result.code == 90
    assert "check does not take" in result.stderr


def test_no_check_and_no_command_is_config(launcher: Launcher) -> None:
    """ATTN_CHECK=off with nothing to run would do nothing at all."""
    assert launcher.run(ATTN_CHECK="off").code == 90


def test_a_backend_without_gradients_is_refused(launcher: Launcher) -> None:
    """Training on it would learn nothing, so the user must accept it by name."""
    launcher.spec["backends"][0]["gradients"] = False

    refused = launcher.run("echo", "ran")

    assert (refused.code, refused.stdout) == (90, b"")
    assert "no gradients" in first_line(refused.stderr)
    assert "ATTN_ALLOW=forward-only" in refused.stderr


def test_an_accepted_limitation_degrades(launcher: Launcher) -> None:
    """With ATTN_ALLOW=forward-only the start goes on, and the first line says what is missing."""
    launcher.spec["backends"][0]["gradients"] = False
    launcher.behave("no gradient")

    result = launcher.run("echo", "ran", ATTN_ALLOW="forward-only")

    assert (result.code, result.stdout) == (0, b"ran\n")
    assert "DEGRADED: Forward only: sdpa has no gradients" in first_line(result.stderr)


def test_no_gpu_is_a_mismatch(launcher: Launcher) -> None:
    """A CUDA image on a machine without a GPU: 91, and two lines that say what is so and what to do."""
    launcher.spec |= {"device": "cuda", "vendor": "nvidia"}

    result = launcher.run("echo", "ran")

    assert (result.code, result.stdout) == (91, b"")
    assert result.stderr.count("\n") == 2
    assert "No NVIDIA GPU is in reach" in result.stderr.splitlines()[0]
    assert "--gpus all" in result.stderr.splitlines()[1]
    assert launcher.report()["verdict"] == "NOT_CHECKED"


@pytest.mark.parametrize("behaviour", ["wrong", "other kernel", "no gradient", "mutated", "not repeatable"])
def test_wrong_attention_is_refused(launcher: Launcher, behaviour: str) -> None:
    """Wrong numbers, another kernel, a missing gradient, a changed input: 92, and the command never runs."""
    launcher.behave(behaviour)

    result = launcher.run("echo", "ran")

    assert (result.code, result.stdout) == (92, b"")
    assert "FAIL (92 WRONG)" in first_line(result.stderr)
    assert launcher.report()["verdict"] == "FAIL"


def test_slow_warns_by_default(launcher: Launcher) -> None:
    """Under its floor the start goes on, DEGRADED."""
    launcher.spec["floors"] = [FLOOR]

    result = launcher.run("echo", "ran")

    assert (result.code, result.stdout) == (0, b"ran\n")
    assert "DEGRADED: sdpa is slow" in first_line(result.stderr)


def test_slow_fails_when_asked_to(launcher: Launcher) -> None:
    """ATTN_SLOW=fail turns the same finding into 93."""
    launcher.spec["floors"] = [FLOOR]

    result = launcher.run("echo", "ran", ATTN_SLOW="fail")

    assert (result.code, result.stdout) == (93, b"")
    assert "forward in s512 reaches 50% of the matmul ceiling, and should reach 90%" in first_line(result.stderr)


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        ("crash in import", "crashed with SIGSEGV in import"),
        ("crash in correctness", "crashed with SIGSEGV in correctness (causal-d64)"),
        ("killed in correctness", "killed in correctness (causal-d64)"),
        ("raise in import", "illegal memory access"),
        ("silent exit in observe", "ended with code 0 and no result"),
    ],
)
def test_a_child_that_ends_early_is_not_a_pass(launcher: Launcher, behaviour: str, says: str) -> None:
    """On a CPU a crash, a kill, an exception and a silent exit are INTERNAL, each with its reason."""
    launcher.behave(behaviour)

    result = launcher.run("echo", "ran")

    assert (result.code, result.stdout) == (95, b"")
    assert says in first_line(result.stderr)
    assert launcher.report()["verdict"] == "NOT_CHECKED"


def test_a_child_that_hangs_is_ended_at_the_limit(launcher: Launcher) -> None:
    """The hard limit holds even when a helper of the child keeps its pipes open, and the helper is ended too."""
    launcher.behave("hang in correctness")

    result = launcher.run("echo", "ran", ATTN_TIMEOUT=SHORT)

    assert (result.code, result.stdout) == (95, b"")
    assert "was not done after 6 s (ATTN_TIMEOUT) and hung or waited in correctness" in first_line(result.stderr)
    assert "without computing" in first_line(result.stderr)
    assert "worker" in launcher.report()["logs"][0]
    wait_until(lambda: launcher.processes() == [])


def test_a_machine_that_is_too_slow_is_a_mismatch(launcher: Launcher) -> None:
    """A child that still computes when its time is up: 91, with the step, the machine, and what to set."""
    launcher.behave("compute in correctness")

    result = launcher.run("echo", "ran", ATTN_TIMEOUT=SHORT)

    assert (result.code, result.stdout) == (91, b"")
    assert "after 6 s (ATTN_TIMEOUT) the check of sdpa was still computing in correctness (causal-d64), for" in (
        first_line(result.stderr)
    )
    assert "Set ATTN_TIMEOUT=18" in result.stderr
    assert launcher.report()["verdict"] == "NOT_CHECKED"


def test_a_child_that_is_done_is_not_waited_for(launcher: Launcher) -> None:
    """Compiler workers that linger at exit cost nobody their time limit."""
    launcher.behave("linger")

    result = launcher.run("echo", "ran")

    assert (result.code, result.stdout) == (0, b"ran\n")


def test_an_image_whose_kernels_cannot_be_imported_is_config(launcher: Launcher) -> None:
    """No node can run it, so the job must fail; the import's own message is the reason."""
    launcher.behave("unusable backend")

    result = launcher.run()

    assert result.code == 90
    assert "undefined symbol: _ZN3c10" in first_line(result.stderr)


def test_noise_of_the_child_does_not_matter(launcher: Launcher) -> None:
    """What libraries print to stdout, or a line that is no event, neither reaches stdout nor breaks the check."""
    launcher.behave("noise")

    result = launcher.run("echo", "ran")

    assert (result.code, result.stdout) == (0, b"ran\n")


@pytest.mark.parametrize("kind", ["case", "kernels", "machine", "health"])
def test_a_line_that_got_lost_is_not_a_pass(launcher: Launcher, kind: str) -> None:
    """It might have been the one that fails: INTERNAL, with what is missing, and a note of the line itself."""
    launcher.behave(f"garbled {kind}")

    result = launcher.run("echo", "ran")

    assert (result.code, result.stdout) == (95, b"")
    assert f"of the child's events {kind} (1) cannot be read" in first_line(result.stderr)
    assert "1 line of the child of cpu cannot be read" in result.stderr
    assert launcher.report()["verdict"] == "NOT_CHECKED"


def test_pages_of_an_exception_stay_out_of_the_first_lines(launcher: Launcher) -> None:
    """The headline has the cause, and the report has it all."""
    launcher.behave("unusable in pages")

    result = launcher.run()

    assert result.code == 90
    assert "cannot be loaded in this image: AssertionError: libcuda.so cannot found!" in first_line(result.stderr)
    assert result.stderr.count("a page of code") == 0
    assert launcher.report()["logs"][-1].count("a page of code") == 40


def test_auto_passes_over_a_backend_without_gradients(launcher: Launcher) -> None:
    """ATTN_BACKEND=auto on an image whose first backend is forward-only: the one beside it trains, and is named."""
    first = launcher.spec["backends"][0]
    launcher.spec["backends"] = [{**first, "name": "sage", "gradients": False}, first]

    result = launcher.run("sh", "-c", "echo $ATTN_BACKEND", ATTN_BACKEND="auto")

    assert (result.code, result.stdout) == (0, b"sdpa\n")
    assert "DEGRADED: sage has no gradients on cpu; sdpa was checked in its place." in first_line(result.stderr)


def test_auto_takes_a_backend_without_gradients_that_is_accepted(launcher: Launcher) -> None:
    """With ATTN_ALLOW=forward-only the image's order counts again."""
    first = launcher.spec["backends"][0]
    launcher.spec["backends"] = [{**first, "name": "sage", "gradients": False}, first]

    result = launcher.run("sh", "-c", "echo $ATTN_BACKEND", ATTN_BACKEND="auto", ATTN_ALLOW="forward-only")

    assert (result.code, result.stdout) == (0, b"sage\n")


def test_a_broken_spec_is_internal(launcher: Launcher) -> None:
    """An image without a readable image.json says so."""
    launcher.spec = {"schema": 0}

    result = launcher.run("echo", "ran")

    assert result.code == 95
    assert "image.json cannot be read" in result.stderr


# --- with a GPU's device node, which docker makes of /dev/null ---------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        ("crash in correctness", "sdpa crashed with SIGSEGV in correctness (causal-d64) on NVIDIA Fake"),
        ("raise in compile", "an illegal memory access"),
        ("hang in performance", "hung or waited in performance"),
    ],
)
def test_a_kernel_that_crashes_or_hangs_is_a_gpu_fault(gpu: ContainerLauncher, behaviour: str, says: str) -> None:
    """On a GPU that is the node's matter: 94."""
    gpu.behave(behaviour)

    result = gpu.run("echo", "ran", ATTN_TIMEOUT=SHORT)

    assert (result.code, result.stdout) == (94, b"")
    assert says in first_line(result.stderr)


def test_an_unsupported_gpu_is_a_mismatch(gpu: ContainerLauncher) -> None:
    """91 before any kernel runs, naming the image that fits."""
    gpu.behave("capability 8.9")

    result = gpu.run("echo", "ran")

    assert (result.code, result.stdout) == (91, b"")
    assert "does not support NVIDIA Fake (compute capability 8.9)" in first_line(result.stderr)
    assert "use other-cu128" in result.stderr
    assert gpu.report()["cases"] == []


def test_a_device_that_torch_cannot_open_is_a_mismatch(gpu: ContainerLauncher) -> None:
    """A driver that does not work with the image's CUDA: another node, with CUDA's own words."""
    gpu.behave("unusable device")

    result = gpu.run()

    assert result.code == 91
    assert "CUDA driver initialization failed" in first_line(result.stderr)


def test_auto_takes_the_next_backend_that_fits(gpu: ContainerLauncher) -> None:
    """ATTN_BACKEND=auto: on a GPU that the default backend does not support, the next one is checked, and named."""
    second = {"name": "flex", "packages": [], "architectures": ["ada"], "gradients": True}
    gpu.spec["backends"].append(second)
    gpu.behave("capability 8.9")

    result = gpu.run("sh", "-c", "echo $ATTN_BACKEND", ATTN_BACKEND="auto")

    assert (result.code, result.stdout) == (0, b"flex\n")
    assert "DEGRADED: sdpa does not run on ada; flex was checked in its place." in first_line(result.stderr)


def test_two_gpus_are_checked_and_reported_each(gpu: ContainerLauncher) -> None:
    """Every GPU of the container has its own verdict."""
    gpu.options += ["--device=/dev/null:/dev/nvidia1"]

    result = gpu.run("check", "--json")

    assert result.code == 0
    assert [item["device"] for item in gpu.report()["gpus"]] == ["cuda:0", "cuda:1"]
