"""The report's part `collective`, and its lines on the screen. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from entrypoint.judge.collective import bandwidths, mebibytes
from entrypoint.judge.fabric import floor_of

if TYPE_CHECKING:
    from entrypoint.children.ranks import RankFacts, Ranks


def document(ranks: Ranks) -> dict[str, Any]:
    """The group, the bus bandwidth of each operation and size in GB/s with its floor, and what each rank measured."""
    who = next((facts.who for facts in ranks.every if facts.who), None)
    return {
        "world_size": ranks.world_size,
        "ours": list(ranks.ours),
        "backend": who.backend if who else None,
        "nccl": who.nccl if who else None,
        "torch": who.torch if who else None,
        "bandwidth": [
            {
                "operation": operation,
                "size": size,
                "gigabytes_per_second": reached,
                "floor": floor.gigabytes_per_second if floor else None,
                "source": floor.source if floor else None,
            }
            for operation, size, reached in bandwidths(ranks)
            for floor in [floor_of(ranks, operation, size)]
        ],
        "ranks": [_rank(facts) for facts in ranks.every],
        "seconds": _seconds(ranks),
    }


def _rank(facts: RankFacts) -> dict[str, Any]:
    who = asdict(facts.who) if facts.who else {}
    return {
        "rank": facts.rank,
        **{key: who.get(key) for key in ("node", "device", "name", "uuid", "multicast", "variables")},
        "ending": facts.ending,
        "progress": asdict(facts.progress) if facts.progress else None,
        "trouble": asdict(facts.trouble) if facts.trouble else None,
        "local": asdict(facts.local) if facts.local else None,
        "collectives": [asdict(event) for event in facts.collectives.values()],
        "wrong_alone": dict(facts.alone.wrong) if facts.alone else None,
    }


def _seconds(ranks: Ranks) -> dict[str, float]:
    """The slowest rank's seconds by step."""
    steps: dict[str, float] = {}
    for facts in ranks.every:
        for step, seconds in (facts.over.seconds if facts.over else {}).items():
            steps[step] = max(steps.get(step, 0.0), round(seconds, 3))
    return steps


def lines(part: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and text of each line; reads reports of other versions too."""
    nodes: dict[str, list[str]] = {}
    for row in part["ranks"]:
        place = f"{row['name']} on node {row['node']}" if row["node"] else "of which nothing is known"
        nodes.setdefault(place, []).append(str(row["rank"]))
    library = f"NCCL {part['nccl']}" if part["nccl"] else part["backend"] or "not joined"
    found = [("ranks", f"{len(ranks)} x {name} ({library})") for name, ranks in nodes.items()]
    for size in dict.fromkeys(row["size"] for row in part["bandwidth"]):
        rates = [_rate(row) for row in part["bandwidth"] if row["size"] == size]
        found.append(("bus", f"{mebibytes(size)}: {'; '.join(rates)}"))
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in part["seconds"].items() if value >= 0.05)
    return [*found, *([("steps", seconds)] if seconds else [])]


def _rate(row: dict[str, Any]) -> str:
    floor = "no floor known" if row["floor"] is None else f"floor {row['floor']:.0f}"
    return f"{row['operation']} {row['gigabytes_per_second']:.3g} GB/s ({floor})"
