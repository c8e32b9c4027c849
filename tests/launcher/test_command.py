"""The user's command: its exit code, its streams, its signals, and the three values of ATTN_CHECK."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest

from entrypoint.kept.compilers import LOCAL
from tests.launcher.launchers import ContainerLauncher, Launcher, ProcessLauncher, wait_until
from tests.patience import PATIENCE

BYTES = bytes(range(256)) * 16


@pytest.mark.parametrize("code", [0, 1, 2, 42, 127, 255])
def test_the_exit_code_is_the_commands_own(launcher: Launcher, code: int) -> None:
    """After exec nothing of ours stands between the command and the orchestrator."""
    assert launcher.run("sh", "-c", f"exit {code}").code == code


def test_a_command_killed_by_a_signal_ends_with_128_plus_n(container: ContainerLauncher) -> None:
    """As a shell reports it. (Process 1 of a container cannot kill itself, so a child does the dying.)"""
    assert container.run("sh", "-c", "sh -c 'kill -TERM $$'; exit $?").code == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("no-such-command", 127, "'no-such-command' is not in this image"),
        ("/no/such/file", 127, "'/no/such/file' is not in this image"),
        ("/etc/passwd", 126, "/etc/passwd is not executable"),
        ("/etc", 126, "/etc is a directory"),
        ("--gpus", 127, "Docker's own options go before the image's name"),
    ],
)
@pytest.mark.parametrize("check", ["enforce", "off"])
def test_a_command_that_cannot_run(launcher: Launcher, command: str, code: int, says: str, check: str) -> None:
    """126 and 127 as a shell gives them, said before a check costs its seconds."""
    result = launcher.run(command, ATTN_CHECK=check)

    assert result.code == code
    assert says in result.stderr
    assert "checking" not in result.stderr


def test_a_script_without_an_interpreter_line_is_126(launcher: Launcher) -> None:
    """The kernel refuses it; the message says what is missing."""
    script = launcher.data / "script"
    script.write_text("echo ran\n")
    script.chmod(0o755)

    result = launcher.run(f"{launcher.inside}/script")

    assert result.code == 126
    assert "#!/bin/sh" in result.stderr


@pytest.mark.parametrize("check", ["enforce", "off"])
def test_the_command_shares_the_compilers_folders(launcher: Launcher, check: str) -> None:
    """In ATTN_CACHE, where an image's own ENV or nothing stands; one that the user chose stays as it is."""
    where = "readlink -f $TRITON_CACHE_DIR; readlink -f $CUDA_CACHE_PATH; echo $TORCHINDUCTOR_CACHE_DIR"
    given = {"TRITON_CACHE_DIR": f"{LOCAL}/triton", "TORCHINDUCTOR_CACHE_DIR": "/tmp/mine"}

    cache = f"{launcher.inside}/cache"
    result = launcher.run("sh", "-c", where, ATTN_CHECK=check, ATTN_CACHE=cache, **given)

    triton, cuda, inductor = result.stdout.decode().split()
    assert re.fullmatch(rf"{re.escape(cache)}/compiled/[0-9a-f]{{32}}/triton", triton)
    assert cuda == triton.replace("/triton", "/cuda")
    assert inductor == "/tmp/mine"


@pytest.mark.parametrize("check", ["enforce", "warn", "off"])
def test_stdout_is_byte_exact(launcher: Launcher, check: str) -> None:
    """Not a byte of ours goes to stdout."""
    (launcher.data / "bytes").write_bytes(BYTES)

    result = launcher.run("cat", f"{launcher.inside}/bytes", ATTN_CHECK=check)

    assert (result.code, result.stdout) == (0, BYTES)


def test_arguments_reach_the_command_unchanged(launcher: Launcher) -> None:
    """Spaces, quotes, empty words, dashes and non-ASCII words are not split or eaten."""
    words = ["a b", "", "--json", "check", "'", '"', "$HOME", "é"]

    result = launcher.run("printf", "%s|", *words)

    assert result.stdout.decode() == "".join(f"{word}|" for word in words)


def test_off_checks_nothing(launcher: Launcher) -> None:
    """ATTN_CHECK=off: no child, no report, no word."""
    launcher.behave("wrong")

    result = launcher.run("echo", "ran", ATTN_CHECK="off")

    assert (result.code, result.stdout, result.stderr) == (0, b"ran\n", "")
    assert not (launcher.data / "report.json").exists()


@pytest.mark.parametrize("behaviour", ["wrong", "crash in correctness", "silent exit in import"])
def test_warn_runs_the_command_in_spite_of_the_verdict(launcher: Launcher, behaviour: str) -> None:
    """The failing verdict is printed and reported, and the command runs."""
    launcher.behave(behaviour)

    result = launcher.run("sh", "-c", "echo ran; exit 7", ATTN_CHECK="warn")

    assert (result.code, result.stdout) == (7, b"ran\n")
    assert launcher.report()["code"]["number"] in (92, 95)
    assert "ATTN_CHECK=warn" in result.stderr


