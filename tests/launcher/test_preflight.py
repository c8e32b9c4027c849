"""A start with an Axolotl configuration: judged before anything is measured, by the image's own Axolotl."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from entrypoint.arguments import Invocation
from entrypoint.pipeline import _on_these_gpus
from entrypoint.preflight.commandline import Request
from entrypoint.preflight.flight import Flight
from entrypoint.preflight.judge import judge
from entrypoint.start import Start
from tests.launcher.launchers import ProcessLauncher
from tests.launcher.test_command import KERNEL
from tests.unit.preflight_cases import Case, cases

BASE = "micro_batch_size: 1\ngradient_accumulation_steps: 1\nbase_model: /nowhere/model\n"
GOOD = BASE + "attn_implementation: sdpa\nsample_packing: true\n"
REFUSED = BASE + "attn_implementation: flash\n"


@pytest.fixture
def launcher(tmp_path: Path) -> ProcessLauncher:
    """A start under a Python whose site-packages has PyYAML and, by name, Axolotl 0.19.0; a script is named axolotl."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = tmp_path / "venv/lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (packages / "yaml").symlink_to(Path(yaml.__file__).parent)
    for name in ("axolotl-0.19.0", "transformers-5.16.1", "torch-2.13.0+cpu"):
        (packages / f"{name}.dist-info").mkdir()
    programs = tmp_path / "venv/bin"
    programs.mkdir()
    (programs / "python").symlink_to(os.path.realpath(sys.executable))
    (programs / "axolotl").write_text("#!/bin/sh\necho trained $ATTN_BACKEND\n")
    (programs / "axolotl").chmod(0o755)
    started = ProcessLauncher(tmp_path)
    started.python = str(programs / "python")
    return started


def write(launcher: ProcessLauncher, text: str) -> str:
    file = launcher.data / "config.yml"
    file.write_text(text)
    return str(file)


def axolotl(launcher: ProcessLauncher, text: str, *flags: str, **env: str) -> Any:
    program = str(Path(launcher.python).with_name("axolotl"))
    return launcher.run(program, "train", write(launcher, text), *flags, **env)


def test_a_good_run_starts_and_is_told(launcher: ProcessLauncher) -> None:
    """What was asked for and what runs, in the report and on the screen; what could not be seen is a note."""
    result = axolotl(launcher, GOOD, "--micro-batch-size", "2")

    assert (result.code, result.stdout) == (0, b"trained sdpa\n"), result.stderr
    run = launcher.report()["run"]
    assert (run["asked"], run["runs"], run["packed_apart"]) == ("attn_implementation: sdpa", "sdpa", True)
    assert run["overrides"] == {"micro_batch_size": 2}
    assert "attn_implementation: sdpa asked for, sdpa runs; packed documents are kept apart" in result.stderr
    assert "neither a folder here nor in the hub's cache" in result.stderr


LLAMA = {
    "model_type": "llama",
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_size": 512,
    "num_hidden_layers": 2,
}


def shape_of(launcher: ProcessLauncher, text: str) -> Any:
    """What the child was told of the run's attention calls."""
    axolotl(launcher, text, ATTN_CACHE=f"{launcher.inside}/cache")
    report = launcher.report()
    told = next(word for word in report["left_out"] if word.startswith("shape "))
    return None if told == "shape None" else json.loads(told.removeprefix("shape ")) | {"cached": report["cached"]}


def test_the_child_is_told_the_runs_own_calls(launcher: ProcessLauncher) -> None:
    """As the configuration and config.json have them; another length is another verdict, the same one is remembered."""
    model = launcher.data / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(LLAMA))
    text = GOOD.replace("/nowhere/model", str(model)) + "bf16: true\nsequence_len: 2048\n"

    first, again = shape_of(launcher, text), shape_of(launcher, text)
    assert (first["heads"], first["kv_heads"], first["head_dim"], first["length"], first["packed"]) == (
        *(8, 2, 64, 2048, True),
    )
    assert (first["cached"], again["cached"]) == (False, True)
    longer = shape_of(launcher, text.replace("2048", "4096"))
    assert (longer["length"], longer["cached"]) == (4096, False)
    assert shape_of(launcher, GOOD) is None


def test_a_run_that_cannot_work_is_refused_before_anything_is_measured(launcher: ProcessLauncher) -> None:
    """90, with the rule, its line and what to write; the command never starts and no child does."""
    launcher.behave("crash")
    result = axolotl(launcher, REFUSED)

    assert (result.code, result.stdout) == (90, b"")
    assert "config.yml, line 4 [K05]: Axolotl 0.19.0 has no attention 'flash'." in result.stderr
    assert "Write attn_implementation: flash_attention_2." in result.stderr
    report = launcher.report()
    finding = next(item for item in report["run"]["findings"] if item["id"] == "K05")
    assert (finding["level"], finding["line"], finding["allowed"]) == ("refuse", 4, False)
    assert (report["verdict"], report["code"]["number"], report["cases"]) == ("NOT_CHECKED", 90, [])


def test_warn_runs_it_in_spite_of_the_refusal(launcher: ProcessLauncher) -> None:
    result = axolotl(launcher, REFUSED, ATTN_CHECK="warn")

    assert (result.code, result.stdout.split()[:1]) == (0, [b"trained"])
    assert "[K05]" in result.stderr


