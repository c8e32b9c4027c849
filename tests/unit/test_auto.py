"""ATTN_BACKEND=auto: which backends may be tried, which one is taken, and how the command is made to ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from entrypoint.auto import contest, copy
from entrypoint.auto.candidates import Candidate, candidates
from entrypoint.auto.choice import Timed, pick, rows, weigh
from entrypoint.auto.contest import Contest, hold
from entrypoint.children.outcome import Ending, Outcome, Overrun
from entrypoint.errors import ConfigError
from entrypoint.events import DIRECTIONS, CaseEvent, SpeedEvent, TensorErrors, TensorName
from entrypoint.preflight import config
from entrypoint.preflight.commandline import parse, replaced
from entrypoint.preflight.facts import Facts
from entrypoint.preflight.judge import KEYS, apply, judge
from entrypoint.race.contestant import Contestant, from_json, to_json
from entrypoint.shape import Shape
from tests.unit.preflight_cases import facts

SITE = Path(yaml.__file__).parents[1]
GOOD = TensorErrors(error=0.002, baseline=0.002, relative=0.002, baseline_relative=0.002, scale=1.0, finite=True)
BAD = replace(GOOD, error=0.9, relative=0.9)


def of(image: str, gpu: str, model: str | None = "llama", **keys: Any) -> Facts:
    entry = {"config": keys, "model": model, "axolotl": "0.17.0" if image.endswith("cu128") else "0.19.0"}
    return facts(entry, image, gpu)


def found(given: Facts, accepted: frozenset[str] = frozenset(), *, fixed: bool = False) -> dict[str, Candidate]:
    return {item.backend: item for item in candidates(given, accepted, fixed=fixed)}


# --- candidates ---------------------------------------------------------------------------------------------------


def test_every_backend_of_the_image_is_one_and_cudnn_is_a_kernel_of_sdpa() -> None:
    """What the configuration asks for stays as it is; the others get their key."""
    given = found(of("fa4-cu130", "H100", attn_implementation="sdpa", sample_packing=True))

    assert {name: item.reason for name, item in given.items()} == dict.fromkeys(("fa4", "flex", "sdpa", "sdpa-cudnn"))
    assert {name: dict(item.change) for name, item in given.items()} == {
        "fa4": {"attn_implementation": "flash_attention_4"},
        "flex": {"attn_implementation": "flex_attention"},
        "sdpa": {},
        "sdpa-cudnn": {},
    }


def test_packing_makes_one_row_but_for_sdpa_whose_own_function_axolotl_replaces() -> None:
    """0.19.0's core/builders/causal.py and its varlen attention; multipack_real_batches outdoes the first."""
    packed = found(of("fa4-cu130", "H100", attn_implementation="sdpa", sample_packing=True, micro_batch_size=2))
    entered = {name: item.contestant for name, item in packed.items()}

    def told(name: str) -> tuple[str, bool, bool]:
        contestant = entered[name]
        assert contestant is not None
        return contestant.attention, contestant.one_row, contestant.varlen

    assert told("fa4") == ("flash_attention_4", True, False)
    assert told("flex") == ("flex_attention", True, False)
    assert told("sdpa") == ("sdpa", False, True)
    windowed = found(of("fa4-cu130", "H100", "mistral-window", attn_implementation="sdpa", sample_packing=True))["sdpa"]
    assert windowed.contestant is not None
    assert not windowed.contestant.varlen
    real = found(of("fa4-cu130", "H100", sample_packing=True, multipack_real_batches=True))["flex"]
    assert real.contestant is not None
    assert not real.contestant.one_row


def test_who_cannot_be_one_has_its_reason() -> None:
    """The rule's id and words, another GPU, no gradients, no name in Axolotl."""
    gemma = found(of("fa4-cu130", "H100", "gemma2", attn_implementation="eager"))
    assert "[M06] sdpa drops the softcap 50" in (gemma["sdpa"].reason or "")
    assert gemma["flex"].reason is None
    assert found(of("fa4-cu130", "A100"))["fa4"].reason == "not for this GPU (compute capability 8.0)"
    assert found(of("sage-cu130", "L40S"))["sage"].reason == "no gradients"
    assert found(of("s2-cu130", "H100"))["s2"].reason == "no attention of Axolotl trains with it"


def test_another_kernel_in_its_place_is_no_candidate() -> None:
    """0.19.0 runs FlashAttention 4 for flash_attention_2 where it can."""
    given = found(of("all-cu130", "H100", attn_implementation="flash_attention_2"))

    assert given["fa4"].change == {}
    assert given["fa2"].reason == "Axolotl runs flash_attention_4 when flash_attention_2 is asked for"


