"""What is said of a rehearsal, from its events alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from entrypoint.children.outcome import Overrun
from entrypoint.events import KernelsEvent
from entrypoint.judge.finding import Code, Finding
from entrypoint.judge.rehearsal import judge
from entrypoint.judge.rehearsal_budgets import weights
from entrypoint.preflight.commandline import Request
from entrypoint.preflight.flight import Flight
from entrypoint.preflight.judge import judge as rules
from entrypoint.rehearsal.events import (
    AskedEvent,
    BatchEvent,
    ChangedEvent,
    ComparedEvent,
    Difference,
    EndEvent,
    LeakEvent,
    LeftEvent,
    MemoryEvent,
    RaisedEvent,
    RehearsalEvent,
    ShrunkEvent,
    StageEvent,
    StepsEvent,
    encode,
)
from entrypoint.rehearsal.outcome import Rehearsal
from tests.unit.preflight_cases import facts

SHRUNK = ShrunkEvent(
    type="llama", layers=2, of_layers=32, kinds=(), hidden=256, heads=32, kv_heads=8, head_dim=128, vocabulary=512,
    reduced=("2 of 32 layers",),
)  # fmt: skip
BATCH = BatchEvent(rows=1, length=2048, documents=5, attention="sdpa", dtype="bfloat16", packed=True, dropout=0.0)
Q = Difference(what="layers.0.self_attn.q_proj.weight", error=2e-2, baseline=1.8e-2, norm=0.5, ratio=1.0)
DOWN = Difference(what="layers.0.mlp.down_proj.weight", error=5e-3, baseline=6e-3, norm=0.8, ratio=1.0)
COMPARED = ComparedEvent(run=6.681, reference=6.68, baseline=6.6805, gradients=(Q, DOWN))
LEAK = LeakEvent(documents=5, run=0.0, reference=0.0, noise=0.0)
STEPS = {"run": (6.681, 6.5, 6.3), "reference": (6.68, 6.501, 6.301), "baseline": (6.68, 6.5, 6.302)}
KERNELS = KernelsEvent(asked="sdpa", names=("pytorch_flash::f",), observed="sdpa", recorded=9)


def flight(config: Mapping[str, Any] = {"attn_implementation": "sdpa"}, allowed: str = "", **entry: Any) -> Flight:
    known = facts({"config": config, "model": "llama", **entry}, "sdpa-cu130", "H100")
    run, findings = rules(known)
    accepted = frozenset(filter(None, allowed.split(",")))
    request = Request(action="train", config="config.yml")
    return Flight(facts=known, request=request, run=run, findings=findings, allowed=accepted)


def left(*events: RehearsalEvent, ending: str = "done", **more: Any) -> Rehearsal:
    """A child's outcome from its lines, as the parent takes them."""
    outcome = Rehearsal(device="cuda:0", backend="sdpa")
    for event in events:
        assert outcome.take(encode(event).encode()) == event or "null" in encode(event)
    outcome.ending = ending  # type: ignore[assignment]
    for name, value in more.items():
        setattr(outcome, name, value)
    return outcome


def whole(**other: RehearsalEvent | None) -> Rehearsal:
    """A healthy rehearsal with one event in another form, or without it."""
    events: dict[str, RehearsalEvent | None] = {"shrunk": SHRUNK, "batch": BATCH, "compared": COMPARED, "leak": LEAK}
    events |= {name: StepsEvent(part=name, losses=losses) for name, losses in STEPS.items()}  # type: ignore[arg-type]
    events |= {"kernels": KERNELS, **other}
    end = EndEvent(seconds={"import": 5.0}, peak=1 << 30, written={})
    return left(*(event for event in events.values() if event is not None), end)


def said(outcome: Rehearsal, of: Flight | None = None) -> Finding:
    return judge(of or flight(), outcome, 120.0)


def raised(part: str = "run", stage: str = "compare", **more: Any) -> RaisedEvent:
    known = {"kind": "ValueError", "reason": "ValueError: Expected IntTuple", "where": "x.py:1", "out_of_memory": False}
    return RaisedEvent(**{**known, "part": part, "stage": stage, **more})


