"""The rules over a table of configurations, images, GPUs and models (tests/data/preflight): no torch, no Axolotl."""

from __future__ import annotations

from dataclasses import replace

import pytest

from entrypoint.preflight.facts import ALL, KNOWN, Stage
from entrypoint.preflight.judge import Found, advise, apply, judge, overlay
from entrypoint.preflight.rules import IDS, RULES
from tests.unit.preflight_cases import Case, cases

CASES = list(cases())
# The rules of the reference, by topic: how many of each letter.
REFERENCE = {"K": 16, "I": 12, "F": 19, "P": 15, "M": 18, "X": 5, "S": 4, "T": 3, "E": 7, "G": 5}


def said(case: Case) -> dict[str, Found]:
    return {item.id: item for item in judge(case.facts)[1]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_exactly_these_rules_hit_and_this_kernel_runs(case: Case) -> None:
    """No rule more and none less; and the kernel that runs in the end."""
    run, found = judge(case.facts)

    assert {item.id for item in found} == case.say
    assert run.kernel == case.runs
    assert case.write in " | ".join(item.instead for item in found)


def test_the_table_has_every_rule_of_the_reference_and_is_large_enough() -> None:
    """104 rules of the reference, each hit; 150 different configurations x images x GPUs."""
    hit = {rule for case in CASES for rule in case.say}
    counted = {
        letter: sum(f"{letter}{n:02}" in IDS for n in range(1, count + 1)) for letter, count in REFERENCE.items()
    }

    assert counted == REFERENCE
    assert set(IDS) == hit
    assert len({(str(case.facts.config.values), case.facts.spec.id, case.facts.capabilities) for case in CASES}) >= 150


def test_each_rule_has_one_place_and_its_source() -> None:
    assert len(set(IDS)) == len(IDS)
    assert all(rule.source and set(rule.versions) <= set(ALL) for rule in RULES)
    assert set(ALL) == set(KNOWN)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_advice_is_never_refused_itself(case: Case) -> None:
    """What is written instead, written, has no refusal left but those that have a cure of their own."""
    run, found = judge(case.facts)
    refused = [item for item in found if item.level == "refuse"]
    general = advise(case.facts, run)
    change = overlay(case.facts, run)
    if change is not None:
        assert not [item.id for item in judge(apply(case.facts, change))[1] if item.level == "refuse"]
    elif not refused and case.runs != "eager":  # which advice does not name
        pytest.fail(f"no refusal, and no attention that may run: {general}")


def test_what_needs_an_unknown_gpu_or_model_is_left_open() -> None:
    """With less known, no rule refuses that did not refuse before."""
    for case in CASES:
        known = {item.id for item in judge(case.facts)[1] if item.level == "refuse"}
        for facts in (replace(case.facts, capabilities=()), replace(case.facts, model=None)):
            blind = {item.id for item in judge(facts)[1] if item.level == "refuse"}
            assert blind <= known, (case.id, blind - known)


def test_commands_that_go_less_far_are_judged_by_fewer_rules() -> None:
    """preprocess loads no model: of what stops a training, only what the validation refuses is left."""
    reads = {rule.id for rule in RULES if rule.stage is Stage.READS}
    for case in CASES:
        if case.facts.action == "train":
            found = {item.id for item in judge(replace(case.facts, action="preprocess"))[1]}
            assert found <= case.say & reads


def test_a_line_is_named_unless_a_flag_set_the_key() -> None:
    """The configuration's own line; of a key that the command line set, that it was a flag."""
    case = next(case for case in CASES if said(case).get("F06"))
    assert said(case)["F06"].line == 5
    assert said(case)["F06"].where == "line 5"

    config = replace(case.facts.config, set_by_flag=frozenset({"attn_implementation"}))
    by_flag = judge(replace(case.facts, config=config))[1]
    assert next(item for item in by_flag if item.id == "F06").where == "by flag"
