"""A training command is rehearsed between the check and its start; the child is `fake_rehearsal.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.launcher.launchers import ProcessLauncher, Result
from tests.launcher.test_preflight import launcher, write

__all__ = ["launcher"]  # the fixture
KEYS = "micro_batch_size: 1\ngradient_accumulation_steps: 1\nattn_implementation: sdpa\n"
WORDS = ["left", "crash", "hang", "wrong"]


def command(launcher: ProcessLauncher, word: str, keys: str = "") -> tuple[str, str, str]:
    """`axolotl train` with a model whose config.json is there."""
    launcher.behave(f"rehearsal {word}")
    model = launcher.folder / "model"
    model.mkdir(exist_ok=True)
    shape = {"model_type": "llama", "hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 32}
    (model / "config.json").write_text(json.dumps(shape))
    file = write(launcher, f"{KEYS}base_model: {model}\n{keys}")
    return str(Path(launcher.python).with_name("axolotl")), "train", file


def train(launcher: ProcessLauncher, word: str = "healthy", *flags: str, keys: str = "", **env: str) -> Result:
    return launcher.run(*command(launcher, word, keys), *flags, **env)


def part(launcher: ProcessLauncher) -> dict[str, Any]:
    found: dict[str, Any] = launcher.report()["rehearsal"]
    return found


def test_a_run_that_goes_well_starts_and_its_rehearsal_is_told(launcher: ProcessLauncher) -> None:
    """One sentence more in the first line, two lines on the screen, all of it in the report."""
    result = train(launcher)

    assert (result.code, result.stdout) == (0, b"trained sdpa\n"), result.stderr
    told = part(launcher)
    assert (told["verdict"], told["reason"], told["action"], told["observed"]) == ("PASS", None, "train", "sdpa")
    assert told["losses"] == {"runs": [6.5, 6.4], "reference": [6.5, 6.4]}
    assert told["reduced"] == ["2 of 32 layers", "rows of 256 instead of 8192 positions"]
    assert told["seconds"] == {"import": 0.25, "compare": 0.5, "total": 0.75}
    assert told["differences"][0]["what"] == "q_proj.weight"
    assert "Rehearsed 2 steps of llama with 2 layers" in launcher.report()["headline"]["what"]
    assert "  rehearsal llama: 2 steps, loss 6.5 to 6.4; nearest to its limit: q_proj.weight at" in result.stderr
    assert "rehearsal: compare" in result.stderr


def test_the_child_gets_the_run_as_it_will_be_and_one_process(launcher: ProcessLauncher) -> None:
    """The configuration under its flags, and none of the variables of a launcher."""
    result = train(launcher, "wrong", "--sequence-len", "128", RANK="3", CUDA_VISIBLE_DEVICES="2,3")

    said = dict(line.split(" ", 1) for line in part(launcher)["log"].splitlines())
    arguments, environment = (json.loads(said[name]) for name in ("arguments", "environment"))
    assert result.code == 92
    assert (arguments["--device"], arguments["--backend"]) == ("cpu", "sdpa")
    assert json.loads(arguments["--flags"]) == [["sequence_len", 128]]
    assert json.loads(arguments["--merged"])["sequence_len"] == 128
    assert environment == {"RANK": None, "CUDA_VISIBLE_DEVICES": "2", "NUMBA_DISABLE_JIT": "1"}


def test_only_the_child_packs_without_a_compiler_and_the_user_may_say_otherwise(launcher: ProcessLauncher) -> None:
    program = Path(launcher.python).with_name("axolotl")
    program.write_text("#!/bin/sh\necho numba ${NUMBA_DISABLE_JIT-compiles}\n")

    assert train(launcher).stdout == b"numba compiles\n"
    train(launcher, "wrong", NUMBA_DISABLE_JIT="0")
    assert '"NUMBA_DISABLE_JIT": "0"' in part(launcher)["log"]


@pytest.mark.parametrize(
    ("word", "code", "verdict", "says"),
    [("wrong", 92, "FAIL", "the loss is 7.69% off"), ("crash", 95, "NOT_CHECKED", "SIGSEGV")],
)
def test_a_failure_stops_the_start_with_its_reason(
    launcher: ProcessLauncher, word: str, code: int, verdict: str, says: str
) -> None:
    """A crash on a CPU is nobody's for certain, as in the check."""
    result = train(launcher, word)

    assert (result.code, result.stdout) == (code, b"")
    report = launcher.report()
    assert (report["verdict"], report["rehearsal"]["verdict"]) == (verdict, verdict)
    assert says in report["reasons"][0]
    assert says in result.stderr


