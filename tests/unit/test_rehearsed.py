"""The recorded rehearsals (tests/rehearsal/run.py): every seeded defect found, and no false alarm."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

import pytest
from attn_matrix import ROOT

from tests.rehearsal.families import ATTENTIONS, NEVER_PACKED, drawn
from tests.rehearsal.planted.table import ATTENTIONS as PLANTED
from tests.rehearsal.planted.table import MASKS
from tests.rehearsal.seeded import EXPECTED, SEEDED

DATA = ROOT / "tests/data/rehearsal"
PACKAGES = {"torch", "transformers", "axolotl"}


def recorded(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return document


@pytest.fixture(scope="module")
def healthy() -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = recorded("healthy")["runs"]
    return runs


@pytest.mark.parametrize("name", ["seeded", "healthy"])
def test_a_record_says_what_ran(name: str) -> None:
    """The date, the image, and the versions of what took part."""
    record = recorded(name)

    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert record["image"]
    assert record["versions"].keys() >= PACKAGES
    assert all(record["versions"].values())


def test_every_defect_can_be_planted_and_is_expected() -> None:
    """At least 20, each with its setting; none is planted twice."""
    assert len(SEEDED) >= 20
    assert PLANTED.keys() | MASKS.keys() == SEEDED.keys()
    assert not PLANTED.keys() & MASKS.keys()


def test_every_seeded_defect_was_found() -> None:
    """In the setting that the table has now, with the code that it expects, for a reason that says what is wrong."""
    runs = {run["name"]: run for run in recorded("seeded")["runs"]}

    assert runs.keys() == EXPECTED.keys()
    for name, expected in EXPECTED.items():
        run = runs[name]
        assert run["setting"] == asdict(expected.setting), name
        assert run["code"] == expected.code, name
        assert re.search(expected.word, run["reason"]), name


def test_200_healthy_rehearsals_raised_no_alarm(healthy: list[dict[str, Any]]) -> None:
    """Each with a seed of its own, rehearsed to the end, and passed."""
    assert len({run["setting"]["seed"] for run in healthy}) >= 200
    assert [run["name"] for run in healthy if (run["code"], run["rehearsal"]) != (0, "PASS")] == []
    assert all(run["setting"] == asdict(drawn(run["setting"]["seed"])) for run in healthy)


def test_healthy_rehearsals_were_of_every_kind(healthy: list[dict[str, Any]]) -> None:
    """Each family padded and packed, all of its weights and LoRA, with every attention that trains it on a CPU."""
    settings = [run["setting"] for run in healthy]
    kinds = {(each["family"], each["packed"], each["lora"]) for each in settings}

    padded = {(family, False, lora) for family in ATTENTIONS for lora in (False, True)}
    packed = {(family, True, lora) for family in ATTENTIONS.keys() - NEVER_PACKED for lora in (False, True)}
    assert kinds == padded | packed
    assert {(each["family"], each["attention"]) for each in settings} == {
        (family, attention) for family, attentions in ATTENTIONS.items() for attention in attentions
    }
    assert {each["checkpointing"] for each in settings} == {False, True}


def test_no_healthy_rehearsal_came_near_its_budget(healthy: list[dict[str, Any]]) -> None:
    """Their errors leave room: a budget that a healthy run nearly fills stops somebody's training one day."""
    assert all(0.0 < run["ratio"] < 0.8 for run in healthy)
