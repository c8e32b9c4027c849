"""A start under ATTN_BACKEND=auto with a configuration: timed, chosen, and handed to the command in a copy of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.launcher.launchers import ProcessLauncher
from tests.launcher.test_command import KERNEL
from tests.launcher.test_preflight import launcher

__all__ = ["launcher"]  # the fixture: a Python whose site-packages has PyYAML and, by name, Axolotl 0.19.0

MODEL = {"model_type": "llama", "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
TEXT = """\
base_model: {model}
micro_batch_size: 1 # a comment
gradient_accumulation_steps: 1
learning_rate: 2e-4
attn_implementation: {attention}
"""


@pytest.fixture
def auto(launcher: ProcessLauncher, tmp_path: Path) -> ProcessLauncher:
    """An image with flex and sdpa, both with gradients, and a command that shows its arguments and configuration."""
    sdpa = launcher.spec["backends"][0]
    launcher.spec["backends"] = [{**sdpa, "name": "flex"}, sdpa]
    launcher.spec["kernels"] = [KERNEL]
    program = Path(launcher.python).with_name("axolotl")
    program.write_text('#!/bin/sh\necho "$ATTN_BACKEND $*"\ncat "$2"\n')
    (launcher.data / "model").mkdir()
    (launcher.data / "model/config.json").write_text(json.dumps(MODEL))
    return launcher


def start(launcher: ProcessLauncher, *flags: str, attention: str = "flash_attention_2", **env: str) -> Any:
    file = launcher.data / "config.yml"
    file.write_text(TEXT.format(model=launcher.data / "model", attention=attention))
    # I12: the rules refuse flex on a CPU.
    variables = {
        "ATTN_BACKEND": "auto",
        "ATTN_ALLOW": "I12",
        "ATTN_REHEARSE": "off",
        "TMPDIR": str(launcher.folder / "tmp"),
        **env,
    }
    program = str(Path(launcher.python).with_name("axolotl"))
    return launcher.run(program, "train", str(file), *flags, **variables)


def copied(result: Any) -> tuple[str, list[str], dict[str, Any]]:
    """The backend and the arguments that the command was given, and its configuration as it read it."""
    first, _, text = result.stdout.decode().partition("\n")
    backend, *words = first.split()
    return backend, words, yaml.safe_load(text)


def test_the_fastest_is_what_the_command_asks_for(auto: ProcessLauncher) -> None:
    """In a copy with attention's keys changed, whose difference is printed; the user's own file stays as it is."""
    auto.times = {"flex": 1.0, "sdpa": 2.0, "sdpa-cudnn": 3.0}
    result = start(auto, "--debug")

    assert result.code == 0, result.stderr
    backend, words, values = copied(result)
    assert backend == "flex"
    assert words == ["train", words[1], "--debug"]
    assert values == {
        "base_model": str(auto.data / "model"),
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "learning_rate": "2e-4",
        "attn_implementation": "flex_attention",
    }
    assert "# a comment" in (auto.data / "config.yml").read_text()
    assert f"{words[1]} in place of {auto.data / 'config.yml'}" in result.stderr
    assert "- attn_implementation: flash_attention_2" in result.stderr
    assert "+ attn_implementation: flex_attention" in result.stderr
    report = auto.report()
    assert (report["backend"]["requested"], report["backend"]["checked"]) == ("auto", "flex")
    assert (report["choice"]["file"], report["run"]["runs"]) == (words[1], "flex_attention")
    taken = {item["backend"]: (item["milliseconds"], item["taken"]) for item in report["choice"]["candidates"]}
    assert taken["flex"] == ({"forward": 1.0, "backward": 1.0}, True)
    assert taken["sdpa"] == ({"forward": 2.0, "backward": 2.0}, False)


def test_a_flag_that_sets_attention_goes_and_the_others_stay(auto: ProcessLauncher) -> None:
    """It would outdo the copy; what it said is what is replaced."""
    auto.times = {"flex": 1.0, "sdpa": 2.0, "sdpa-cudnn": 3.0}
    result = start(auto, "--attn-implementation", "eager", "--learning-rate", "1", attention="sdpa")

    _, words, values = copied(result)
    assert words[2:] == ["--learning-rate", "1"]
    assert (values["attn_implementation"], values["learning_rate"]) == ("flex_attention", "2e-4")
    assert "- attn_implementation: eager" in result.stderr


@pytest.mark.parametrize("told", ["wrong", "crash"])
def test_one_that_fails_is_never_taken(auto: ProcessLauncher, told: str) -> None:
    """However fast it is; the others are timed all the same."""
    auto.times = {"flex": told, "sdpa": 2.0, "sdpa-cudnn": 3.0}
    result = start(auto)

    assert copied(result)[0] == "sdpa", result.stderr
    flex = auto.report()["choice"]["candidates"][0]
    assert ("wrong for these shapes" if told == "wrong" else "it crashed (SIGSEGV)") in flex["reason"]
    assert not flex["taken"]


@pytest.mark.parametrize(("told", "code"), [("wrong", 92), ("crash", 94)])
def test_where_all_fail_the_command_does_not_start(auto: ProcessLauncher, told: str, code: int) -> None:
    auto.times = dict.fromkeys(("flex", "sdpa", "sdpa-cudnn"), told)
    result = start(auto)

    assert (result.code, result.stdout) == (code, b""), result.stderr
    assert auto.report()["verdict"] == "FAIL"
    assert "found no backend that is right for this run: flex:" in result.stderr


def test_what_stays_as_it_is_leaves_the_command_untouched(auto: ProcessLauncher) -> None:
    auto.times = {"flex": 3.0, "sdpa": 1.0, "sdpa-cudnn": 3.0}
    result = start(auto, attention="sdpa")

    assert copied(result)[:2] == ("sdpa", ["train", str(auto.data / "config.yml")])
    assert auto.report()["choice"]["file"] is None


def test_cudnns_kernel_is_handed_on_by_its_name(auto: ProcessLauncher) -> None:
    """The image's Python reads ATTN_BACKEND; the configuration says sdpa."""
    auto.times = {"flex": 3.0, "sdpa": 2.0, "sdpa-cudnn": 1.0}
    backend, _, values = copied(start(auto))

    assert (backend, values["attn_implementation"]) == ("sdpa-cudnn", "sdpa")