def test_warn_without_a_command_still_exits_with_the_verdicts_code(launcher: Launcher) -> None:
    """`check` is a question, and its exit code the answer."""
    launcher.behave("wrong")

    assert launcher.run("check", ATTN_CHECK="warn").code == 92


def test_the_command_is_told_which_backend_was_checked(launcher: Launcher) -> None:
    """ATTN_BACKEND in the command's environment is the one that was proved."""
    assert launcher.run("sh", "-c", "echo $ATTN_BACKEND").stdout == b"sdpa\n"


@pytest.mark.parametrize(
    ("words", "env", "depth"),
    [((), {}, "start"), (("--deep",), {}, "deep"), ((), {"ATTN_DEPTH": "deep"}, "deep")],
)
def test_a_check_is_as_deep_as_was_asked_for(
    launcher: Launcher, words: tuple[str, ...], env: dict[str, str], depth: str
) -> None:
    """The child is told, and the report has the depth and what it leaves out."""
    launcher.run("check", *words, **env)

    report = launcher.report()
    assert report["depth"] == depth
    assert f"depth {depth}" in report["left_out"]


KERNEL = {"name": "sdpa-cudnn", "packages": [], "architectures": [], "gradients": True, "eight_bit": False}


def test_a_kernel_that_is_asked_for_is_checked_and_told(launcher: Launcher) -> None:
    """Its name goes to the check and to the command, whose Python reads it there."""
    launcher.spec["kernels"] = [KERNEL]

    result = launcher.run("sh", "-c", "echo $ATTN_BACKEND", ATTN_BACKEND="sdpa-cudnn")

    assert (result.code, result.stdout) == (0, b"sdpa-cudnn\n")
    backend = launcher.report()["backend"]
    assert (backend["requested"], backend["checked"], backend["observed"]) == ("sdpa-cudnn",) * 3


def test_auto_takes_no_kernel_that_nobody_asked_for(launcher: Launcher) -> None:
    """It is torch's own choice that `auto` and the default run."""
    launcher.spec["kernels"] = [KERNEL]

    assert launcher.run("sh", "-c", "echo $ATTN_BACKEND", ATTN_BACKEND="auto").stdout == b"sdpa\n"


def test_a_kernel_that_the_image_does_not_offer_is_refused(launcher: Launcher) -> None:
    """As on a CPU, whose SDPA has no cuDNN: 90, with the names that it takes."""
    launcher.spec["kernels"] = []
    result = launcher.run("echo", "ran", ATTN_BACKEND="sdpa-cudnn")

    assert (result.code, result.stdout) == (90, b"")
    assert "ATTN_BACKEND='sdpa-cudnn': expected one of auto, sdpa." in result.stderr


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_check_ends_it(launcher: Launcher, signum: signal.Signals) -> None:
    """128+n at once, and the child and its helpers are gone."""
    launcher.behave("hang in correctness")
    process = launcher.start("echo", "ran")
    wait_for_word(process, b"correctness")

    launcher.signal(process, signum)
    out, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 128 + signum
    assert out == b""
    assert f"{signum.name} during the check" in err.decode()


def test_no_process_outlives_an_interrupted_check(launcher: Launcher) -> None:
    """The whole process group of the child is ended, its compiler workers too, not only the child."""
    launcher.behave("hang in correctness")
    process = launcher.start("echo", "ran")
    wait_for_word(process, b"correctness")
    if isinstance(launcher, ProcessLauncher):  # a container's processes name their files as the container sees them
        wait_until(lambda: any(" worker " in line for line in launcher.processes()))

    launcher.signal(process, signal.SIGTERM)
    process.communicate(timeout=PATIENCE)

    wait_until(lambda: launcher.processes() == [])


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_exec_is_the_commands(launcher: Launcher, signum: signal.Signals) -> None:
    """The command's own handler gets it, and its exit code counts."""
    script = f"trap 'echo caught; exit 33' {signum.name.removeprefix('SIG')}; echo ready; while :; do sleep 0.1; done"
    process = launcher.start("sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"

    launcher.signal(process, signum)
    out, _ = process.communicate(timeout=PATIENCE)

    assert (process.returncode, out) == (33, b"caught\n")


def test_a_broken_pipe_ends_the_command(launcher: Launcher) -> None:
    """Python ignores SIGPIPE; the command must not inherit that (bit 13 of SigIgn)."""
    result = launcher.run("sh", "-c", "grep SigIgn /proc/self/status")

    ignored = int(result.stdout.split()[1], 16)
    assert ignored & (1 << (signal.SIGPIPE - 1)) == 0
    assert ignored & (1 << (signal.SIGXFSZ - 1)) == 0


def wait_for_word(process: subprocess.Popen[bytes], word: bytes) -> None:
    """Read stderr until a line holds `word`."""
    assert process.stderr is not None
    while word not in (line := process.stderr.readline()):
        assert line, f"the launcher ended without saying {word!r}"
