"""What is said of a group of ranks: bandwidth and floors, and who is named when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from entrypoint.children.gang import ON_A_CPU, plan
from entrypoint.children.ranks import RankFacts, Ranks
from entrypoint.collective import patterns
from entrypoint.collective.board import Board, Membership, Place
from entrypoint.collective.events import (
    OPERATIONS,
    AloneEvent,
    CollectiveEvent,
    LocalEvent,
    Operation,
    OverEvent,
    ProgressEvent,
    RankEvent,
    State,
    Step,
    TroubleEvent,
    decode,
    encode,
)
from entrypoint.errors import ConfigError, MismatchError
from entrypoint.events import Garbled
from entrypoint.judge.collective import judge_collective
from entrypoint.judge.fabric import bus_bandwidth, floor_of
from entrypoint.judge.finding import Finding
from entrypoint.report.collected import document, lines

GIB = 1 << 30
H200 = "NVIDIA H200"


def who(rank: int, count: int, model: str = H200, *, multicast: bool = True, nodes: int = 1) -> RankEvent:
    return RankEvent(
        rank=rank,
        world_size=count,
        node=f"gpu-{rank * nodes // count}",
        device=f"cuda:{rank}",
        name=model,
        uuid=f"GPU-{rank}",
        backend="nccl",
        torch="2.11.0",
        nccl="2.27.5",
        multicast=multicast,
        variables={},
    )


def seconds_at(operation: Operation, rate: float, count: int) -> float:
    """How long GIB takes at `rate` GB/s of bus bandwidth."""
    return bus_bandwidth(operation, GIB, 1.0, count) / rate


def measured(operation: Operation, rank: int, count: int, rate: float) -> CollectiveEvent:
    seconds = seconds_at(operation, rate, count)
    return CollectiveEvent(
        rank=rank,
        operation=operation,
        size=GIB,
        seconds=seconds,
        held=0.0001,
        samples=(seconds,),
        wrong=0,
        wrong_from={},
    )


def at(rank: int, step: Step, state: State, **other: float) -> ProgressEvent:
    """A place that a rank has not left for a minute, when it gave up; `other` are further fields."""
    place = ProgressEvent(rank=rank, step=step, size=GIB, round=0, state=state, since=60.0, last=True)
    return replace(place, **other)  # type: ignore[arg-type]  # each by its field's type


def group(count: int = 8, model: str = H200, **differs: bool) -> Ranks:
    """A healthy group on one machine: 440 GB/s for all-reduce, 361 for the other two."""
    ranks = Ranks(world_size=count, ours=tuple(range(count)), seconds=120.0)
    for facts in ranks.every:
        rank = facts.rank
        facts.who = who(rank, count, model, **differs)
        facts.local = LocalEvent(rank=rank, wrong=0, seconds=0.001, samples=(0.001,))
        facts.alone = AloneEvent(rank=rank, wrong={}, itself=0)
        facts.over = OverEvent(rank=rank, seconds={"all-reduce": 0.5})
        facts.ending = "over"
        for operation in OPERATIONS:
            rate = 440.0 if operation == "all-reduce" else 361.0
            facts.take(measured(operation, rank, count, rate))
    return ranks


def slowed(ranks: Ranks, operation: Operation, rate: float) -> Ranks:
    for facts in ranks.every:
        facts.take(measured(operation, facts.rank, ranks.world_size, rate))
    return ranks


def worst(ranks: Ranks, *, fails: bool = False) -> Finding:
    return judge_collective(ranks, fails=fails)[0]


def stuck(ranks: Ranks, **places: ProgressEvent) -> Ranks:
    """Nobody got through: `others` stand at one place, and the ranks that are named (r3=…) at theirs."""
    for facts in ranks.every:
        facts.over = None
        facts.ending = "gave-up"
        facts.collectives.clear()
        place = places.get(f"r{facts.rank}", places["others"])
        facts.progress = replace(place, rank=facts.rank)
    return ranks


# --- bandwidth and floors -----------------------------------------------------------------------------------------


def test_bus_bandwidth_is_as_nccl_tests_counts_it() -> None:
    """doc/PERFORMANCE.md: all-reduce 2 (n-1)/n of size over time, the other two (n-1)/n."""
    assert bus_bandwidth("all-reduce", 8_000_000_000, 1.0, 4) == pytest.approx(12.0)
    assert bus_bandwidth("all-gather", 8_000_000_000, 1.0, 4) == pytest.approx(6.0)
    assert bus_bandwidth("reduce-scatter", 8_000_000_000, 0.5, 2) == pytest.approx(8.0)


def test_a_healthy_group_passes() -> None:
    found = worst(group())
    assert found.verdict == "PASS"
    assert found.what == (
        "8 ranks compute exact integers; GB/s of bus bandwidth at 1 GiB: all-reduce 440, all-gather 361, "
        "reduce-scatter 361."
    )


@pytest.mark.parametrize(
    ("ranks", "operation", "expected"),
    [
        (group(), "all-reduce", 370.0),
        (group(model="NVIDIA H100 80GB HBM3"), "all-gather", 290.0),
        (group(multicast=False), "all-reduce", 290.0),
        (group(model="NVIDIA B200"), "all-reduce", 580.0),
        (group(model="NVIDIA B200"), "all-gather", None),
        (group(model="NVIDIA A100-SXM4-80GB", multicast=False), "all-reduce", 180.0),
        (group(model="NVIDIA H100 PCIe"), "all-reduce", None),
        (group(count=4), "all-reduce", None),
    ],
)
def test_a_floor_is_of_a_machine_that_is_known(ranks: Ranks, operation: Operation, expected: float | None) -> None:
    floor = floor_of(ranks, operation, GIB)
    assert (floor.gigabytes_per_second if floor else None) == expected
    assert floor is None or floor.source.startswith("https://")
    assert floor_of(ranks, operation, GIB // 4) is None


def test_two_nodes_have_no_floor() -> None:
    ranks = group()
    for facts in ranks.every:
        facts.who = who(facts.rank, 8, nodes=2)
    assert floor_of(ranks, "all-reduce", GIB) is None


def test_nccl_without_nvls_is_judged_without_it() -> None:
    """The user has switched it off, which this leaves so."""
    ranks = slowed(group(), "all-reduce", 350.0)
    assert worst(ranks).kind == "slow-bus"
    for facts in ranks.every:
        facts.who = replace(who(facts.rank, 8), variables={"NCCL_NVLS_ENABLE": "0"})
    assert worst(ranks).verdict == "PASS"


def test_slow_links_are_degraded_or_fail() -> None:
    ranks = slowed(group(), "all-gather", 200.0)
    assert (worst(ranks).verdict, worst(ranks).code.value) == ("DEGRADED", 0)
    assert worst(ranks, fails=True).code.value == 93
    assert "node gpu-0 are slow: all-gather reaches 200 GB/s, and should reach 290" in worst(ranks).what


# --- who is slow --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "slow"), [(1.04, False), (1.06, True)])
def test_a_gpu_off_its_siblings_is_named(factor: float, slow: bool) -> None:
    ranks = group()
    ranks.facts[3].local = LocalEvent(rank=3, wrong=0, seconds=0.001 * factor, samples=())
    assert (worst(ranks).kind == "slow-rank") == slow
    assert worst(ranks).what.startswith("rank 3 (node gpu-0, cuda:3) is slow: a sum of its own") == slow


def test_gpus_of_two_models_are_not_compared() -> None:
    ranks = group(count=2)
    ranks.facts[1].who = who(1, 2, "NVIDIA L4")
    ranks.facts[1].local = LocalEvent(rank=1, wrong=0, seconds=0.01, samples=())
    assert worst(ranks).verdict == "PASS"


def test_a_rank_whose_calls_take_long_is_named() -> None:
    ranks = group()
    late = ranks.facts[5].collectives["all-gather", GIB]
    ranks.facts[5].take(replace(late, held=0.9 * late.seconds))
    assert "rank 5 (node gpu-0, cuda:5) is slow: its call of all-gather of 1 GiB" in worst(ranks).what


# --- who is wrong -------------------------------------------------------------------------------------------------


def test_who_adds_wrong_by_itself_is_named_before_what_follows() -> None:
    ranks = group()
    for facts in ranks.every:
        facts.take(replace(facts.collectives["all-reduce", GIB], wrong=5))
    ranks.facts[2].local = LocalEvent(rank=2, wrong=7, seconds=0.001, samples=())
    assert worst(ranks).what == (
        "rank 2 (node gpu-0, cuda:2) adds wrong without any other rank: 7 numbers of its own sum are not exact."
    )
    assert worst(ranks).code.value == 92


def test_whose_numbers_arrive_wrong_everywhere_is_named() -> None:
    ranks = group()
    for facts in ranks.every:
        facts.take(replace(facts.collectives["all-gather", GIB], wrong=1, wrong_from={"6": 1}))
    assert "rank 6 (node gpu-0, cuda:6) computes wrong" in worst(ranks).what


def test_who_alone_sees_wrong_numbers_is_named() -> None:
    ranks = group()
    ranks.facts[4].take(replace(ranks.facts[4].collectives["reduce-scatter", GIB], wrong=1))
    assert "rank 4 (node gpu-0, cuda:4) computes wrong" in worst(ranks).what


def test_who_is_wrong_in_a_group_of_one_is_named() -> None:
    """What a rank adds to every sum cannot be seen in a sum; by itself there is nobody else to have added it."""
    ranks = group(count=2)
    for facts in ranks.every:
        facts.take(replace(facts.collectives["all-reduce", GIB], wrong=1))
        facts.alone = AloneEvent(rank=facts.rank, wrong={"0": 1, "1": 1}, itself=facts.rank)
    assert "rank 1 (node gpu-0, cuda:1) computes wrong" in worst(ranks).what


@pytest.mark.parametrize(("seen_by", "named"), [(4, "rank 0"), (5, "rank 6")])
def test_whose_numbers_arrive_wrong_is_named_by_most(seen_by: int, named: str) -> None:
    """Fewer than most may as well have received them wrong."""
    ranks = group()
    for facts in ranks.every[:seen_by]:
        facts.take(replace(facts.collectives["all-gather", GIB], wrong=1, wrong_from={"6": 1}))
    assert worst(ranks).what.startswith(named)


def test_who_cannot_be_told_is_not_named() -> None:
    ranks = group()
    for facts in ranks.every:
        facts.take(replace(facts.collectives["all-reduce", GIB], wrong=1))
    assert "whose fault it is cannot be told" in worst(ranks).what
    assert worst(ranks).code.value == 92


def test_wrong_is_worse_than_slow() -> None:
    ranks = slowed(group(), "all-gather", 100.0)
    ranks.facts[4].take(replace(ranks.facts[4].collectives["reduce-scatter", GIB], wrong=1))
    assert worst(ranks, fails=True).code.value == 92


# --- who did not get through --------------------------------------------------------------------------------------


def test_who_hangs_is_who_is_behind() -> None:
    ranks = stuck(group(), others=at(0, "all-reduce", "inside", round=24), r3=at(3, "all-reduce", "late", round=2))
    assert worst(ranks).code.value == 94
    assert "rank 3 (node gpu-0, cuda:3) hangs before all-reduce of 1 GiB, round 3: 7 of 8 ranks" in worst(ranks).what


def test_all_in_the_same_place_name_nobody() -> None:
    ranks = stuck(group(), others=at(0, "all-reduce", "inside"))
    assert worst(ranks).code.value == 94
    assert worst(ranks).what.startswith("All 8 ranks hang in all-reduce of 1 GiB, round 1")


def test_all_that_still_move_are_slow_and_not_hung() -> None:
    ranks = stuck(group(), others=at(0, "all-reduce", "inside", since=0.5), r3=at(3, "all-reduce", "late", since=0.5))
    assert (worst(ranks).verdict, worst(ranks).code.value) == ("NOT_CHECKED", 91)


def test_of_a_short_limit_a_quarter_is_still() -> None:
    place = at(0, "all-reduce", "inside", since=5.0)
    assert worst(stuck(group(), others=place)).kind == "too slow"
    short = stuck(group(), others=place)
    short.seconds = 12.0
    assert worst(short).kind == "hang"


def test_what_had_to_be_ended_did_not_move() -> None:
    """A rank that is stopped as a whole has not told since when it is."""
    ranks = stuck(group(count=2), others=at(0, "all-reduce", "inside", since=0.0))
    ranks.facts[1].ending, ranks.facts[1].progress = "timeout", at(1, "all-reduce", "late", since=0.0)
    assert "rank 1 (node gpu-0, cuda:1) hangs before all-reduce" in worst(ranks).what


def test_a_hang_before_torch_is_there_is_no_gpus() -> None:
    ranks = stuck(group(), others=at(0, "join", "inside", size=0), r3=at(3, "import", "late", size=0))
    assert worst(ranks).code.value == 95


def test_a_crash_comes_before_what_others_say_of_it() -> None:
    ranks = stuck(group(), others=at(0, "all-gather", "inside"))
    trouble = TroubleEvent(rank=0, step="all-gather", size=GIB, reason="DistError: closed by peer", out_of_memory=False)
    ranks.facts[0].trouble = trouble
    ranks.facts[1].ending, ranks.facts[1].number = "killed", 11
    assert "rank 1 (node gpu-0, cuda:1) crashed" in worst(ranks).what
    assert "SIGSEGV" in worst(ranks).what


def test_a_rank_that_is_gone_elsewhere_is_what_others_complain_about() -> None:
    """Under torchrun it is no process of ours: it stopped saying where it is."""
    ranks = stuck(group(), others=at(0, "all-gather", "inside"))
    trouble = TroubleEvent(rank=0, step="all-gather", size=GIB, reason="DistError: closed by peer", out_of_memory=False)
    ranks.facts[0].trouble = trouble
    gone = ranks.facts[7]
    gone.ending, gone.progress = None, replace(at(7, "all-gather", "inside"), last=False)
    assert "rank 7 (node gpu-0, cuda:7) stopped answering in all-gather of 1 GiB, round 1" in worst(ranks).what
    assert worst(ranks).code.value == 94


def test_want_of_memory_is_no_fault_of_the_gpu() -> None:
    ranks = stuck(group(), others=at(0, "all-reduce", "inside"), r2=at(2, "all-reduce", "late"))
    reason = "OutOfMemoryError: CUDA out of memory"
    ranks.facts[2].trouble = TroubleEvent(rank=2, step="all-reduce", size=GIB, reason=reason, out_of_memory=True)
    assert (worst(ranks).verdict, worst(ranks).code.value) == ("NOT_CHECKED", 95)


def test_a_rank_nobody_heard_of_is_missing() -> None:
    ranks = stuck(group(), others=at(0, "join", "inside", size=0))
    ranks.facts[5] = RankFacts(rank=5)
    assert (worst(ranks).verdict, worst(ranks).code.value) == ("NOT_CHECKED", 95)
    assert worst(ranks).what.startswith("rank 5 of 8 did not come within 120 s")


def test_a_measurement_that_got_lost_is_no_pass() -> None:
    ranks = group()
    del ranks.facts[1].collectives["all-gather", GIB]
    assert worst(ranks).verdict == "NOT_CHECKED"
    assert worst(Ranks(world_size=2, ours=(), seconds=1.0)).verdict == "NOT_CHECKED"


# --- the group and its lines --------------------------------------------------------------------------------------


def test_the_report_has_floors_and_ranks() -> None:
    part = document(group())
    rows = {row["operation"]: (round(row["gigabytes_per_second"]), row["floor"]) for row in part["bandwidth"]}
    assert rows == {"all-reduce": (440, 370.0), "all-gather": (361, 290.0), "reduce-scatter": (361, 290.0)}
    assert lines(part)[:2] == [
        ("ranks", "8 x NVIDIA H200 on node gpu-0 (NCCL 2.27.5)"),
        (
            "bus",
            "1 GiB: all-reduce 440 GB/s (floor 370); all-gather 361 GB/s (floor 290); "
            "reduce-scatter 361 GB/s (floor 290)",
        ),
    ]


def test_a_line_comes_back_as_it_went() -> None:
    event = measured("all-gather", 3, 8, 361.0)
    assert decode(encode(event).encode()) == event
    with pytest.raises(Garbled):
        decode(b'{"event": "phase", "name": "import", "detail": ""}')


def test_of_two_places_the_further_one_counts() -> None:
    """What another rank has read of a rank may be older than what that rank has written itself."""
    facts = RankFacts(rank=0)
    facts.take(at(0, "reduce-scatter", "late", size=GIB // 4))
    facts.take(at(0, "all-reduce", "inside", size=GIB))
    facts.take(at(0, "reduce-scatter", "inside", size=GIB // 4))
    assert (facts.progress or at(0, "leave", "late")).size == GIB


def test_sums_of_all_ranks_are_exact_in_float32() -> None:
    assert patterns.PERIOD * sum(patterns.factors(7_800)) <= 2**24


def test_ranks_are_the_gpus_or_two_on_a_cpu() -> None:
    assert plan({}, "cuda", 8).world_size == 8
    assert plan({}, "cpu", 0).world_size == ON_A_CPU
    assert {each["RANK"] for each in plan({}, "cuda", 4).ranks.values()} == {"0", "1", "2", "3"}
    assert plan({"OMP_NUM_THREADS": "4"}, "cuda", 2).ranks[0]["OMP_NUM_THREADS"] == "4"
    with pytest.raises(MismatchError, match="one is in reach"):
        plan({}, "cuda", 1)


def test_torchruns_variables_are_not_touched() -> None:
    group_of = {"RANK": "3", "WORLD_SIZE": "16", "MASTER_ADDR": "gpu-0", "MASTER_PORT": "29500"}
    starting = plan(group_of, "cuda", 8)
    assert (starting.world_size, dict(starting.ranks)) == (16, {3: {}})
    with pytest.raises(ConfigError, match="MASTER_PORT"):
        plan({name: value for name, value in group_of.items() if name != "MASTER_PORT"}, "cuda", 8)


def test_a_place_is_the_lesser_of_the_hosts_and_the_devices() -> None:
    """A call returns before the GPU has done anything; and a GPU that is lost raises whenever it is asked."""

    def lost() -> tuple[int, State]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    board = Board.__new__(Board)
    board._group = Membership(rank=1, world_size=2, local_rank=1, address="x", port=1)
    board._gives_up = False
    board._place = Place("all-reduce", GIB, 24, "inside", 0.0)
    board.device_position = lambda: (3, "late")
    assert (board._progress().round, board._progress().state) == (3, "late")
    board.device_position = lost
    assert (board._progress().round, board._progress().state) == (24, "inside")
    board.device_position = None
    assert board._progress().round == 24