def test_a_healthy_one_adds_a_sentence() -> None:
    found = said(whole())
    assert (found.verdict, found.code) == ("PASS", Code.PASS)
    assert found.what == "Rehearsed 3 steps of llama with 2 layers: loss and gradients as plain attention's."


# ---- numbers ----


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (replace(COMPARED, run=6.9), ("the loss is 3.29% off", "(sdpa)")),
        (replace(COMPARED, run=None), ("the loss is not finite",)),
        (replace(COMPARED, run=math.nan), ("the loss is not finite",)),
        (replace(COMPARED, gradients=(replace(Q, error=0.4), DOWN)), ("wrong gradient", Q.what, "40.00%")),
        (replace(COMPARED, gradients=(replace(Q, error=None), DOWN)), ("wrong gradient", "is not finite")),
        (replace(COMPARED, gradients=(replace(Q, error=1.0, ratio=0.0), DOWN)), ("cuts the gradient", Q.what)),
        (
            replace(COMPARED, gradients=(replace(Q, error=None, ratio=None, missing=True), DOWN)),
            ("cuts the gradient", Q.what, "learns nothing"),
        ),
    ],
)
def test_a_number_past_its_budget_is_wrong(event: ComparedEvent, words: tuple[str, ...]) -> None:
    found = said(whole(compared=event))
    assert (found.verdict, found.code) == ("FAIL", Code.WRONG)
    assert all(word in found.what for word in words), found.what


def test_a_later_step_that_goes_another_way_is_wrong() -> None:
    found = said(whole(run=StepsEvent(part="run", losses=(6.681, 6.5, 6.1))))
    assert found.code is Code.WRONG
    assert "once the weights have changed: the loss of step 3" in found.what


@pytest.mark.parametrize(("third", "verdict"), [(6.1, "PASS"), (None, "FAIL")])
def test_steps_that_drop_weights_of_attention_have_to_be_finite_alone(third: float | None, verdict: str) -> None:
    steps = StepsEvent(part="run", losses=(6.681, 6.5, third))
    assert said(whole(run=steps, batch=replace(BATCH, dropout=0.1))).verdict == verdict


def test_budgets_follow_the_baseline() -> None:
    """Twice as much rounding in this model, twice as much room."""
    noisy = replace(COMPARED, gradients=(replace(Q, error=0.15, baseline=0.04), replace(DOWN, baseline=0.04)))
    assert said(whole(compared=noisy)).verdict == "PASS"
    quiet = replace(COMPARED, gradients=(replace(Q, error=0.15, baseline=0.02), replace(DOWN, baseline=0.02)))
    assert said(whole(compared=quiet)).code is Code.WRONG


def test_a_baseline_that_is_small_by_luck_counts_as_that_of_the_others() -> None:
    lucky = replace(COMPARED, gradients=(replace(Q, baseline=0.0), *[replace(DOWN, baseline=1e-2)] * 3))
    assert said(whole(compared=lucky)).verdict == "PASS"


def test_a_gradient_that_is_nothing_but_rounding_has_room() -> None:
    """Such as that of a key's bias, which attention is all but blind to."""
    tiny = Difference(what="k_proj.bias", error=0.5, baseline=1e-3, norm=1e-5, ratio=1.1)
    assert said(whole(compared=replace(COMPARED, gradients=(Q, DOWN, tiny)))).verdict == "PASS"


def test_float32_has_less_room_than_bfloat16() -> None:
    by_dtype = {}
    for dtype in ("float32", "bfloat16", "float16"):
        outcome = whole(batch=replace(BATCH, dtype=dtype), compared=replace(COMPARED, baseline=COMPARED.reference))
        by_dtype[dtype] = next(weight.budget for weight in weights(outcome) if weight.kind == "loss")
    assert by_dtype["float32"] < 1e-5 < by_dtype["float16"] < by_dtype["bfloat16"]


def test_a_loss_may_be_one_of_float32_s_next_neighbours() -> None:
    """Where the baseline happened to meet the very same one."""
    near = replace(COMPARED, run=6.68 * (1 + 3e-7), baseline=6.68, gradients=(replace(Q, error=1e-6, baseline=1e-6),))
    assert said(whole(compared=near, batch=replace(BATCH, dtype="float32"))).verdict == "PASS"


