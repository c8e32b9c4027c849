"""Many reports as one: throughputs beside their siblings', versions that differ, and what to do first. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from entrypoint.fleet.reports import Device, NodeReport
from entrypoint.judge.spread import FEWEST, allowed

# What an operator looks at first: what breaks a run that has started, then what keeps one from starting.
URGENT: Final = ("GPU_FAULT", "WRONG", "MISMATCH", "CONFIG", "INTERNAL", "SLOW")


@dataclass(frozen=True)
class Unread:
    """A file that is no report which this version can show, and why."""

    file: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """One device's throughput; `off` is how far it is from the median, as a share of it, where it is an outlier."""

    report: NodeReport
    device: Device
    value: float
    share: float | None
    off: float | None


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """A device that is off its siblings: in the call in which it is the furthest off, and in so many `others`.

    `value` is what it reaches in that call, and `off` how far that is from the median, as a share of it.
    """

    report: NodeReport
    device: Device
    what: str
    value: float
    off: float
    others: int


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The throughputs of one call, by one backend, on all devices of one model.

    `middle` is the median in `unit`, `share` the median share of the matmul, `floor` as images.yaml has it.
    """

    model: str
    backend: str
    what: str
    unit: str
    points: tuple[Point, ...]
    middle: float
    share: float | None
    floor: float | None

    @property
    def outliers(self) -> tuple[Point, ...]:
        return tuple(point for point in self.points if point.off is not None)


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """Something that differs between nodes: each value with the nodes that have it, the most common first."""

    what: str
    values: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Action:
    """What is wrong on `nodes`, and what to do about it."""

    what: str
    advice: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """`reports` are ordered: the worst first, then by name; `outliers` too: the furthest first.

    `repeated` are the nodes that several reports are of, and `same` is what was compared and does not differ.
    """

    reports: tuple[NodeReport, ...]
    repeated: frozenset[str]
    unread: tuple[Unread, ...]
    spreads: tuple[Spread, ...]
    differences: tuple[Disagreement, ...]
    same: Mapping[str, str]
    outliers: tuple[Outlier, ...]
    actions: tuple[Action, ...]

    def name(self, report: NodeReport) -> str:
        """The node, with the file where several reports are of it."""
        return f"{report.node} ({report.file})" if report.node in self.repeated else report.node

    @property
    def sound(self) -> bool:
        """Whether every report was read, and lets a start go on."""
        return bool(self.reports) and not self.unread and not any(report.number for report in self.reports)


def merge(reports: Iterable[NodeReport], unread: Iterable[Unread] = ()) -> Fleet:
    """The picture of all reports together."""
    ordered = sorted(reports, key=lambda each: (-urgency(each), each.node, each.file))
    left = tuple(unread)
    spreads = tuple(_spreads(ordered))
    outliers = tuple(sorted(_outliers(spreads), key=lambda each: -abs(each.off)))
    compared = _compared(ordered)
    differences = tuple(_difference_of(what, nodes) for what, nodes in compared.items() if len(nodes) > 1)
    return Fleet(
        reports=tuple(ordered),
        repeated=frozenset(node for node, count in Counter(each.node for each in ordered).items() if count > 1),
        unread=left,
        spreads=spreads,
        differences=differences,
        same={what: next(iter(nodes)) for what, nodes in compared.items() if len(nodes) == 1},
        outliers=outliers,
        actions=tuple(_actions(ordered, left, outliers, differences)),
    )


def urgency(report: NodeReport) -> int:
    """The larger, the sooner someone should look; a code of another version is as urgent as a check that failed."""
    if not report.number:
        return int(report.verdict != "PASS")
    return 2 + len(URGENT) - URGENT.index(report.code if report.code in URGENT else "INTERNAL")


# ---- siblings ----


def _spreads(reports: Sequence[NodeReport]) -> Iterator[Spread]:
    """By model, backend and call; what a GPU does without attention is compared whatever the backend."""
    groups: dict[tuple[str, str, str], list[tuple[NodeReport, Device]]] = {}
    for report in reports:
        for device in report.devices:
            for what in device.measures:
                backend = report.backend if "/" in what else ""
                groups.setdefault((device.model, backend, what), []).append((report, device))
    for (model, backend, what), members in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1])):
        yield _spread(model, backend, what, members)


def _spread(model: str, backend: str, what: str, members: Sequence[tuple[NodeReport, Device]]) -> Spread:
    measures = [device.measures[what] for _, device in members]
    values = [measure.value for measure in measures]
    shares = [measure.share for measure in measures if measure.share is not None]
    middle = median(values)
    limit = allowed(values) if len(values) >= FEWEST else math.inf
    return Spread(
        model=model,
        backend=backend,
        what=what,
        unit=measures[0].unit,
        middle=middle,
        share=median(shares) if shares else None,
        floor=measures[0].floor,
        points=tuple(
            Point(
                report=report,
                device=device,
                value=measure.value,
                share=measure.share,
                off=measure.value / middle - 1.0 if middle and abs(measure.value - middle) > limit else None,
            )
            for (report, device), measure in zip(members, measures, strict=True)
        ),
    )


def _outliers(spreads: Sequence[Spread]) -> Iterator[Outlier]:
    """Each device once, whatever the number of calls in which it is off."""
    found: dict[tuple[str, str], list[tuple[Point, str]]] = {}
    for spread in spreads:
        for point in spread.outliers:
            found.setdefault((point.report.file, point.device.name), []).append((point, spread.what))
    for calls in found.values():
        point, what = max(calls, key=lambda call: abs(call[0].off or 0.0))
        yield Outlier(
            report=point.report,
            device=point.device,
            what=what,
            value=point.value,
            off=point.off or 0.0,
            others=len(calls) - 1,
        )


# ---- differences ----


def _compared(reports: Sequence[NodeReport]) -> dict[str, dict[str, dict[str, None]]]:
    """What is compared between nodes: for each of its values, the nodes that have it in their order."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for report in reports:
        for what, value in _facts(report):
            found.setdefault(what, {}).setdefault(value, {})[report.node] = None
    return found