def test_a_refusal_of_what_is_asked_for_is_cured_by_another_backend() -> None:
    """I02: flash-attn is not in the image. An accepted rule does not count."""
    asked = of("sdpa-cu130", "H100", attn_implementation="flash_attention_2")
    assert {item.id for item in judge(asked)[1] if item.level == "refuse"} == {"I02"}
    assert found(asked)["sdpa"].change == {"attn_implementation": "sdpa"}

    old = of("fa4-cu130", "H100", flash_attention=True, flex_attention=False)
    assert found(old)["fa4"].change == {}  # flash_attention means any of them there
    assert found(old)["sdpa"].change == {"attn_implementation": "sdpa", "flash_attention": None}


def test_a_refusal_of_all_leaves_none() -> None:
    """I09: deepspeed is in no image, whatever attention runs."""
    given = found(of("fa4-cu130", "H100", attn_implementation="sdpa", deepspeed="zero3.json"))
    assert all("[I09]" in (item.reason or "") for item in given.values())
    accepted = found(of("fa4-cu130", "H100", attn_implementation="sdpa", deepspeed="zero3.json"), frozenset({"I09"}))
    assert accepted["fa4"].reason is None


def test_a_command_that_does_not_name_its_configuration_keeps_its_keys() -> None:
    given = found(of("fa4-cu130", "H100", attn_implementation="sdpa"), fixed=True)
    assert given["sdpa"].reason is None
    assert given["sdpa-cudnn"].reason is None
    assert "does not name its configuration" in (given["fa4"].reason or "")


def test_packing_itself_is_never_changed() -> None:
    """0.16.1 keeps packed documents apart in sdpa only without packing."""
    entry = {"config": {"sample_packing": True, "flex_attention": True}, "model": "llama"}
    given = found(facts(entry, "sdpa-cu128", "H100"))
    assert given["sdpa"].reason == "only with sample_packing: False"


# --- choice -------------------------------------------------------------------------------------------------------


def case(name: str, numbers: TensorErrors = GOOD, missing: str | None = None) -> CaseEvent:
    tensors: dict[TensorName, TensorErrors | None] = {"out": GOOD, "dq": GOOD, "dk": numbers, "dv": GOOD}
    return CaseEvent(id=name, dtype="bfloat16", inputs="normal", seconds=0.1, tensors=tensors, no_gradient=missing)


def speeds(name: str, *milliseconds: float) -> list[SpeedEvent]:
    return [
        SpeedEvent(
            id=name, direction=direction, call="", tflops=1.0, seconds=taken / 1e3, samples=(taken / 1e3,), planned=1
        )
        for direction, taken in zip(DIRECTIONS, milliseconds, strict=True)
    ]


def test_a_time_is_the_last_one_told_and_the_mean_of_the_kinds_of_layers() -> None:
    events = [*speeds("fa4/full", 9.0, 9.0), *speeds("fa4/full", 1.0, 2.0), *speeds("fa4/window", 3.0, 4.0)]
    timed = weigh("fa4", [case("fa4/full"), case("fa4/window")], [*events, *speeds("flex/full", 0.1, 0.1)])

    assert timed.reason is None
    assert (timed.forward, timed.backward) == pytest.approx((2.0, 3.0))
    assert weigh("fa4", [case("fa4/full"), case("fa4/window")], speeds("fa4/full", 1, 1)).reason == "it was not timed"


@pytest.mark.parametrize(
    ("broken", "says"),
    [(case("fa4/window", BAD), "dk is off by 0.9"), (case("fa4/window", missing="no gradient reaches q"), "reaches q")],
)
def test_a_wrong_one_is_out_whatever_its_time(broken: CaseEvent, says: str) -> None:
    timed = weigh("fa4", [case("fa4/full"), broken], [*speeds("fa4/full", 1, 1), *speeds("fa4/window", 1, 1)])

    assert (timed.failed, timed.total) == ("wrong", None)
    assert says in (timed.reason or "")
    assert "in window layers" in (timed.reason or "")


