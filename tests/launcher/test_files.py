"""What the launcher reads and writes: report, verdict cache, and the file systems of a hardened container."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launcher.launchers import ContainerLauncher, Launcher

CONTRACT = {
    *("schema", "verdict", "code", "reasons", "image", "gpus", "backend", "cases", "performance", "seconds", "cached")
}


def cache_of(launcher: Launcher) -> Path:
    return launcher.data / "cache"


def cached_run(launcher: Launcher) -> bytes:
    """A check whose verdict goes to a cache on the host; stdout is the JSON report."""
    return launcher.run("check", "--json", ATTN_CACHE=f"{launcher.inside}/cache").stdout


def test_the_report_has_what_the_contract_names(launcher: Launcher) -> None:
    """Every key of schema 1, and of its parts."""
    launcher.run()

    report = launcher.report()
    assert report.keys() >= CONTRACT
    assert report["image"]["id"] == "sdpa-cpu"
    assert report["image"]["versions"]["torch"] == "9.9.9+cpu"
    assert report["backend"]["requested"] == report["backend"]["observed"] == "sdpa"
    assert {"id", "status", "error", "budget"} <= report["cases"][0].keys()
    assert {"id", "tflops", "of_matmul", "floor"} <= report["performance"][0].keys()
    assert {"import", "compile", "correctness", "performance", "total"} <= report["seconds"].keys()


def test_a_verdict_is_remembered(launcher: Launcher) -> None:
    """The second start reads the first one's verdict: even a child that would fail is not asked."""
    first = json.loads(cached_run(launcher))
    # The fake child is not among the files that a verdict depends on when its text is the same.
    (launcher.probe / "behaviour").write_text("crash in import")
    second = json.loads(cached_run(launcher))

    assert (first["cached"], second["cached"]) == (False, True)
    assert second["verdict"] == "PASS"


def test_a_failure_is_not_remembered(launcher: Launcher) -> None:
    """Someone may have mended the node."""
    launcher.behave("wrong")
    cached_run(launcher)
    launcher.behave("healthy")

    report = json.loads(cached_run(launcher))

    assert (report["cached"], report["verdict"]) == (False, "PASS")


def test_a_changed_image_is_checked_again(launcher: Launcher) -> None:
    """The key holds the content of the image, not only its id."""
    cached_run(launcher)
    launcher.spec["packages"]["torch"] = "0.0.1"

    assert json.loads(cached_run(launcher))["cached"] is False


def test_other_settings_are_checked_again(launcher: Launcher) -> None:
    """A verdict under ATTN_SLOW=warn says nothing about ATTN_SLOW=fail."""
    cached_run(launcher)

    result = launcher.run("check", "--json", ATTN_CACHE=f"{launcher.inside}/cache", ATTN_SLOW="fail")

    assert json.loads(result.stdout)["cached"] is False


@pytest.mark.parametrize(("first", "then", "serves"), [("deep", "start", True), ("start", "deep", False)])
def test_a_deep_verdict_serves_a_start_and_not_the_other_way_round(
    launcher: Launcher, first: str, then: str, *, serves: bool
) -> None:
    """Everything that a start runs is in a deep check."""
    cache = f"{launcher.inside}/cache"
    launcher.run("check", "--json", ATTN_CACHE=cache, ATTN_DEPTH=first)

    report = json.loads(launcher.run("check", "--json", ATTN_CACHE=cache, ATTN_DEPTH=then).stdout)

    assert (report["cached"], report["depth"]) == (serves, "deep")


DECIDING = ("TORCH_CUDNN_SDPA_DEPRIORITIZED", "CUDA_VISIBLE_DEVICES", "FLASH_ATTENTION_ARCH", "ONEDNN_MAX_CPU_ISA")