@pytest.mark.parametrize(
    ("word", "code", "says"),
    [
        ("too large", 90, "The device's memory runs out at micro_batch_size 1 with 2 of 32 layers alone"),
        ("full", 95, "Other processes hold 133 of 140 GiB of cpu; the rehearsal needs it to itself"),
    ],
)
def test_who_used_up_the_memory_decides_what_is_said(
    launcher: ProcessLauncher, word: str, code: int, says: str
) -> None:
    result = train(launcher, word)

    assert (result.code, result.stdout) == (code, b""), result.stderr
    assert says in launcher.report()["reasons"][0]
    assert part(launcher)["verdict"] == ("FAIL" if code == 90 else "NOT_CHECKED")
    assert train(launcher, word, ATTN_CHECK="warn").stdout == b"trained sdpa\n"


def test_a_hang_ends_with_the_limit_of_check_and_rehearsal_together(launcher: ProcessLauncher) -> None:
    result = train(launcher, "hang", ATTN_TIMEOUT="10")

    assert (result.code, result.stdout) == (95, b"")
    assert "was not done after 10 s (ATTN_TIMEOUT) and hung or waited" in result.stderr


def test_warn_runs_the_command_in_spite_of_it(launcher: ProcessLauncher) -> None:
    assert train(launcher, "wrong", ATTN_CHECK="warn").stdout == b"trained sdpa\n"


def test_off_leaves_it_out(launcher: ProcessLauncher) -> None:
    result = train(launcher, "wrong", ATTN_REHEARSE="off")

    assert result.code == 0
    assert launcher.report()["rehearsal"] is None


@pytest.mark.parametrize(
    ("keys", "why"), [("rl: dpo\n", "preferences or rewards"), ("trust_remote_code: true\n", "its own code")]
)
def test_a_run_that_is_not_rehearsed_starts_with_a_note_why(launcher: ProcessLauncher, keys: str, why: str) -> None:
    result = train(launcher, "wrong", keys=keys)

    assert result.code == 0, result.stderr
    assert part(launcher)["verdict"] == "NOT_CHECKED"
    assert why in part(launcher)["reason"]
    assert "  rehearsal Not rehearsed: " in result.stderr


def test_what_the_child_finds_it_cannot_do_is_a_note_too(launcher: ProcessLauncher) -> None:
    result = train(launcher, "left")

    assert result.code == 0
    assert part(launcher)["reason"] == "Not rehearsed: its model is odd."


def test_the_second_start_costs_nothing(launcher: ProcessLauncher) -> None:
    """By the content of configuration and config.json: another of either is rehearsed again, the same is not."""
    cache = {"ATTN_CACHE": str(launcher.data / "cache")}
    assert "rehearsal: compare" in train(launcher, **cache).stderr
    again = train(launcher, "wrong", **cache)
    assert (again.code, part(launcher)["cached"]) == (0, True)
    assert "rehearsal: compare" not in again.stderr
    assert "Rehearsed 2 steps of llama" in launcher.report()["headline"]["what"]
    assert train(launcher, "wrong", keys="learning_rate: 1.0\n", **cache).code == 92


def test_a_failure_is_not_kept(launcher: ProcessLauncher) -> None:
    cache = {"ATTN_CACHE": str(launcher.data / "cache")}
    assert [train(launcher, word, **cache).code for word in ("wrong", "healthy")] == [92, 0]


def test_another_action_has_none(launcher: ProcessLauncher) -> None:
    launcher.behave("rehearsal wrong")
    program = str(Path(launcher.python).with_name("axolotl"))
    file = write(launcher, f"{KEYS}base_model: /nowhere\n")

    assert launcher.run(program, "evaluate", file).code == 0
    assert launcher.report()["rehearsal"] is None


def test_check_rehearses_the_configuration_that_it_names(launcher: ProcessLauncher) -> None:
    train(launcher)
    file = str(launcher.data / "config.yml")
    launcher.behave("rehearsal wrong")

    assert launcher.run("check", "--config", file).code == 92