def test_a_choice_is_remembered_with_the_verdict(auto: ProcessLauncher) -> None:
    """The copy is made again; another configuration or model is another choice."""
    auto.times = {"flex": 1.0, "sdpa": 2.0, "sdpa-cudnn": 3.0}
    cache = {"ATTN_CACHE": str(auto.folder / "cache")}
    first = copied(start(auto, **cache))
    shutil.rmtree(auto.folder / "tmp")
    auto.times = dict.fromkeys(("flex", "sdpa", "sdpa-cudnn"), "crash")

    again = start(auto, **cache)
    assert copied(again) == first, again.stderr
    assert auto.report()["cached"] is True
    assert auto.report()["choice"]["backend"] == "flex"

    assert start(auto, attention="eager", **cache).code == 94
    (auto.data / "model/config.json").write_text(json.dumps({**MODEL, "num_key_value_heads": 1}))
    assert start(auto, **cache).code == 94


def test_without_the_models_shapes_auto_is_the_images_first(auto: ProcessLauncher) -> None:
    """As without a configuration, with a note; then the rules refuse what they refuse."""
    (auto.data / "model/config.json").unlink()
    result = start(auto, attention="sdpa")
    assert result.stdout.startswith(b"flex train"), result.stderr
    assert "timed nothing and takes the image's first backend that runs: the model's config.json" in result.stderr
    assert start(auto).code == 90

    assert auto.run("true", ATTN_BACKEND="auto").code == 0
    report = auto.report()
    assert report["choice"] is None
    assert report["notes"] == [
        "ATTN_BACKEND=auto timed nothing and takes the image's first backend that runs: no configuration is known."
    ]


def test_check_names_the_copy_too(auto: ProcessLauncher) -> None:
    auto.times = {"flex": 1.0, "sdpa": 2.0, "sdpa-cudnn": 3.0}
    start(auto)
    arguments = ("check", "--json", "--config", str(auto.data / "config.yml"))
    result = auto.run(
        *arguments, ATTN_BACKEND="auto", ATTN_REHEARSE="off", ATTN_ALLOW="I12", TMPDIR=str(auto.folder / "tmp")
    )

    assert result.code == 0, result.stderr
    choice = json.loads(result.stdout)["choice"]
    assert (choice["backend"], choice["of"]) == ("flex", str(auto.data / "config.yml"))
    assert yaml.safe_load(Path(choice["file"]).read_text())["attn_implementation"] == "flex_attention"


def test_a_command_that_does_not_name_its_configuration_is_not_changed(auto: ProcessLauncher) -> None:
    """ATTN_CONFIG does: what its keys ask for can be checked, and another backend cannot be asked for."""
    auto.times = {"flex": 1.0, "sdpa": 2.0, "sdpa-cudnn": 3.0}
    start(auto, attention="sdpa")
    variables = {
        "ATTN_BACKEND": "auto",
        "ATTN_ALLOW": "I12",
        "ATTN_REHEARSE": "off",
        "ATTN_CONFIG": str(auto.data / "config.yml"),
    }
    result = auto.run("sh", "-c", "echo $ATTN_BACKEND", **variables)

    assert (result.code, result.stdout) == (0, b"sdpa\n"), result.stderr
    assert "does not name its configuration" in auto.report()["choice"]["candidates"][0]["reason"]


def test_what_was_chosen_is_what_is_rehearsed(auto: ProcessLauncher) -> None:
    """The kernel that the rehearsal sees is held against the copy's, not against what the user's file asks for."""
    auto.times = {"flex": 3.0, "sdpa": 1.0, "sdpa-cudnn": 3.0}
    result = start(auto, ATTN_REHEARSE="on")

    assert copied(result)[0] == "sdpa", result.stderr
    assert auto.report()["rehearsal"]["verdict"] == "PASS"

    auto.times = {"flex": 1.0, "sdpa": 3.0, "sdpa-cudnn": 3.0}
    assert start(auto, ATTN_REHEARSE="on").code == 92  # the fake rehearsal sees sdpa, whatever was chosen
