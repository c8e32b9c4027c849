"""Judge a group of ranks: which one crashed, hangs, computes wrong or is slow, by its number and node. Pure."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final, Literal

from entrypoint.children.outcome import signal_name
from entrypoint.children.ranks import RankFacts, Ranks
from entrypoint.collective.events import OPERATIONS, CollectiveEvent, Operation, ProgressEvent, how_far
from entrypoint.judge.cause import cause
from entrypoint.judge.fabric import bus_bandwidth, floor_of
from entrypoint.judge.finding import Code, Finding, gpu_fault, internal, rank, slow, too_slow, wrong
from entrypoint.judge.spread import allowed

# Ranks that all moved within the last seconds before the limit (of a short one a quarter) were slow and did not hang.
MOVING: Final = 10.0
# A rank is slow where its own sum takes longer than the others' median by more than 3 median absolute deviations and
# this share. GPUs of a model differ by 1 to 2 %; processors of one machine share it with whoever else runs there.
SHARE: Final = {"nccl": 0.05, "gloo": 2.0}
# A call waits for nobody, so one that takes this share of the whole operation keeps the others waiting.
HELD: Final = 0.5
# Seconds below which a difference between ranks is the host's scheduler's: of calls (gloo computes in some), and of
# sums, which a GPU times itself.
NOISE_OF_CALLS: Final = {"nccl": 0.0005, "gloo": 0.1}
NOISE_OF_SUMS: Final = {"nccl": 0.0, "gloo": 0.05}
_LOOK: Final = "NCCL_DEBUG=INFO and NCCL_DEBUG_SUBSYS=INIT,NET show more"


def judge_collective(ranks: Ranks, *, fails: bool) -> list[Finding]:
    """Everything to be said of a group, the most serious first; `fails` is ATTN_SLOW=fail."""
    found = _unusable(ranks) or _crashed(ranks) or _missing(ranks) or _raised(ranks)
    if not found and any(facts.over is None for facts in ranks.every):
        found = _not_over(ranks)
    found = [*found, *_wrong(ranks)]
    found += [] if found else [*_incomplete(ranks), *_slow_ranks(ranks, fails=fails), *_slow_bus(ranks, fails=fails)]
    return sorted(found, key=rank) or [Finding(verdict="PASS", code=Code.PASS, kind="healthy", what=_all_right(ranks))]


def name(facts: RankFacts) -> str:
    """ "rank 3 (node gpu-17, cuda:3)"; of one that was never heard of, its number."""
    who = facts.who
    return f"rank {facts.rank}" + (f" (node {who.node}, {who.device})" if who else "")


def names(ranks: Iterable[RankFacts]) -> str:
    """Some ranks in a sentence, the first six by name."""
    every = list(ranks)
    more = f" and {len(every) - 6} more" if len(every) > 6 else ""
    return ", ".join(map(name, every[:6])) + more


def _drain(guilty: Sequence[RankFacts]) -> str:
    nodes = dict.fromkeys(facts.who.node for facts in guilty if facts.who)
    where = f"{'nodes' if len(nodes) > 1 else 'node'} {', '.join(nodes)}" if nodes else "the node of that rank"
    return f"Start the job without {where}, and drain {'them' if len(nodes) > 1 else 'it'} until tested"


# --- ranks that did not get through -------------------------------------------------------------------------------


def _unusable(ranks: Ranks) -> list[Finding]:
    """torch or the device cannot be used at all."""
    imports = [facts for facts in ranks.every if facts.trouble and facts.trouble.step == "import"]
    devices = [facts for facts in ranks.every if facts.trouble and facts.trouble.step == "device"]
    if imports:
        what = f"torch cannot be loaded on {names(imports)}: {_reason(imports[0])}"
        advice = "Use the released image, or rebuild this one."
        return [Finding(verdict="FAIL", code=Code.CONFIG, kind="import", what=what, advice=advice)]
    if devices:
        what = f"The device of {names(devices)} cannot be used: {_reason(devices[0])}"
        advice = "Compare the driver with what the image needs, or start the job on another node."
        return [Finding(verdict="NOT_CHECKED", code=Code.MISMATCH, kind="device", what=what, advice=advice)]
    return []


def _crashed(ranks: Ranks) -> list[Finding]:
    """A process of ours that ended without a word. What the others raise then only follows from it."""
    dead = [facts for facts in ranks.every if facts.ending in {"killed", "exited"}]
    if not dead:
        return []
    first = dead[0]
    if first.ending == "killed" and first.number == signal.SIGKILL:
        what = f"{names(dead)} was killed {_where(first.progress)}: by SIGKILL, as for want of memory."
        advice = "Give the container more memory (docker run --memory, Kubernetes: resources.limits.memory)."
        return [Finding(verdict="NOT_CHECKED", code=Code.INTERNAL, kind="killed", what=what, advice=advice)]
    how = f"with exit code {first.number}"
    if first.ending == "killed":
        how = f"with {signal_name(first.number)}"
    what = f"{names(dead)} crashed {_where(first.progress)}, {how}."
    return [gpu_fault("crashed", what, f"{_drain(dead)} (dmesg | grep Xid).")]


def _missing(ranks: Ranks) -> list[Finding]:
    """Ranks of which nobody ever heard, although others waited for them."""
    never = [facts for facts in ranks.every if facts.who is None and facts.progress is None]
    if not never:
        return []
    what = f"{names(never)} of {ranks.world_size} did not come within {ranks.seconds:g} s (ATTN_TIMEOUT)."
    advice = "See why on its node: the same start there, the same MASTER_ADDR and MASTER_PORT, a port that is open."
    return [Finding(verdict="NOT_CHECKED", code=Code.INTERNAL, kind="missing", what=what, advice=advice)]


def _raised(ranks: Ranks) -> list[Finding]:
    """Steps that raised. Ranks that just ended, where others had something to say, are what those complain about."""
    raised = [facts for facts in ranks.every if facts.trouble]
    if not raised:
        return []
    first = min(raised, key=lambda facts: how_far(facts.progress))
    trouble = first.trouble
    assert trouble is not None
    if trouble.out_of_memory:
        what = f"{name(first)} has no memory for {_step(trouble.step, trouble.size)}: {cause(trouble.reason)}"
        advice = "End what else runs on that GPU (nvidia-smi), and check again."
        return [Finding(verdict="NOT_CHECKED", code=Code.INTERNAL, kind="memory", what=what, advice=advice)]
    silent = [
        facts for facts in ranks.every if not (facts.trouble or facts.over or facts.progress and facts.progress.last)
    ]
    if silent and trouble.step not in {"join", "local"}:
        what = f"{names(silent)} stopped answering {_where(silent[0].progress)}; {name(first)} says:"
        return [gpu_fault("silent", f"{what} {cause(trouble.reason)}", f"{_drain(silent)}; {_LOOK}.")]
    raised = [facts for facts in raised if how_far(facts.progress) == how_far(first.progress)]
    what = f"{names(raised)} failed in {_step(trouble.step, trouble.size)}: {cause(trouble.reason)}"
    log = trouble.reason
    if trouble.step == "join":
        advice = f"{_LOOK}; a container may need --shm-size=1g or --ipc=host."
        return [Finding(verdict="NOT_CHECKED", code=Code.INTERNAL, kind="join", what=what, advice=advice, log=log)]
    if _backend(ranks) == "gloo":
        return [internal(what, kind="raised", log=log)]
    return [gpu_fault("raised", what, f"{_drain(raised)}; {_LOOK}.")]


def _not_over(ranks: Ranks) -> list[Finding]:
    """The limit came first: a machine that is too slow, or ranks that hang."""
    behind = [facts for facts in ranks.every if facts.over is None]
    if all(_moves(facts, min(MOVING, ranks.seconds / 4)) for facts in behind):
        what = f"Too slow for the limit: after {ranks.seconds:g} s (ATTN_TIMEOUT) {names(behind)} was still at work"
        return [too_slow(f"{what} {_where(behind[0].progress)}.", f"Set ATTN_TIMEOUT={3 * ranks.seconds:g}.")]
    least = min(how_far(facts.progress) for facts in behind)
    guilty = [facts for facts in behind if how_far(facts.progress) == least]
    others = [facts for facts in ranks.every if facts not in guilty]
    limit = f"within {ranks.seconds:g} s (ATTN_TIMEOUT)"
    if not others:
        what = f"All {ranks.world_size} ranks hang {_where(guilty[0].progress)}: none came out of it {limit}."
        advice = f"Which one is at fault cannot be told from that: {_LOOK}. Start the job on other nodes."
        return [gpu_fault("hang", what, advice)]
    what = (
        f"{names(guilty)} hangs {_where(guilty[0].progress)}: {len(others)} of {ranks.world_size} ranks waited for it"
    )
    if guilty[0].progress is None or guilty[0].progress.step == "import":
        return [internal(f"{what} {limit}.", kind="hang")]
    return [gpu_fault("hang", f"{what} {limit}.", f"{_drain(guilty)}; {_LOOK}.")]


def _moves(facts: RankFacts, seconds: float) -> bool:
    """Whether it was getting on at the limit. What we had to end could not say since when it did not."""
    return facts.progress is not None and facts.progress.since < seconds and facts.ending != "timeout"


def _where(progress: ProgressEvent | None) -> str:
    if progress is None:
        return "before its first step"
    into = "before" if progress.state == "late" and progress.size else "in"
    number = f", round {progress.round + 1}" if progress.step in OPERATIONS else ""
    return f"{into} {_step(progress.step, progress.size)}{number}"


def _step(step: str, size: int) -> str:
    return f"{step} of {mebibytes(size)}" if size else step


def mebibytes(size: int) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"


def _reason(facts: RankFacts) -> str:
    return cause(facts.trouble.reason) if facts.trouble else ""


def _backend(ranks: Ranks) -> Literal["nccl", "gloo"]:
    return "nccl" if any(facts.who and facts.who.backend == "nccl" for facts in ranks.every) else "gloo"


def _incomplete(ranks: Ranks) -> list[Finding]:
    """A group that is through and yet lacks a measurement was not measured."""
    sizes = {size for facts in ranks.every for _, size in facts.collectives}
    wanted = {(operation, size) for operation in OPERATIONS for size in sizes}
    short = [f for f in ranks.every if not sizes or wanted - f.collectives.keys() or not f.local or not f.alone]
    if not short:
        return []
    return [internal(f"What {names(short)} measured did not all arrive.", kind="lost")]


# --- wrong numbers ------------------------------------------------------------------------------------------------


def _wrong(ranks: Ranks) -> list[Finding]:
    """An integer that is not exact; and whose fault that is, by the most direct evidence that there is."""
    seen = [(facts, event) for facts in ranks.every for event in facts.collectives.values() if event.wrong]
    local = [facts for facts in ranks.every if facts.local and facts.local.wrong]
    if local:
        count = sum(facts.local.wrong for facts in local if facts.local)
        what = f"{names(local)} adds wrong without any other rank: {count:,} numbers of its own sum are not exact."
        return [wrong("wrong", what, f"{_drain(local)}.")]
    if not seen and not any(facts.alone and facts.alone.wrong for facts in ranks.every):
        return []
    if seen:
        facts, event = seen[0]
        first = f"{event.wrong:,} numbers of {_step(event.operation, event.size)} are not exact on {name(facts)}"
    else:
        first = "An all-reduce to which one rank at a time gives numbers is not exact"
    itself = [facts for facts in ranks.every if facts.alone and facts.alone.itself]
    if len(itself) == ranks.world_size:
        itself = []
    guilty = itself or _givers(ranks) or _receivers(ranks, seen)
    if not guilty:
        what = f"{first}, and on {len({f.rank for f, _ in seen})} of {ranks.world_size} ranks in all; whose fault it"
        advice = "Do not train on these nodes together: keep the report, and check fewer of them at a time."
        return [wrong("wrong", f"{what} is cannot be told.", advice)]
    return [wrong("wrong", f"{names(guilty)} computes wrong: {first}.", f"{_drain(guilty)}; keep the report.")]


def _givers(ranks: Ranks) -> list[RankFacts]:
    """Ranks whose own numbers arrive wrong at most others, while those of other ranks do not."""
    gathered = [
        {int(rank) for rank in event.wrong_from}
        for facts in ranks.every
        for event in facts.collectives.values()
        if event.operation == "all-gather"
    ]
    asked = [{int(rank) for rank in facts.alone.wrong} for facts in ranks.every if facts.alone]
    for views in (gathered, asked):
        by_most = [rank for rank in ranks.facts if views and 2 * sum(rank in view for view in views) > len(views)]
        if by_most and len(by_most) < ranks.world_size:
            return [ranks.facts[rank] for rank in by_most]
    return []


def _receivers(ranks: Ranks, seen: Sequence[tuple[RankFacts, CollectiveEvent]]) -> list[RankFacts]:
    """Ranks that see wrong numbers where the others see right ones."""
    few = {facts.rank for facts, _ in seen} or {f.rank for f in ranks.every if f.alone and f.alone.wrong}
    return [ranks.facts[rank] for rank in sorted(few)] if len(few) < ranks.world_size else []


# --- slow ---------------------------------------------------------------------------------------------------------


def _slow_ranks(ranks: Ranks, *, fails: bool) -> list[Finding]:
    """A rank off its siblings, whatever the bus reaches: all ranks wait for the slowest in every step of a training."""
    guilty = {facts.rank: why for facts in ranks.every if (why := _slow_alone(ranks, facts) or _late(ranks, facts))}
    if not guilty or len(guilty) == ranks.world_size:
        return []
    named = [ranks.facts[rank] for rank in guilty]
    what = f"{names(named)} is slow: {next(iter(guilty.values()))}."
    advice = f"{_drain(named)}; look at its clocks, power, cooling and other users (nvidia-smi)."
    return [slow("slow-rank", what, advice, fails=fails)]


def _slow_alone(ranks: Ranks, facts: RankFacts) -> str | None:
    """Its own sum against that of the others on the same model of GPU."""
    others = [f.local.seconds for f in _siblings(ranks, facts) if f.local]
    if not others or facts.local is None:
        return None
    middle = median(others)
    backend = _backend(ranks)
    more = max(allowed(others, SHARE[backend]), NOISE_OF_SUMS[backend])
    if facts.local.seconds <= middle + more:
        return None
    return f"a sum of its own takes {1e3 * facts.local.seconds:.3g} ms, and {1e3 * middle:.3g} ms on the others"


def _late(ranks: Ranks, facts: RankFacts) -> str | None:
    """Its calls against those of the others."""
    for key, event in facts.collectives.items():
        others = [f.collectives[key].held for f in _siblings(ranks, facts) if key in f.collectives]
        if others and event.held - median(others) > max(HELD * event.seconds, NOISE_OF_CALLS[_backend(ranks)]):
            held = f"its call of {_step(*key)} takes {1e3 * event.held:.3g} of {1e3 * event.seconds:.3g} ms"
            return f"{held}, and {1e3 * median(others):.3g} ms on the others"
    return None


def _siblings(ranks: Ranks, facts: RankFacts) -> list[RankFacts]:
    model = facts.who.name if facts.who else None
    return [f for f in ranks.every if f.rank != facts.rank and f.who and f.who.name == model]


def _slow_bus(ranks: Ranks, *, fails: bool) -> list[Finding]:
    """Bus bandwidth against what is published of such a machine; unknown never fails."""
    missed = [
        f"{operation} reaches {reached:.0f} GB/s, and should reach {floor.gigabytes_per_second:.0f}"
        for operation, size, reached in bandwidths(ranks)
        if (floor := floor_of(ranks, operation, size)) and reached < floor.gigabytes_per_second
    ]
    if not missed:
        return []
    node = ranks.facts[0].who.node if ranks.facts[0].who else "this node"
    what = f"The links between the GPUs of node {node} are slow: {'; '.join(missed)} of bus bandwidth."
    advice = f"Start the job on another node; look at NVLink (nvidia-smi nvlink -s, nvidia-smi topo -m). {_LOOK}."
    return [slow("slow-bus", what, advice, fails=fails)]


def bandwidths(ranks: Ranks) -> list[tuple[Operation, int, float]]:
    """Operation, bytes, and GB/s of bus bandwidth over the median rank's median seconds, in the order of measuring."""
    seen: dict[tuple[Operation, int], list[float]] = {}
    for facts in ranks.every:
        for event in facts.collectives.values():
            seen.setdefault((event.operation, event.size), []).append(event.seconds)
    return [
        (operation, size, bus_bandwidth(operation, size, median(seconds), ranks.world_size))
        for (operation, size), seconds in seen.items()
    ]


def _all_right(ranks: Ranks) -> str:
    largest = max((size for _, size, _ in bandwidths(ranks)), default=0)
    reached = ", ".join(f"{op} {rate:.3g}" for op, size, rate in bandwidths(ranks) if size == largest)
    return f"{ranks.world_size} ranks compute exact integers; GB/s of bus bandwidth at {mebibytes(largest)}: {reached}."