def timed(backend: str, total: float | None, **fields: Any) -> Timed:
    half = None if total is None else total / 2
    return Timed(backend=backend, forward=half, backward=half, **fields)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ([timed("fa4", 1.0), timed("sdpa", 2.0)], "fa4"),
        ([timed("fa4", 2.0), timed("sdpa", 1.0)], "sdpa"),
        ([timed("fa4", 1.01), timed("sdpa", 1.0)], "fa4"),  # a tie: the image's order
        ([timed("fa4", 1.04), timed("sdpa", 1.0)], "sdpa"),
        ([timed("fa4", None, reason="it crashed", failed="broken"), timed("sdpa", 9.0)], "sdpa"),
        ([timed("fa4", None, reason="it was not done"), timed("sdpa", None, reason="it was not done")], "fa4"),
        ([timed("fa4", None, reason="x", failed="broken"), timed("sdpa", None, reason="it was not done")], "sdpa"),
        ([timed("fa4", None, reason="x", failed="wrong"), timed("sdpa", None, reason="x", failed="memory")], None),
    ],
)
def test_the_fastest_right_one_is_taken(given: Sequence[Timed], taken: str | None) -> None:
    """Never one that failed; where there was time for none, the first that has not."""
    best = pick(given)
    assert (best.backend if best else None) == taken


def test_the_report_has_a_row_for_each_backend() -> None:
    known = (
        Candidate(backend="fa4", contestant=Contestant(backend="fa4", attention="flash_attention_4")),
        Candidate(backend="sage", reason="no gradients"),
    )
    fast, none = rows(known, [timed("fa4", 3.0)], "fa4")

    assert (fast["milliseconds"], fast["reason"], fast["taken"]) == ({"forward": 1.5, "backward": 1.5}, None, True)
    assert (none["milliseconds"], none["reason"], none["taken"]) == (None, "no gradients", False)


# --- contest ------------------------------------------------------------------------------------------------------

SHAPE = Shape(heads=2, kv_heads=1, head_dim=64, value_dim=64, scale=0.125, rows=1, length=64, dtype="bfloat16")
ENTERED = tuple(Contestant(backend=name, attention=name) for name in ("fa4", "flex", "sdpa"))


def outcome(ending: Ending = "done", detail: str = "", **fields: Any) -> Outcome:
    return Outcome(device="cuda:0", backend="auto", ending=ending, phase="correctness", detail=detail, **fields)


def right(*names: str) -> dict[str, Any]:
    return {
        "cases": [case(f"{name}/full") for name in names],
        "speeds": [speed for name in names for speed in speeds(f"{name}/full", 1.0, 2.0)],
    }


def held(monkeypatch: pytest.MonkeyPatch, *outcomes: Outcome, deadline: float = 1e9) -> tuple[list[Timed], list[str]]:
    """The results, and who was in each child."""
    coming, asked = iter(outcomes), []

    def child(_: Contest, contestants: Sequence[Contestant], _shape: Shape) -> Outcome:
        asked.append(",".join(item.backend for item in contestants))
        return next(coming)

    monkeypatch.setattr(contest, "_child", child)
    given = Contest(home="/", environ={}, device="cuda:0", deadline=deadline)
    return list(hold(given, ENTERED, SHAPE).timed), asked


def test_all_are_timed_in_one_child(monkeypatch: pytest.MonkeyPatch) -> None:
    results, asked = held(monkeypatch, outcome(**right("fa4", "flex", "sdpa")))
    assert asked == ["fa4,flex,sdpa"]
    assert [item.total for item in results] == [pytest.approx(3.0)] * 3


def test_a_crash_of_one_does_not_lose_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    crashed = outcome("killed", "flex", number=11, cases=[case("fa4/full")])
    results, asked = held(monkeypatch, crashed, outcome(**right("fa4", "sdpa")))

    assert asked == ["fa4,flex,sdpa", "fa4,sdpa"]
    assert [(item.failed, item.reason) for item in results] == [
        (None, None), ("broken", "it crashed (SIGSEGV)"), (None, None),
    ]  # fmt: skip


def test_who_was_timed_before_another_crashed_is_not_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    results, asked = held(monkeypatch, outcome("killed", "flex", number=9, **right("fa4", "sdpa")))
    assert asked == ["fa4,flex,sdpa"]
    assert [item.failed for item in results] == [None, "broken", None]


@pytest.mark.parametrize(("computing", "failed"), [(True, None), (False, "broken")])
def test_a_hang_is_a_failure_and_a_slow_machine_is_none(
    monkeypatch: pytest.MonkeyPatch, *, computing: bool, failed: str | None
) -> None:
    overrun = Overrun(lasted=30.0, computing=computing, processor="x", processors=2)
    results, _ = held(monkeypatch, outcome("timeout", "fa4", overrun=overrun), deadline=0.0)
    assert (results[0].failed, results[0].reason) == (failed, "it was not done when the time was up")
    assert results[1].failed is None