@pytest.mark.parametrize("name", DECIDING)
def test_another_choice_of_kernels_is_checked_again(launcher: Launcher, name: str) -> None:
    """A PASS of torch's FlashAttention kernel must not stand for cuDNN's, which the same variable brings back."""
    cached_run(launcher)

    result = launcher.run("check", "--json", ATTN_CACHE=f"{launcher.inside}/cache", **{name: "0"})

    assert json.loads(result.stdout)["cached"] is False


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 1, "key": {}, "report": {"verdict": "PASS"}}', "\0"])
def test_a_damaged_cache_is_ignored_with_a_line(launcher: Launcher, text: str) -> None:
    """Corrupt or foreign entries cost a check, never a start, and the report says so."""
    cached_run(launcher)
    (entry,) = cache_of(launcher).glob("*.json")
    entry.write_text(text)

    report = json.loads(cached_run(launcher))

    assert (report["cached"], report["verdict"]) == (False, "PASS")
    assert "was ignored" in report["notes"][0]


def test_an_old_verdict_is_checked_again(launcher: Launcher) -> None:
    """After a day, or with a clock that went back, a verdict is stale."""
    cached_run(launcher)
    (entry,) = cache_of(launcher).glob("*.json")
    document = json.loads(entry.read_text())
    entry.write_text(json.dumps(document | {"saved": document["saved"] - 25 * 3600}))

    report = json.loads(cached_run(launcher))

    assert report["cached"] is False
    assert "older than 24 hours" in report["notes"][0]


def test_a_cache_that_cannot_be_written_is_a_note(launcher: Launcher) -> None:
    """The start goes on."""
    result = launcher.run("echo", "ran", ATTN_CACHE="/proc/cache")

    assert (result.code, result.stdout) == (0, b"ran\n")
    assert "could not be kept in /proc/cache" in result.stderr


def test_a_report_that_cannot_be_written_is_a_note(launcher: Launcher) -> None:
    """The start goes on, and stderr has the report anyway."""
    result = launcher.run("echo", "ran", ATTN_REPORT="/proc/report.json")

    assert (result.code, result.stdout) == (0, b"ran\n")
    assert "could not be written to /proc/report.json" in result.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("check", "--help")])
def test_help_names_every_variable(launcher: Launcher, arguments: tuple[str, ...]) -> None:
    """--help is for a person at a terminal, so it goes to stdout."""
    result = launcher.run(*arguments)

    assert result.code == 0
    for name in ("CHECK", "BACKEND", "SLOW", "REPORT", "CACHE", "TIMEOUT", "ALLOW"):
        assert f"ATTN_{name}".encode() in result.stdout


HARDENED = ["--user=12345:0", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]


def test_any_user_and_a_read_only_root(container: ContainerLauncher) -> None:
    """An arbitrary UID, a read-only root file system and a writable /tmp are enough, for the defaults too."""
    container.options += HARDENED

    script = "id -u; test -s /tmp/attn/report.json && echo report"
    result = container.run("sh", "-c", script, ATTN_REPORT="/tmp/attn/report.json")

    assert (result.code, result.stdout) == (0, b"12345\nreport\n")


def test_the_termination_message_is_a_short_summary(container: ContainerLauncher) -> None:
    """Kubernetes shows it in `kubectl describe`; the file is written only where it exists."""
    log = container.folder / "termination-log"
    log.touch()
    log.chmod(0o666)
    container.options += [f"--volume={log}:/dev/termination-log"]
    container.behave("wrong")

    assert container.run().code == 92
    text = log.read_text()
    assert text.startswith("axolotl-attn sdpa-cpu: FAIL (92 WRONG): sdpa computes wrong numbers")
    assert len(text.encode()) <= 4096


def test_a_users_own_entrypoint_folder_does_not_shadow_ours(container: ContainerLauncher) -> None:
    """Neither the working directory nor PYTHONPATH can put another `entrypoint` in our place."""
    shadow = container.data / "entrypoint"
    shadow.mkdir()
    (shadow / "__init__.py").write_text("raise SystemExit('shadowed')\n")
    container.options += ["--workdir=/data"]

    result = container.run("echo", "ran", PYTHONPATH="/data")

    assert (result.code, result.stdout) == (0, b"ran\n")