# ---- packed documents ----


@pytest.mark.parametrize(("change", "word"), [(0.05, "by up to 5.00%"), (None, "is not finite")])
def test_documents_that_see_each_other_are_said_so(change: float | None, word: str) -> None:
    found = said(whole(leak=replace(LEAK, run=change)))
    assert found.code is Code.WRONG
    assert "packed documents see each other: the loss of document 2 changes when document 1 does" in found.what
    assert word in found.what


def test_a_leak_explains_wrong_numbers_and_its_rule_advises() -> None:
    outcome = whole(leak=replace(LEAK, run=0.05), compared=replace(COMPARED, run=6.9))
    packed = flight({"sample_packing": True})
    found = said(outcome, packed)
    assert found.kind == "leak"
    assert "[P03]" in found.advice


def test_what_leaks_through_another_layer_is_not_attention_s() -> None:
    assert said(whole(leak=replace(LEAK, run=0.05, reference=0.05))).verdict == "PASS"


# ---- kernels and hubs ----


def test_another_kernel_than_the_configuration_s_is_wrong() -> None:
    found = said(whole(kernels=replace(KERNELS, observed="xformers")))
    assert found.code is Code.WRONG
    assert "asks for attention by sdpa, and xformers runs" in found.what


@pytest.mark.parametrize("event", [None, replace(KERNELS, observed=None), replace(KERNELS, recorded=0, names=())])
def test_a_kernel_that_nobody_knows_proves_nothing(event: KernelsEvent | None) -> None:
    assert said(whole(kernels=event)).verdict == "PASS"


def test_a_hub_that_is_asked_is_a_matter_of_the_configuration() -> None:
    found = said(whole(asked=AskedEvent(host="huggingface.co", by="kernels/utils.py:1 in get_kernel")))
    assert (found.verdict, found.code) == ("FAIL", Code.CONFIG)
    assert "huggingface.co" in found.what
    assert "get_kernel" in found.what


@pytest.mark.parametrize(("host", "environ"), [("example.org", {}), ("huggingface.co", {"USE_HUB_KERNELS": "1"})])
def test_another_host_or_a_hub_that_the_user_allows_is_none(host: str, environ: dict[str, str]) -> None:
    outcome = whole(asked=AskedEvent(host=host, by="x"))
    assert said(outcome, flight(environ=environ)).verdict == "PASS"


def test_a_mirror_of_the_hub_is_a_hub() -> None:
    outcome = whole(asked=AskedEvent(host="mirror.example", by="x"))
    assert said(outcome, flight(environ={"HF_ENDPOINT": "https://mirror.example:8443/hf"})).code is Code.CONFIG


# ---- exceptions ----


def test_what_attention_alone_raises_would_crash_the_training() -> None:
    steps = StepsEvent(part="reference", losses=(6.68, 6.5, 6.3))
    found = said(left(SHRUNK, BATCH, raised(), steps, EndEvent(seconds={}, peak=None, written={})))
    assert found.code is Code.WRONG
    assert found.what.startswith(
        "The training would crash at its first step, in attention: ValueError: Expected IntTuple"
    )


def test_a_crash_while_loading_that_plain_attention_does_not_have_is_attention_s() -> None:
    found = said(left(SHRUNK, raised(stage="load"), EndEvent(seconds={}, peak=None, written={})))
    assert found.code is Code.WRONG
    assert "while it loads the model" in found.what


@pytest.mark.parametrize(("kind", "code"), [("ValueError", Code.CONFIG), ("RuntimeError", Code.PASS)])
def test_what_any_attention_raises_is_the_configuration_s_or_nobody_knows_whose(kind: str, code: Code) -> None:
    """Axolotl's and peft's refusals are certain; another exception may come from what was made small."""
    both = (raised(stage="load", kind=kind), raised("reference", stage="load", kind=kind))
    found = said(left(SHRUNK, *both, EndEvent(seconds={}, peak=None, written={})))
    assert found.code is code
    assert found.verdict == ("FAIL" if code is Code.CONFIG else "NOT_CHECKED")


