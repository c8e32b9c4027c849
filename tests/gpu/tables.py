"""The tables of MEASURED.md that are made from recorded runs (tests/data): `python -m tests.gpu.tables`.

It writes each table below its marker, `<!-- table: NAME -->`, anew. Standard library only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / ".github/MEASURED.md"
DATA: Final = ROOT / "tests/data"
MARKER: Final = re.compile(r"(<!-- table: ([\w-]+) -->\n\n)(?:\|[^\n]*\n)*\n?")
# Seconds of a start beyond its import, by backend: for empty caches, and for kept ones without a verdict.
PROMISED: Final = {"sdpa": 2, "fa4": 2, "xformers": 2, "flex": 5, "s2": 5}
PROMISED_KEPT: Final = {"flex": 5}
Row = Sequence[object]


def main() -> None:
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def written(page: str) -> str:
    """The page with every table as the records have it. Raises KeyError for a marker of no table."""
    return MARKER.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n", page)


def record(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((DATA / name).read_text(encoding="utf-8"))
    return read


def table(head: Row, rows: Iterator[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def spread(values: Sequence[float]) -> str:
    """ "4.2 (4.1 - 4.7)": the median, the least and the most."""
    return f"{median(values):.1f} ({min(values):.1f} - {max(values):.1f})"


def starts() -> str:
    """What a start takes: three of each, the median, and where it says so the least and the most."""
    recorded = record("starts/cu128.h200.json")
    runs = recorded["starts"]
    head = (
        "image", f"before ({recorded['before'][:7]})", "beyond import", "start",
        "beyond import", "promised", "compile, correctness, performance, machine",
    )  # fmt: skip
    return table(head, (_start(image, runs) for image in images(runs)))


def _start(image: str, runs: list[dict[str, Any]]) -> Row:
    before, now = (seconds(runs, tag, "start") for tag in (f"axolotl-attn-old:{image}", image))
    phases = ("compile", "correctness", "performance", "machine")
    cells = [cell for each in (before, now) for cell in (spread([row["total"] for row in each]), beyond(each))]
    parts = ", ".join(f"{median(row[phase] for row in now):.1f}" for phase in phases)
    promised = PROMISED[image.partition("-")[0]]
    return [f"`{image}`", *cells, promised, parts]


def kept() -> str:
    """What a kept ATTN_CACHE and a remembered verdict leave of a start, and the check's import beside a plain one."""
    runs = record("starts/cu128.h200.json")["starts"]
    head = (
        "image", "kept ATTN_CACHE without a verdict", "beyond import", "promised", "remembered, ms", "bare, ms",
        "difference, ms", "the check's import", "a plain Python's",
    )  # fmt: skip
    return table(head, (_kept(image, runs) for image in images(runs)))


def _kept(image: str, runs: list[dict[str, Any]]) -> Row:
    (warm,) = seconds(runs, image, "kept")
    remembered = [row["container"] * 1000 for row in of(runs, image, "remembered")]
    # The last ones: each stands before its remembered start.
    bare = [row["container"] * 1000 for row in of(runs, image, "bare")[-len(remembered) :]]
    more = [one - other for one, other in zip(remembered, bare, strict=True)]
    imports = (
        median(row["import"] for row in seconds(runs, image, "start")),
        median(row["import"] for row in seconds(runs, image, "import")),
    )
    return [
        f"`{image}`", f"{warm['total']:.1f}", beyond([warm]),
        PROMISED_KEPT.get(image.partition("-")[0], ""), *(f"{median(each):.0f}" for each in (remembered, bare, more)),
        *(f"{each:.1f}" for each in imports),
    ]  # fmt: skip


def deep() -> str:
    """One deep check of each image, with empty caches."""
    runs = record("starts/cu128.h200.json")["starts"]
    return table(("image", "`check --deep`", "beyond import", "cases"), (_deep(image, runs) for image in images(runs)))


def _deep(image: str, runs: list[dict[str, Any]]) -> Row:
    (row,) = of(runs, image, "deep")
    return [f"`{image}`", f"{row['seconds']['total']:.1f}", beyond([row["seconds"]]), row["cases"]]