def test_a_single_rule_can_be_accepted(launcher: ProcessLauncher) -> None:
    """Then the check goes on; an unknown rule is an error that names the closest."""
    result = axolotl(launcher, REFUSED, ATTN_ALLOW="K05")
    assert (result.code, result.stdout) == (0, b"trained sdpa\n"), result.stderr
    assert "allowed   [K05]" in result.stderr

    unknown = axolotl(launcher, REFUSED, ATTN_ALLOW="K055")
    assert unknown.code == 90
    assert "Did you mean 'K05'?" in unknown.stderr


def test_flags_count_as_axolotl_counts_them(launcher: ProcessLauncher) -> None:
    """What the command line sets is judged, not what it replaces."""
    assert axolotl(launcher, REFUSED, "--attn-implementation", "sdpa").code == 0

    refused = axolotl(launcher, GOOD, "--attn-implementation", "flash")
    assert refused.code == 90
    assert "config.yml, by flag [K05]" in refused.stderr


def test_the_configuration_chooses_the_backend_that_is_checked(launcher: ProcessLauncher) -> None:
    """Unless ATTN_BACKEND does; then the difference is a note."""
    sdpa = launcher.spec["backends"][0]
    launcher.spec["backends"] = [{**sdpa, "name": "flex"}, sdpa]

    assert axolotl(launcher, GOOD).stdout == b"trained sdpa\n"
    assert axolotl(launcher, GOOD, ATTN_BACKEND="flex").stdout == b"trained flex\n"
    assert any("the configuration runs sdpa" in note for note in launcher.report()["notes"])


def test_check_takes_a_configuration(launcher: ProcessLauncher) -> None:
    """Its code is the verdict's; a missing file, a missing name and an unknown option say so."""
    assert launcher.run("check", "--config", write(launcher, GOOD)).code == 0
    refused = launcher.run("check", "--json", f"--config={write(launcher, REFUSED)}")
    assert refused.code == 90
    assert json.loads(refused.stdout)["run"]["action"] == "train"

    assert "There is no configuration /nowhere.yml" in launcher.run("check", "--config", "/nowhere.yml").stderr
    assert "check --config names no file" in launcher.run("check", "--config").stderr
    assert "Did you mean '--config'?" in launcher.run("check", "--confg", "x").stderr


def test_attn_config_names_it_where_the_command_does_not(launcher: ProcessLauncher) -> None:
    assert launcher.run("true", ATTN_CONFIG=write(launcher, REFUSED)).code == 90
    assert launcher.run("true", ATTN_CONFIG=write(launcher, GOOD)).code == 0
    # The command's own configuration comes first.
    other = launcher.data / "other.yml"
    other.write_text(REFUSED)
    assert axolotl(launcher, GOOD, ATTN_CONFIG=str(other)).code == 0


def test_a_run_whose_configuration_is_not_found_is_not_judged_and_says_so(launcher: ProcessLauncher) -> None:
    """A shell's own words are not read; `axolotl fetch` has no configuration."""
    program = str(Path(launcher.python).with_name("axolotl"))
    shell = launcher.run("sh", "-c", f"{program} train {write(launcher, REFUSED)}")
    assert shell.code == 0
    assert "the run was not judged; ATTN_CONFIG names one" in shell.stderr

    fetch = launcher.run(program, "fetch", "examples")
    assert "not judged" not in fetch.stderr
    assert launcher.run(program, "train", "https://example.org/c.yml").stderr.count("not judged") == 1


def test_another_axolotl_is_not_judged(launcher: ProcessLauncher) -> None:
    """It is told, and nothing is refused."""
    packages = next(Path(launcher.python).parents[1].glob("lib/*/site-packages"))
    (packages / "axolotl-0.19.0.dist-info").rename(packages / "axolotl-0.20.1.dist-info")
    result = axolotl(launcher, REFUSED)

    assert result.code == 0, result.stderr
    assert "The run was not judged: the rules know Axolotl 0.16.1" in result.stderr


def test_other_commands_have_no_run(launcher: ProcessLauncher) -> None:
    assert launcher.run("true").code == 0
    assert launcher.report()["run"] is None


def test_a_gpu_that_only_the_check_could_ask_is_judged_after_it() -> None:
    """F06 needs the capability: unknown before, it is refused in the report once the check has told it."""
    case = next(case for case in cases() if case.say == {"F06"})
    start = Start(spec=case.facts.spec, environ={}, arguments=Invocation(), flight=_flight(case))
    measured = {
        **dict.fromkeys(("verdict", "headline", "reasons"), ""),
        "code": {"name": "PASS", "number": 0},
        "gpus": [{"capability": case.facts.capability}],
        "backend": {"requested": "fa4"},
        "cases": ["kept"],
    }

    assert start.flight is not None
    assert start.flight.error() is None
    report = _on_these_gpus(start, measured)
    assert (report["code"], report["cases"]) == ({"name": "CONFIG", "number": 90}, ["kept"])
    assert "[F06]" in report["headline"]["what"]

    start.flight = replace(_flight(case), allowed=frozenset({"F06"}))
    assert _on_these_gpus(start, measured) == measured


def _flight(case: Case) -> Flight:
    """The case's flight before its GPUs are known."""
    facts = replace(case.facts, capabilities=())
    run, findings = judge(facts)
    return Flight(facts=facts, request=Request(action="train"), run=run, findings=findings)


def test_a_kernel_of_the_backend_is_no_other_backend(launcher: ProcessLauncher) -> None:
    """The configuration runs sdpa, and ATTN_BACKEND names the kernel: nothing to remark."""
    launcher.spec["kernels"] = [KERNEL]

    result = axolotl(launcher, GOOD, ATTN_BACKEND="sdpa-cudnn")

    assert (result.code, result.stdout) == (0, b"trained sdpa-cudnn\n")
    assert "is what is checked" not in result.stderr
