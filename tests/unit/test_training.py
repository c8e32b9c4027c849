"""The recorded trainings (tests/gpu/recipes.py): they are of the README's recipes, and they were right."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from attn_matrix import ROOT

RECORDS = {path.name: json.loads(path.read_text()) for path in sorted((ROOT / "tests/data/training").glob("*.json"))}
README = (ROOT / "README.md").read_text(encoding="utf-8")
STEPS = 30
# Of the first step's loss and gradient norm: right runs agree within 0.2 %, a leak between documents is 5.6 % away.
SHARE = 0.01
TRAINED = {
    f"{name}-{run['backend']}-{'packed' if run['packing'] else 'padded'}": (record, run)
    for name, record in RECORDS.items()
    for run in record["runs"]
    if run["backend"] != "reference"
}
RUNS = [pytest.param(*pair, id=name) for name, pair in TRAINED.items()]


def spec_of(record: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((ROOT / f"docker/specs/{record['image']}.json").read_text(encoding="utf-8"))
    return spec


def reference_of(record: dict[str, Any], packing: bool) -> dict[str, Any]:
    """Plain attention over the same rows. xFormers lays packed rows out as FlexAttention does, and has none of its own:
    transformers knows no such attention that could be replaced."""
    own = [run for run in record["runs"] if run["backend"] == "reference"]
    runs = own or [run for run in RECORDS["flex-cu128.h200.json"]["runs"] if run["backend"] == "reference"]
    return next(run for run in runs if run["packing"] is packing)


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_what_was_trained_is_what_the_image_holds_and_recommends(record: dict[str, Any]) -> None:
    """Each recipe of the image's own backend, with its keys, and the packages that the image has today."""
    spec = spec_of(record)
    own = spec["backends"][0]["name"]
    recipes = [recipe for recipe in spec["recipes"] if recipe["backend"] == own]

    trained = [
        {name: run[name] for name in ("backend", "keys", "packing")} for run in record["runs"] if run["backend"] == own
    ]

    assert recipes
    assert trained == recipes
    assert record["packages"] == spec["packages"]


@pytest.mark.parametrize(("record", "run"), RUNS)
def test_a_recipe_trains_as_plain_attention_does(record: dict[str, Any], run: dict[str, Any]) -> None:
    reference = reference_of(record, run["packing"])

    assert run["code"] == reference["code"] == 0
    assert len(run["steps"]) == len(reference["steps"]) == STEPS
    for name in ("loss", "grad_norm"):
        assert run["steps"][0][name] == pytest.approx(reference["steps"][0][name], rel=SHARE)
        assert all(0 < step[name] < 100 for step in run["steps"])


@pytest.mark.parametrize(("record", "run"), RUNS)
def test_training_compiles_no_kernel_that_the_image_brings(record: dict[str, Any], run: dict[str, Any]) -> None:
    assert run["fa4_kernels_compiled"] == 0


def test_the_readme_names_what_was_trained_on_a_gpu() -> None:
    told = re.search(r"On an H200, ((?:\w+(?:, | and )?)+) were trained", README)
    assert told
    assert sorted(re.split(", | and ", told[1])) == sorted({run["backend"] for _, run in TRAINED.values()})


def test_the_table_of_measured_is_of_the_records() -> None:
    """MEASURED.md's rows `image | backend | rows | loss, gradient norm | of the reference`."""
    page = (ROOT / ".github/MEASURED.md").read_text(encoding="utf-8")
    for record in RECORDS.values():
        for run in record["runs"]:
            if run["backend"] == "reference":
                continue
            first = [f"{step['loss']}, {step['grad_norm']}" for step in run["steps"][:2]]
            other = reference_of(record, run["packing"])["steps"][0]
            cells = [f"`{record['image']}`", run["backend"], "packed" if run["packing"] else "padded", *first]
            row = " | ".join([*cells, f"{other['loss']}, {other['grad_norm']}"])
            assert f"| {row} |" in page, row