def test_nobody_knows_whose_it_is_where_something_was_switched_off() -> None:
    """A plugin may want the fsdp that one process has no use for."""
    both = (raised(stage="load"), raised("reference", stage="load"))
    changed = ChangedEvent(reduced=("fsdp is off",), off=("fsdp",))
    found = said(left(SHRUNK, changed, *both, EndEvent(seconds={}, peak=None, written={})))
    assert (found.verdict, found.code) == ("NOT_CHECKED", Code.PASS)


def test_a_configuration_that_axolotl_refuses_is_said_in_its_words() -> None:
    events = (SHRUNK, raised(stage="configuration"), LeftEvent(reason="Axolotl refuses the configuration"))
    found = said(left(*events, EndEvent(seconds={}, peak=None, written={})))
    assert (found.verdict, found.code) == ("FAIL", Code.CONFIG)
    assert found.what == "Axolotl refuses config.yml: ValueError: Expected IntTuple"


def test_what_plain_attention_alone_raises_says_nothing_of_the_run() -> None:
    found = said(left(SHRUNK, BATCH, raised("baseline"), EndEvent(seconds={}, peak=None, written={})))
    assert (found.verdict, found.code) == ("NOT_CHECKED", Code.PASS)


@pytest.mark.parametrize(("part", "verdict"), [("run", "FAIL"), ("reference", "NOT_CHECKED")])
def test_memory_that_the_run_does_not_find_is_said_with_its_rows(part: str, verdict: str) -> None:
    events = (
        SHRUNK,
        BATCH,
        raised(part, kind="OutOfMemoryError", reason="OutOfMemoryError: 2 GiB", out_of_memory=True),
    )
    found = said(left(*events, EndEvent(seconds={}, peak=None, written={})))
    assert found.verdict == verdict
    assert verdict == "NOT_CHECKED" or "micro_batch_size 1 with 2 of 32 layers alone" in found.what


@pytest.mark.parametrize(
    ("gib", "code"),
    [
        ((6.8, 139.8, 0.0), Code.INTERNAL),
        ((125.0, 139.8, 0.0), Code.INTERNAL),
        ((139.3, 139.8, 0.0), Code.CONFIG),  # a context of its own
        ((69.3, 139.8, 70.0), Code.CONFIG),
    ],
)
def test_memory_that_others_hold_is_not_the_configuration_s(gib: tuple[float, float, float], code: Code) -> None:
    free, total, own = (int(each * 2**30) for each in gib)
    full = raised(kind="OutOfMemoryError", reason="OutOfMemoryError: 2 GiB", out_of_memory=True)
    end = EndEvent(seconds={}, peak=None, written={})
    found = said(left(SHRUNK, MemoryEvent(free=free, total=total, own=own), BATCH, full, end))

    assert found.code is code
    assert found.verdict == ("FAIL" if code is Code.CONFIG else "NOT_CHECKED")


def test_who_holds_the_memory_is_said_with_where_to_look() -> None:
    full = raised(kind="OutOfMemoryError", reason="OutOfMemoryError: 2 GiB", out_of_memory=True)
    memory = MemoryEvent(free=7 << 30, total=140 << 30, own=0)
    found = said(left(SHRUNK, memory, full, EndEvent(seconds={}, peak=None, written={})))

    what = "Other processes hold 133 of 140 GiB of cuda:0; the rehearsal needs it to itself: OutOfMemoryError: 2 GiB"
    assert (found.what, found.log) == (what, full.reason)
    assert found.advice == "End them (see nvidia-smi), or start the job on another node."


# ---- a child without a last word ----

IN_ATTENTION = (SHRUNK, BATCH, StageEvent(name="compare", detail="run"))
SLOW = Overrun(lasted=50.0, computing=True, processor="a CPU", processors=2)


def test_a_crash_by_signal_in_attention_is_the_device_s() -> None:
    found = said(left(*IN_ATTENTION, ending="killed", number=11))
    assert (found.verdict, found.code) == ("FAIL", Code.GPU_FAULT)
    assert "crashed with SIGSEGV in compare" in found.what