def images(runs: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["tag"] for row in runs if ":" not in row["tag"]))


def of(runs: list[dict[str, Any]], tag: str, how: str) -> list[dict[str, Any]]:
    return [row for row in runs if (row["tag"], row["how"]) == (tag, how)]


def seconds(runs: list[dict[str, Any]], tag: str, how: str) -> list[dict[str, float]]:
    return [row["seconds"] for row in of(runs, tag, how)]


def beyond(each: list[dict[str, float]]) -> str:
    return f"{median(row['total'] - row['import'] for row in each):.1f}"


def rehearsals() -> str:
    head = ("image", "run", "verdict", "check", "rehearsal (import, load, compare, steps)", "worst, of its budget")
    return table(head, map(_rehearsal, record("rehearsals/cu128.h200.json")["runs"]))


def alone() -> str:
    """With empty caches, with kept ones without a verdict, and with everything kept."""
    head = ("image", "run", "caches", "check", "rehearsal (import, wait, load, compare, steps)", "container")
    return table(head, map(_alone, record("rehearsals/cu128.h200.alone.json")["runs"]))


def _alone(run: dict[str, Any]) -> Row:
    took = run["rehearsal"]["seconds"]
    parts = ", ".join(f"{took[name]:.1f}" for name in ("import", "wait", "load", "compare", "steps"))
    told = ["", ""] if run["cached"] else [f"{run['seconds']['total']:.1f}", f"{took['total']:.1f} ({parts})"]
    return [f"`{run['image']}`", run["name"], run["caches"], *told, f"{run['container']:.1f}"]


def _rehearsal(run: dict[str, Any]) -> Row:
    rehearsal, again = run["rehearsal"], run.get("caches") == "remembered"
    parts = ", ".join(f"{rehearsal['seconds'][name]:.1f}" for name in ("import", "load", "compare", "steps"))
    told = f"{rehearsal['verdict']}, {rehearsal['seconds']['total']:.1f} ({parts})"
    worst = max((row["ratio"] for row in rehearsal["differences"]), default=None)
    return [
        f"`{run['image']}`",
        f"{run['name']}{', caches ' + run['caches'] if run.get('caches') else ''}",
        run["verdict"] + (f" ({run['exit']})" if run["exit"] else ""),
        "" if again else f"{run['seconds']['total']:.1f}",
        f"kept; {run['container']:.1f} in all" if again else told,
        "" if worst is None else f"{worst:.2f}",
    ]


def gpus() -> str:
    """One GPU and two in turn, in seconds of the container."""
    rows = {row["name"]: row for row in record("several/h200-x2.json")["checks"]}
    pairs = [(name, name.replace("-one-", "-all-")) for name in rows if "-one-" in name]
    return table(("image", "turn", "one GPU, s", "two GPUs, s", "times"), (_pair(rows[a], rows[b]) for a, b in pairs))


def _pair(one: dict[str, Any], both: dict[str, Any]) -> Row:
    disturbed = both["verdict"] != "PASS"
    times = "disturbed" if disturbed else f"{both['container'] / one['container']:.2f}"
    return [f"`{one['image']}`", int(one["name"][-1]) + 1, f"{one['container']:.1f}", f"{both['container']:.1f}", times]


def faults() -> str:
    """Two ranks, of which one is bad: how `check --collective` ended, and the seconds of the container."""
    rows = record("several/h200-x2.json")["faults"]
    head = ("rank 1", "verdict", "code", "container, s", "what the person reads")
    return table(head, map(_fault, rows))


def _fault(row: dict[str, Any]) -> Row:
    said = row["reasons"][0].partition(". Start the job")[0]
    name = row["name"].removeprefix("rank-").replace("-", " ")
    return [name, row["verdict"], row["exit"], f"{row['container']:.1f}", said]


def collective() -> str:
    """Ours and the plain loop in turn, in GB/s."""
    rows = {row["name"]: row["bandwidth"] for row in record("several/h200-x2.json")["collective"]}
    turns = [(rows[name], rows[name.replace("collective", "plain")]) for name in rows if name.startswith("collective")]
    lines = (_operation([(ours[at], plain[at]) for ours, plain in turns]) for at in range(len(turns[0][0])))
    return table(("operation", "size, MiB", "`check --collective`", "the plain loop", "times"), lines)