def test_a_child_that_fails_before_anybody_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Outcome(device="cuda:0", backend="auto", ending="exited", number=1, phase="import", log="a\nImportError: x")
    results, asked = held(monkeypatch, ended)
    assert asked == ["fa4,flex,sdpa"]
    assert {(item.failed, item.reason) for item in results} == {
        ("unstarted", "its process ended with 1: ImportError: x")
    }


def test_contestants_survive_a_command_line() -> None:
    assert from_json(to_json(ENTERED)) == ENTERED


# --- the copy and the command -------------------------------------------------------------------------------------


def test_the_copy_is_the_file_with_attentions_keys_changed() -> None:
    """Neither flags nor what only a flag set; an old boolean goes, an own key of the user stays."""
    file = {"flash_attention": True, "micro_batch_size": 1, "x": {"y": [1]}}
    values = {**file, "micro_batch_size": 4, "attn_implementation": "sdpa"}
    values.pop("flash_attention")

    after = copy.merged(file, values)

    assert after == {"micro_batch_size": 1, "x": {"y": [1]}, "attn_implementation": "sdpa"}
    assert copy.difference(file, after) == ["+ attn_implementation: sdpa", "- flash_attention: true"]


@pytest.mark.parametrize(
    "text",
    [
        "lr: 2e-4\nb: 2.0e-5\nc: yes\nd: 'no'\ne: 1_000\n",
        "t: |\n  {{ ä }}\n  b\nd: 2020-01-01\nn: ~\n",
        "a: &x [1]\nb: *x\n",
    ],
)
def test_a_file_that_is_written_again_reads_the_same(text: str) -> None:
    """YAML 1.1 reads 2e-4 as a string and 2.0e-5 as a number, and Axolotl with it."""
    values, _ = config.parse(text, "x", SITE)
    assert yaml.safe_load(config.dump(values, SITE)) == values == yaml.safe_load(text)


def test_the_copy_is_written_once_under_the_name_of_its_content(tmp_path: Path) -> None:
    path = copy.write("a: 1\n", {"TMPDIR": str(tmp_path)})
    assert path == copy.write("a: 1\n", {"TMPDIR": str(tmp_path)})
    assert (path.parent, path.read_text(), path.suffix) == (tmp_path / "attn/config", "a: 1\n", ".yml")

    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        copy.write("a: 1\n", {"TMPDIR": str(tmp_path / "file")})


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("axolotl train c.yml --lr 1", "axolotl train NEW --lr 1"),
        ("axolotl train --attn-implementation x c.yml --sample-packing", "axolotl train NEW --sample-packing"),
        ("axolotl train c.yml --attn-implementation=x --no-flash-attention -- --n 2", "axolotl train NEW -- --n 2"),
        ("axolotl train --debug c.yml", "axolotl train --debug NEW"),
        ("accelerate launch -m axolotl.cli.train c.yml --sdp_attention", "accelerate launch -m axolotl.cli.train NEW"),
        ("torchrun -m axolotl.cli.train --config c.yml --x 1", "torchrun -m axolotl.cli.train --config=NEW --x 1"),
        ("python -m axolotl.cli train c.yml", "python -m axolotl.cli train NEW"),
    ],
)  # fmt: skip
def test_the_copy_takes_the_configurations_place_in_the_command(command: str, expected: str) -> None:
    """And flags that set attention's keys go: they would outdo the file."""
    after = replaced(command.split(), "NEW", KEYS)

    assert after == tuple(expected.split())
    request = parse(after or ())
    assert request is not None
    assert request.config == "NEW"
    assert not {key for key, _ in request.flags} & {*KEYS}


@pytest.mark.parametrize("command", ["true", "sh -c axolotl", "axolotl train", "axolotl", ""])
def test_a_command_without_a_configuration_cannot_be_changed(command: str) -> None:
    assert replaced(command.split(), "NEW", KEYS) is None


def test_a_flag_that_strict_drops_is_not_judged_where_the_change_stands_for_it() -> None:
    """K13: --attn-implementation has no effect where the file lacks the key; the copy has it."""
    entry = {"config": {"strict": True}, "flags": [["attn_implementation", "sdpa"]], "model": "llama"}
    given = facts(entry, "sdpa-cu130", "H100")
    assert {item.id for item in judge(given)[1]} >= {"K13"}
    assert {item.id for item in judge(apply(given, {"attn_implementation": "sdpa"}))[1]} & {"K13"} == set()
    assert found(given)["sdpa"].change == {"attn_implementation": "sdpa"}
