"""The preflight's rules against the real thing: Axolotl and transformers of the images read every case of the tables.

Each image is started once, for all cases of its Axolotl. No GPU is needed: Axolotl is told the compute capability.
"""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from entrypoint.preflight.facts import NEW, OLD, Stage
from entrypoint.preflight.families import FAMILIES, family
from entrypoint.preflight.judge import judge
from entrypoint.preflight.rules import RULES
from tests.engine.test_images import docker
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


@cache
def answers(image: str) -> tuple[str, dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The image's Axolotl, and by case and by model type what became of them."""
    tag = f"axolotl-attn:{image}"
    if docker("image", "inspect", tag).returncode:
        pytest.skip(f"needs the image {image}: nox -s build -- {image}")
    run = ["run", "--rm", "-i", "--network=none", "--env=ATTN_CHECK=off", f"--volume={HERE}:/ask:ro", tag, "python"]
    version = docker(*run[:2], *run[3:], "-c", "import importlib.metadata as m; print(m.version('axolotl'))").stdout.strip()
    asked = [case.question() for case in of(version, image)]
    work = json.dumps({"cases": asked, "families": sorted(FAMILIES)})
    done = subprocess.run(
        ["docker", *run, "/ask/real_axolotl.py"], input=work, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return (
        version,
        {row["id"]: row for row in rows if "id" in row},
        {row["family"]: row for row in rows if "family" in row},
    )


def of(version: str, image: str) -> list[Case]:
    """The cases of an Axolotl. Without the mends of an image 0.17.0 validates otherwise, so its cases state them."""
    return [case for case in cases() if case.facts.axolotl == version and not case.entry.get("mends")]


def refusals(case: Case) -> set[str]:
    """What stops Axolotl's validation, by our rules."""
    reads = {rule.id for rule in RULES if rule.stage is Stage.READS}
    return {item.id for item in judge(case.facts)[1] if item.level == "refuse" and item.id in reads} - SILENT.keys()


@pytest.mark.parametrize("image", IMAGES)
def test_axolotl_stops_where_the_rules_say_so_and_nowhere_else(image: str) -> None:
    version, found, _ = answers(image)
    mended = "axolotl-flash-attention-4" in mends(image)
    wrong = {}
    for case in of(version, image):
        row, ours = found[case.id], refusals(case)
        excused = row["error"] and any(words in row["text"] for words in NOT_OURS)
        fa4 = mended and case.facts.implementation == "flash_attention_4" and ours == {"K05"}
        if bool(row["error"]) != bool(ours) and not excused and not fa4:
            wrong[case.id] = (ours, row["error"], row.get("text"))

    assert found
    assert wrong == {}


@pytest.mark.parametrize("image", IMAGES)
def test_the_attention_that_axolotl_asks_transformers_for_is_the_one_told(image: str) -> None:
    """By Axolotl's own loader. "nothing" leaves it to transformers; fp8 loads as sdpa; what 0.16.1 does for xformers and
    Axolotl takes from model_kwargs comes in other places of it."""
    version, found, _ = answers(image)
    wrong = {}
    for case in of(version, image):
        run, _judged = judge(case.facts)
        elsewhere = run.asked == "nothing" or run.asked.startswith(("model_kwargs", "xformers_attention"))
        told = "sdpa" if run.name == "fp8" else run.name
        if not found[case.id]["error"] and found[case.id]["asked"] != told and not (version in OLD + NEW and elsewhere):
            if not elsewhere:
                wrong[case.id] = (told, found[case.id]["asked"])

    assert wrong == {}


@pytest.mark.parametrize("image", IMAGES)
def test_whether_packed_documents_are_apart_is_what_axolotl_itself_says(image: str) -> None:
    """0.19.0 has a computed field for it; gemma3's mask goes later, in its data pipeline."""
    version, found, _ = answers(image)
    if version not in NEW:
        pytest.skip(f"Axolotl {version} has no such field")
    packed = [case for case in of(version, image) if case.facts.pack and not found[case.id]["error"]]
    ours = {case.id: judge(case.facts)[0].isolated for case in packed if case.entry.get("model") != "gemma3"}

    assert len(ours) > 20
    assert ours == {name: found[name]["apart"] for name in ours}


@pytest.mark.parametrize("image", IMAGES)
def test_the_families_are_what_the_classes_say(image: str) -> None:
    """Which attentions a class takes, whether LoRA kernels know its code, its fixed head_dim and window."""
    version, _, found = answers(image)
    known = {name: row for name, row in found.items() if row["known"]}
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


def mends(image: str) -> frozenset[str]:
    """The mends that the image's spec names."""
    shown = docker("run", "--rm", "--env=ATTN_CHECK=off", f"axolotl-attn:{image}", "cat", "/opt/attn/image.json").stdout
    return frozenset(mend["name"] for mend in json.loads(shown).get("mends", ()))