def _facts(report: NodeReport) -> Iterator[tuple[str, str]]:
    """The driver, the image, and within one image its version and its packages."""
    yield from (("driver", device.driver) for device in report.devices if device.driver)
    yield "image", report.image
    yield f"version of {report.image}", report.version
    # Of a start that measured nothing, the versions are those that the image was built to hold.
    if report.cases:
        yield from ((f"{name} in {report.image}", version) for name, version in report.versions.items())


def _difference_of(what: str, values: Mapping[str, Iterable[str]]) -> Disagreement:
    known = {value: tuple(nodes) for value, nodes in values.items()}
    return Disagreement(what=what, values=dict(sorted(known.items(), key=lambda item: (-len(item[1]), item[0]))))


# ---- what to do ----


def _actions(
    reports: Sequence[NodeReport],
    unread: Sequence[Unread],
    outliers: Sequence[Outlier],
    differences: Sequence[Disagreement],
) -> Iterator[Action]:
    yield from _by_advice(report for report in reports if report.number)
    yield from _slow(outliers)
    yield from _by_advice(report for report in reports if not report.number and report.verdict != "PASS")
    for difference in differences:
        if difference.what != "image":
            yield _difference(difference)
    if unread:
        advice = "Look at them, or run the check there again: their nodes are in no other line."
        what = f"{_count(len(unread), 'file')} could not be read as {'a report' if len(unread) == 1 else 'reports'}."
        yield Action(what=what, advice=advice, nodes=tuple(each.file for each in unread))


def _by_advice(reports: Iterable[NodeReport]) -> Iterator[Action]:
    """Nodes with the same code and the same advice, whatever numbers are in it, are one matter."""
    groups: dict[tuple[int, str], list[NodeReport]] = {}
    for report in reports:
        groups.setdefault((report.number, re.sub(r"\d+", "0", report.advice)), []).append(report)
    for (number, _), group in groups.items():
        label = f"{number} {group[0].code}" if number else group[0].verdict
        more = "" if len(group) == 1 else f" (and likewise {len(group) - 1} more)"
        yield Action(what=f"{label}: {group[0].what}{more}", advice=group[0].advice, nodes=_nodes(group))


def _slow(outliers: Sequence[Outlier]) -> Iterator[Action]:
    """Devices far below their siblings that passed: by the floors of images.yaml alone nobody would see them."""
    slow = [each for each in outliers if each.off < 0.0 and each.device.verdict == "PASS"]
    if not slow:
        return
    worst, by_file = slow[0], {each.report.file: each.report for each in slow}
    what = f"{_count(len(slow), 'device')} slower than the others of the same model, {worst.report.node}"
    what += f" {worst.device.name} the most: {-worst.off:.0%} below their median."
    advice = "Compare clocks, power and cooling with a sibling's (nvidia-smi -q), and leave them out until they agree:"
    advice += " a job over several nodes goes at the pace of its slowest."
    names = {file: [each.device.name for each in slow if each.report.file == file] for file in by_file}
    nodes = tuple(_where(report, names[file]) for file, report in by_file.items())
    yield Action(what=what, advice=advice, nodes=nodes)


def _where(report: NodeReport, names: Sequence[str]) -> str:
    return f"{report.node} {names[0]}" if len(names) == 1 else f"{report.node} ({len(names)} of {len(report.devices)})"


def _difference(difference: Disagreement) -> Action:
    common, *others = difference.values.items()
    rest = ", ".join(f"{value} on {len(nodes)}" for value, nodes in others[:4])
    more = f" and {len(others) - 4} others" if len(others) > 4 else ""
    what = f"The {difference.what} differs: {common[0]} on {_count(len(common[1]), 'node')}, {rest}{more}."
    advice = "Give all nodes the same, the image by its digest: nodes of one job should not differ in what they run."
    return Action(what=what, advice=advice, nodes=tuple(node for _, nodes in others for node in nodes))


def _nodes(reports: Iterable[NodeReport]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(report.node for report in reports))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