def _operation(turns: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Row:
    (one, _), *_ = turns
    speeds = [(ours["gigabytes_per_second"], plain["gigabytes_per_second"]) for ours, plain in turns]
    assert {(row["operation"], row["size"]) for pair in turns for row in pair} == {(one["operation"], one["size"])}
    columns = [", ".join(f"{speed:.0f}" for speed in column) for column in zip(*speeds, strict=True)]
    times = ", ".join(f"{ours / plain:.3f}" for ours, plain in speeds)
    return [one["operation"], one["size"] >> 20, *columns, times]


def margins() -> str:
    head = ("backend", "sweeps", "cases", "no memory", "alarms", "worst, of its budget", "where", "s")
    return table(head, map(_margin, record("margins/cu128.h200.sampled.json")["backends"].items()))


def _margin(item: tuple[str, dict[str, Any]]) -> Row:
    name, swept = item
    case, worst = max(swept["cases"].items(), key=lambda pair: pair[1]["ratio"])
    where = f"{case} {worst['tensor']} ({worst['rule']})"
    sweeps, runs = swept["sweeps"], swept["runs"]
    lost = sweeps * math.ceil(runs / sweeps) - runs  # a case that raises is not among the runs
    counts = [sweeps, runs, lost, len(swept["alarms"])]
    return [name, *counts, worst["ratio"], where, f"{swept['seconds']:.0f}"]


def defects() -> str:
    head = ("calls of", "found on the GPU", "found on a CPU", "on a CPU alone")
    return table(head, map(_depth, record("defects.h200.json")["defects"].items(), on_a_cpu()))


def on_a_cpu() -> list[set[str]]:
    """By column of tests/data/defects.md the defects that it finds."""
    lines = [line for line in (DATA / "defects.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return [{row[0] for row in rows if row[at]} for at in (1, 3, 4)]


def _depth(item: tuple[str, dict[str, Any]], cpu: set[str]) -> Row:
    name, column = item
    here = {defect for defect, seen in column["found"].items() if seen}
    there = cpu & set(column["found"])  # of those that were planted here
    total = len(column["found"])
    return [name, f"{len(here)} of {total}", f"{len(there)} of {total}", ", ".join(sorted(there - here))]


def auto() -> str:
    """Every recorded shape; milliseconds of a layer forward and backward, as `auto` took them and timed for longer."""
    head = ("image", "shape", "taken", "as auto timed them, ms", "timed for longer, ms", "regret", "choosing, s")
    records = [record(f"auto/{path.name}") for path in sorted((DATA / "auto").glob("*.json"))]
    return table(head, (_shape(each["image"], row) for each in records for row in each["shapes"]))


def _shape(image: str, row: dict[str, Any]) -> Row:
    choice = row.get("choice") or {"backend": "none", "candidates": []}
    quick = {item["backend"]: item["milliseconds"] for item in choice["candidates"] if item["milliseconds"]}
    regret = f"{row['regret']:.1%}" if "regret" in row else "not known"
    told = [milliseconds(times) for times in (quick, row.get("exhaustive", {}))]
    took = f"{choice['seconds']:.0f}" if "seconds" in choice else ""
    return [f"`{image}`", row["name"], choice["backend"], *told, regret, took]


def milliseconds(times: dict[str, dict[str, float]]) -> str:
    """ "fa4 2.00, sdpa 5.10", the fastest first."""
    totals = {name: sum(parts.values()) for name, parts in times.items()}
    return ", ".join(f"{name} {totals[name]:.2f}" for name in sorted(totals, key=lambda name: totals[name]))


TABLES: Final[dict[str, Callable[[], str]]] = {
    "starts": starts,
    "kept": kept,
    "deep": deep,
    "rehearsals": rehearsals,
    "alone": alone,
    "gpus": gpus,
    "collective": collective,
    "faults": faults,
    "margins": margins,
    "defects": defects,
    "auto": auto,
}


if __name__ == "__main__":
    main()
