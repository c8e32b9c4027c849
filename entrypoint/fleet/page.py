"""The picture of a fleet as one HTML page: no script, nothing from elsewhere, charts as SVG within it. Pure.

The template draws the charts itself. A chart library would be one more package in every image, and pygal takes 8 s and
8 MB for the 32,000 points of 1,000 nodes: here a strip has a tick for each pixel at most, whatever the nodes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from entrypoint.fleet.merge import Fleet, Spread
from entrypoint.fleet.reports import COPY, CPU, MATMUL, Device, NodeReport
from entrypoint.judge.finding import VERDICTS

WIDTH: Final = 420  # of a strip, in pixels
HEIGHT: Final = 26
MARGIN: Final = 1.04  # of the scale beyond the largest throughput
NAMED: Final = 12  # nodes that a line names before it counts the others
BRIEF: Final = 100  # with more nodes that are no PASS, each has its reason alone, cut at 200 characters
# By form as well as by colour, which not everybody sees.
GLYPHS: Final = dict(zip(VERDICTS, "■◪✕□", strict=True))
FIRST: Final = 30  # things to do
# Outliers that are listed, the furthest first; what is left out is counted.
LISTED: Final = 200


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A spread as drawn: ticks and outliers as SVG paths, the median and the floor as positions in pixels."""

    spread: Spread
    label: str
    ticks: str
    outliers: str
    middle: float
    floor: float | None


@cache
def template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "digits": digits,
        "percent": percent,
        "marks": marks,
        "named": named,
        "speeds": speeds,
        "label": label,
    }
    return environment.get_template("page.html")


def render(fleet: Fleet) -> str:
    """The page as a text, to be written as UTF-8."""
    counts = Counter(report.verdict for report in fleet.reports)
    is_shown = [report.verdict != "PASS" or len(fleet.reports) <= NAMED for report in fleet.reports]
    return template().render(
        fleet=fleet,
        counts={verdict: counts[verdict] for verdict in VERDICTS if counts[verdict]},
        devices=sum(len(report.devices) for report in fleet.reports),
        nodes=len({report.node for report in fleet.reports}),
        glyphs=GLYPHS,
        brief=sum(is_shown) > BRIEF,
        shown=[report for report, yes in zip(fleet.reports, is_shown, strict=True) if yes],
        passed=[report for report, yes in zip(fleet.reports, is_shown, strict=True) if not yes],
        groups=[(head, list(strips)) for head, strips in groupby(_strips(fleet.spreads), _head)],
        outliers=fleet.outliers[:LISTED],
        actions=fleet.actions[:FIRST],
        width=WIDTH,
        height=HEIGHT,
    )


# ---- charts ----


def _strips(spreads: Sequence[Spread]) -> Iterator[Strip]:
    """All throughputs of a model that have one unit are on one scale, so that attention stands below its matmul."""
    most: dict[tuple[str, str], float] = {}
    for spread in spreads:
        key = (spread.model, spread.unit)
        most[key] = max(most.get(key, 0.0), *(point.value for point in spread.points), _floor(spread) or 0.0)
    for spread in spreads:
        scale = WIDTH / (MARGIN * most[spread.model, spread.unit] or 1.0)
        floor = _floor(spread)
        yield Strip(
            spread=spread,
            label=label(spread.what),
            ticks=_ticks(point.value * scale for point in spread.points if point.off is None),
            outliers="".join(f"M{point.value * scale:.1f} {HEIGHT / 2:g}h0" for point in spread.outliers),
            middle=spread.middle * scale,
            floor=None if floor is None else floor * scale,
        )


def _ticks(places: Iterable[float]) -> str:
    """A tick for each pixel with a device in it, the higher the more devices there are: at least a third as high."""
    counts = Counter(round(place) for place in places)
    most = max(counts.values(), default=1)
    path = []
    for place, count in sorted(counts.items()):
        length = HEIGHT * (0.35 + 0.65 * math.sqrt(count / most)) if most > 1 else HEIGHT * 0.7
        path.append(f"M{place} {(HEIGHT - length) / 2:.1f}v{length:.1f}")
    return "".join(path)


def _floor(spread: Spread) -> float | None:
    """In the spread's unit: attention's floor is a share of the matmul, so it is put where the median's matmul is."""
    if spread.floor is None or spread.what in {MATMUL, COPY}:
        return spread.floor
    return spread.floor * spread.middle / spread.share if spread.share else None


def _head(strip: Strip) -> str:
    return f"{strip.spread.model}: {strip.spread.backend or 'without attention'}"


# ---- what the template writes ----


def digits(value: float) -> str:
    """Three digits, or all of a larger number."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def label(what: str) -> str:
    """A call with its direction first, by which the eye finds it."""
    shape, _, direction = what.rpartition("/")
    return f"{direction}, {shape}" if shape else f"bf16 {what}" if what == MATMUL else what


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def marks(devices: Sequence[Device]) -> list[tuple[str, int]]:
    """The verdicts of a node's devices in their order, each with how many follow one another."""
    return [(verdict, len(list(run))) for verdict, run in groupby(devices, lambda device: device.verdict)]


def named(names: Sequence[str]) -> str:
    """The first names, and how many there are beside them."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def speeds(report: NodeReport, direction: str) -> str:
    """The throughput of a node's devices in their fastest call of one direction: "669", or "372-675"; empty: none.

    A CPU's is empty too: nobody can compare it.
    """
    best = [
        max(values)
        for device in report.devices
        if device.name != CPU
        and (values := [m.value for name, m in device.measures.items() if name.endswith(f"/{direction}")])
    ]
    if not best:
        return ""
    low, high = digits(min(best)), digits(max(best))
    return low if low == high else f"{low}-{high}"