def test_on_a_cpu_nobody_knows_whose_it_is() -> None:
    """As the check says it: no node is drained for it."""
    known = facts({"config": {"attn_implementation": "sdpa"}, "model": "llama"}, "sdpa-cpu", "none")
    found = said(left(*IN_ATTENTION, ending="killed", number=11), replace(flight(), facts=known))
    assert (found.verdict, found.code) == ("NOT_CHECKED", Code.INTERNAL)
    assert "crashed with SIGSEGV in compare" in found.what


def test_a_hang_in_attention_is_too() -> None:
    found = said(left(*IN_ATTENTION, ending="timeout", overrun=replace(SLOW, computing=False)))
    assert (found.verdict, found.code) == ("FAIL", Code.GPU_FAULT)
    assert "hung" in found.what


@pytest.mark.parametrize(
    ("events", "how", "word"),
    [
        (IN_ATTENTION, {"ending": "timeout", "overrun": SLOW}, "no time: after 120 s (ATTN_TIMEOUT)"),
        (IN_ATTENTION, {"ending": "killed", "number": 9}, "memory ran out"),
        (IN_ATTENTION, {"ending": "killed", "number": 11, "out_of_memory": True}, "memory ran out"),
        (IN_ATTENTION, {"ending": "exited", "number": 1, "log": "KeyError: 'x'"}, "ended with code 1"),
        ((StageEvent(name="import"),), {"ending": "killed", "number": 11}, "SIGSEGV in import"),
        ((SHRUNK, StageEvent(name="compare", detail="reference")), {"ending": "killed", "number": 11}, "SIGSEGV"),
        ((LeftEvent(reason="its model is odd"), EndEvent(seconds={}, peak=None, written={})), {}, "its model is odd"),
        ((EndEvent(seconds={}, peak=None, written={"compared": 1}),), {}, "did not all arrive"),
        ((EndEvent(seconds={}, peak=None, written={}),), {}, "without comparing"),
    ],
)
def test_what_says_nothing_of_the_run_lets_it_start(events: Any, how: dict[str, Any], word: str) -> None:
    found = said(left(*events, **how))
    assert (found.verdict, found.code) == ("NOT_CHECKED", Code.PASS)
    assert found.what.startswith("Not rehearsed: ")
    assert word in found.what


@pytest.mark.parametrize(
    ("event", "word"),
    [
        (replace(COMPARED, reference=None), "loss is not finite"),
        (replace(COMPARED, gradients=(replace(Q, norm=None),)), "no gradient"),
        (replace(COMPARED, gradients=()), "no gradient"),
    ],
)
def test_a_comparison_with_nothing_is_none(event: ComparedEvent, word: str) -> None:
    found = said(whole(compared=event))
    assert found.verdict == "NOT_CHECKED"
    assert word in found.what


def test_what_was_found_wrong_before_the_time_was_up_stays_wrong() -> None:
    events = (*IN_ATTENTION, replace(COMPARED, run=6.9), replace(LEAK, run=0.05))
    assert said(left(*events, ending="timeout", overrun=SLOW)).kind == "leak"
    assert said(left(*events[:-1], ending="timeout", overrun=SLOW)).kind == "numbers"


# ---- what the user has accepted ----


def test_a_rule_about_something_else_neither_advises_nor_excuses() -> None:
    """P07 is about memory; that P03 was accepted says nothing of a gradient that is cut."""
    config = {"sample_packing": True, "pad_to_sequence_len": False}
    cut = whole(compared=replace(COMPARED, gradients=(replace(Q, error=1.0, ratio=0.0), DOWN)))
    found = said(cut, flight(config, allowed="P03"))
    assert (found.verdict, found.code) == ("FAIL", Code.WRONG)
    assert "[P0" not in found.advice


def test_a_refusal_that_was_accepted_is_not_held_against_the_run_again() -> None:
    outcome = whole(leak=replace(LEAK, run=0.05))
    found = said(outcome, flight({"sample_packing": True}, allowed="P03"))
    assert (found.verdict, found.code) == ("DEGRADED", Code.PASS)
    assert "accepted by ATTN_ALLOW=P03" in found.what
