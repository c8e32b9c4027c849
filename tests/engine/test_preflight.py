"""The preflight's rules against the real thing: Axolotl and transformers of the images read every case of the tables.

Each image is started once, for all cases of its Axolotl. No GPU is needed: Axolotl is told the compute capability.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from entrypoint.preflight.facts import OLD, Stage
from entrypoint.preflight.families import FAMILIES, family
from entrypoint.preflight.judge import judge
from entrypoint.preflight.rules import RULES
from entrypoint.preflight.rules.keys import misspelt
from entrypoint.preflight.rules.models import lora_kernels
from tests.engine.test_images import HARDENED, docker
from tests.unit.preflight_cases import Case, cases

HERE = Path(__file__).resolve().parent
IMAGES = ("sdpa-cpu", "sdpa-cu128", "sdpa-cu130")
# Refusals of our own, which Axolotl passes over without a word.
SILENT = {
    "K13": "strict drops a flag in silence: that is the trap",
    "S04": "a path of the hub is taken as it is, whatever it names",
}
# Errors of Axolotl that are not about attention.
NOT_OURS = {
    "does not recognize this architecture": "the case's model type is made up",
    "No module named 'deepspeed'": "the image has none; I09 is about training",
    "ring_flash_attn is not installed": "the case adds the package, and this image has none",
}


@dataclass(frozen=True)
class Answers:
    """What became of the cases in an image, by id, and of model types; `fields`: the keys that its Axolotl knows."""

    version: str
    cases: dict[str, dict[str, Any]]
    families: dict[str, dict[str, Any]]
    fields: list[str]


@cache
def answers(image: str) -> Answers:
    tag = f"axolotl-attn:{image}"
    if docker("image", "inspect", tag).returncode:
        pytest.skip(f"needs the image {image}: nox -s build -- {image}")
    python = ["--network=none", "--env=ATTN_CHECK=off", f"--volume={HERE}:/ask:ro", tag, "python"]
    ask = "import importlib.metadata as m; print(m.version('axolotl'))"
    version = docker("run", "--rm", *python, "-c", ask).stdout.strip()
    work = json.dumps({"cases": [case.question() for case in of(version)], "families": sorted(FAMILIES)})
    command = ["docker", "run", "--rm", "-i", *python, "/ask/real_axolotl.py"]
    done = subprocess.run(command, input=work, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return Answers(
        version=version,
        cases={row["id"]: row for row in rows if "id" in row},
        families={row["family"]: row for row in rows if "family" in row},
        fields=next(row["fields"] for row in rows if "fields" in row),
    )


def of(version: str) -> list[Case]:
    """The cases of an image's Axolotl, but for those about its mends."""
    return [case for case in cases() if case.facts.axolotl == version and not case.entry.get("mends")]


def refusals(case: Case) -> set[str]:
    """What stops Axolotl's validation, by our rules."""
    reads = {rule.id for rule in RULES if rule.stage is Stage.READS}
    found = judge(replace(case.facts, action="preprocess"))[1]
    return {item.id for item in found if item.level == "refuse" and item.id in reads} - SILENT.keys()


@pytest.mark.parametrize("image", IMAGES)
def test_axolotl_stops_where_the_rules_say_so_and_nowhere_else(image: str) -> None:
    given = answers(image)
    version, found = given.version, given.cases
    mended = "axolotl-flash-attention-4" in mends(image)
    wrong = {}
    for case in of(version):
        row, ours = found[case.id], refusals(case)
        excused = row["error"] and any(words in row["text"] for words in NOT_OURS)
        fa4 = mended and case.facts.implementation == "flash_attention_4" and ours == {"K05"}
        if bool(row["error"]) != bool(ours) and not excused and not fa4:
            wrong[case.id] = (ours, row["error"], row.get("text"))

    assert found
    assert wrong == {}


@pytest.mark.parametrize("image", IMAGES)
def test_the_attention_that_axolotl_asks_transformers_for_is_the_one_told(image: str) -> None:
    """By Axolotl's own loader; fp8 loads as sdpa. Other places of Axolotl decide about model_kwargs, and 0.16.1's about
    xformers."""
    given = answers(image)
    version, found = given.version, given.cases
    told, asked = {}, {}
    for case in of(version):
        run, _judged = judge(case.facts)
        elsewhere = run.asked.startswith("model_kwargs") or (version in OLD and case.facts.on("xformers_attention"))
        if not found[case.id]["error"] and not elsewhere:
            told[case.id] = {"nothing": None}.get(run.asked, "sdpa" if run.name == "fp8" else run.name)
            asked[case.id] = found[case.id]["asked"]

    assert len(told) > 20
    assert asked == told


@pytest.mark.parametrize("image", IMAGES)
def test_whether_packed_documents_are_apart_is_what_axolotl_itself_says(image: str) -> None:
    """By a field that it computes, which 0.16.1 does not have; gemma3's mask goes later, in its data pipeline."""
    given = answers(image)
    version, found = given.version, given.cases
    packed = [case for case in of(version) if case.facts.pack and not found[case.id]["error"]]
    judged = [case for case in packed if case.entry.get("model") != "gemma3" and not refusals(case)]
    ours = {case.id: judge(case.facts)[0].isolated for case in judged if version not in OLD}

    assert len(ours) > 5 or version in OLD
    assert ours == {name: found[name]["apart"] for name in ours}


@pytest.mark.parametrize("image", IMAGES)
def test_axolotl_switches_its_lora_kernels_on_where_the_rules_say_so(image: str) -> None:
    """Asked for or by itself; up to 0.17.0 a lora_dropout keeps the patch of attention out later."""
    given = answers(image)
    asked = [case for case in of(given.version) if case.facts.on("adapter") and not case.facts.on("lora_dropout")]
    ran = [case for case in asked if not given.cases[case.id]["error"]]
    told = {case.id: lora_kernels(case.facts) for case in ran}

    assert len(told) > 3
    assert told == {name: bool(given.cases[name]["lora_qkv_kernel"]) for name in told}


@pytest.mark.parametrize("image", IMAGES)
def test_the_families_are_what_the_classes_say(image: str) -> None:
    """Which attentions a class takes, whether LoRA kernels know its code, its fixed head_dim and window."""
    version = answers(image).version
    known = {name: row for name, row in answers(image).families.items() if row["known"]}
    ours, theirs = {}, {}
    for name, row in known.items():
        own = family(version, name)
        assert own is not None
        sliding = not row["layer_types"] or "sliding_attention" in row["layer_types"]
        window = row["sliding_window"] if sliding else None
        # MLA's head_dim is q's rotated part; gemma4's and deepseek_v4's differ by layer.
        width = own.head_dim if own.value_dim or name.startswith(("gemma4", "deepseek_v4")) else row["head_dim"]
        ours[name] = ([own.flash, own.sdpa, own.flex], own.lora_text, own.head_dim, own.window)
        theirs[name] = (row["takes"], row["lora_text"] is True, None if width == 48 else width, window)

    assert len(known) > 50
    assert {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]} == {}


@pytest.mark.parametrize("image", IMAGES)
def test_no_key_of_axolotl_itself_is_taken_for_a_misspelt_one(image: str) -> None:
    """K08 speaks of unknown keys near to attention's; every key that Axolotl knows is let through."""
    case = next(iter(cases()))
    wrong = []
    for key in answers(image).fields:
        facts = replace(case.facts, config=replace(case.facts.config, values={key: True}))
        if misspelt(facts, judge(facts)[0]) is not None:
            wrong.append(key)

    assert len(answers(image).fields) > 200
    assert wrong == []


def mends(image: str) -> frozenset[str]:
    """The mends that the image's spec names."""
    shown = docker("run", "--rm", "--env=ATTN_CHECK=off", f"axolotl-attn:{image}", "cat", "/opt/attn/image.json").stdout
    return frozenset(mend["name"] for mend in json.loads(shown).get("mends", ()))


def test_a_run_of_the_image_is_judged_before_it_starts(sdpa_cpu: str, tmp_path: Path) -> None:
    """As any user, offline, with a read-only root: 90 and what to write for a bad one, and PASS for a good one."""
    tmp_path.chmod(0o755)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"model_type": "gemma2", "head_dim": 64}')
    keys = "base_model: ./model\nmicro_batch_size: 1\ngradient_accumulation_steps: 1\n"
    (tmp_path / "bad.yml").write_text(keys + "attn_implementation: sdpa\n")
    (tmp_path / "good.yml").write_text(keys + "attn_implementation: eager\n")
    run = ("run", "--rm", "--network=none", *HARDENED, f"--volume={tmp_path}:/workspace:ro", sdpa_cpu)

    bad = docker(*run, "axolotl", "train", "bad.yml")
    assert (bad.returncode, bad.stdout) == (90, "")
    assert "bad.yml, line 4 [M06]: sdpa drops the softcap 50 of gemma2" in bad.stderr

    good = docker(*run, "check", "--json", "--config", "good.yml")
    assert good.returncode == 0, good.stderr
    told = json.loads(good.stdout)["run"]
    assert (told["axolotl"], told["rules_known"], told["runs"], told["findings"]) == ("0.19.0", True, "eager", [])
