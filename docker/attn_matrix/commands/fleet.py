"""`nox -s fleet -- DIR|FILE... [--json] [--html FILE]`: the reports of many nodes as one table, JSON, and one page.

A folder is searched for `*.json`, at any depth. Exit code 1 when a report cannot be read, or would not let its start go
on. What a fleet is compared by is in `entrypoint.fleet`, since `check --html` makes the same page in the container.
"""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

from attn_matrix.commands import terminal
from attn_matrix.commands.terminal import Part, Table
from attn_matrix.errors import UsageError
from attn_matrix.host import engine
from entrypoint.fleet.merge import Disagreement, Fleet, Outlier, Spread, Unread, merge
from entrypoint.fleet.page import digits, named, percent, render, speeds
from entrypoint.fleet.reports import Device, NodeReport, UnreadableReport, parse
from entrypoint.kept.cache import write_atomically

SCHEMA: Final = 1
LARGEST: Final = 64 << 20  # bytes: no report is as large, so it is no report
SHARE: Final = 32  # files that are worth a process of their own
LISTED: Final = 20  # outliers in the terminal; the page and the JSON have them all
HEAD: Final = ("node", "verdict", "code", "devices", "image", "backend", "forward", "backward", "cases", "why")


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    parser = subparsers.add_parser("fleet")
    parser.add_argument(
        "paths", metavar="DIR|FILE", nargs="+", type=Path, help="JSON reports (ATTN_REPORT), or folders of them"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout in place of the tables")
    parser.add_argument("--html", metavar="FILE", type=Path, help="also one HTML page, without scripts")
    parser.set_defaults(handler=_handle)


def _handle(arguments: Namespace) -> int:
    files, skipped = find(arguments.paths)
    fleet = merge(*read(files))
    if arguments.json:
        print(document(fleet))
    else:
        terminal.show(*tables(fleet))
    if skipped:
        engine.say(f"{len(skipped)} files in the folders are no *.json and were not looked at, such as {skipped[0]}")
    if arguments.html:
        _write_page(arguments.html, fleet)
    return 0 if fleet.sound else 1


def _write_page(path: Path, fleet: Fleet) -> None:
    try:
        write_atomically(path, render(fleet))
    except OSError as error:
        raise UsageError(f"--html: {path} cannot be written: {error.strerror}") from error
    engine.say(f"wrote {path}")


# ---- reading ----


def find(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The files to read, each once, and those in folders that are not looked at. Raises UsageError."""
    chosen: dict[Path, None] = {}
    skipped: list[Path] = []
    for path in paths:
        if not path.is_dir():
            chosen[path] = None  # one that does not exist is listed as unread
            continue
        inside = sorted(each for each in path.rglob("*") if each.is_file())
        chosen |= dict.fromkeys(each for each in inside if each.suffix == ".json")
        skipped += [each for each in inside if each.suffix != ".json"]
    if not chosen:
        raise UsageError(f"no report in {', '.join(map(str, paths))}", "a report is the file that ATTN_REPORT names")
    return [*chosen], skipped


def read(files: Sequence[Path]) -> tuple[list[NodeReport], list[Unread]]:
    """Every report, and every file that is none with its reason; many are read by all processors."""
    processes = min(os.cpu_count() or 1, len(files) // SHARE)
    if processes > 1:
        with ProcessPoolExecutor(processes) as pool:
            found = [*pool.map(read_one, files, chunksize=SHARE // 2)]
    else:
        found = [read_one(file) for file in files]
    unread = [each for each in found if isinstance(each, Unread)]
    return [each for each in found if not isinstance(each, Unread)], unread


def read_one(file: Path) -> NodeReport | Unread:
    try:
        return parse(_load(file), str(file), file.stem)
    except UnreadableReport as error:
        return Unread(str(file), str(error))


def _load(file: Path) -> Any:
    """The JSON of a file, by pydantic's reader: 1,000 reports take a fifth of the time. Raises UnreadableReport."""
    from pydantic_core import from_json

    try:
        if file.stat().st_size > LARGEST:
            raise UnreadableReport(f"is larger than {LARGEST >> 20} MiB, so it is no report of axolotl-attn")
        return from_json(file.read_bytes())
    except OSError as error:
        raise UnreadableReport(f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UnreadableReport(f"is no whole JSON: {str(error).splitlines()[0]}") from error


# ---- as tables ----


def tables(fleet: Fleet) -> list[Part]:
    """What to do first comes last: there a terminal shows it."""
    nodes = Table([(fleet.name(each), *_node(each)) for each in fleet.reports], HEAD, right=(6, 7, 8))
    return [
        *_titled(f"{len(fleet.reports)} report{'' if len(fleet.reports) == 1 else 's'}", nodes),
        *_speeds(fleet),
        *_differences(fleet.differences),
        *_unread(fleet.unread),
        *_actions(fleet),
    ]


def _titled(title: str, table: Table) -> list[Part]:
    return ["", title, "", table] if table.rows else []


def _node(report: NodeReport) -> tuple[str, ...]:
    """A row behind the node's name; a PASS needs no reason."""
    why = "" if report.verdict == "PASS" else f"{report.what} {report.advice}".strip()
    cases = f"{report.right}/{report.cases}" if report.cases else ""
    code = f"{report.number} {report.code}" if report.number else ""
    speed = (speeds(report, "forward"), speeds(report, "backward"))
    return (report.verdict, code, _devices(report), report.image, report.backend, *speed, cases, why)


def _devices(report: NodeReport) -> str:
    """ "8 x NVIDIA H200, driver 580.159.04", with what differs among them by comma."""
    models = dict.fromkeys(device.model for device in report.devices)
    drivers = dict.fromkeys(device.driver for device in report.devices if device.driver)
    if not models:
        return "none"
    driver = f", driver {', '.join(drivers)}" if drivers else ""
    return f"{len(report.devices)} x {', '.join(models)}{driver}"


def _speeds(fleet: Fleet) -> list[Part]:
    """The median of each call, and the devices that are furthest off."""
    rows = [_spread(spread) for spread in fleet.spreads]
    head = ("model", "backend", "call", "median", "least", "most", "of matmul", "devices", "outliers")
    outliers = [_outlier(each) for each in fleet.outliers[:LISTED]]
    more = len(fleet.outliers) - LISTED
    return [
        *_titled("speed, by model", Table(rows, head, right=range(3, 9))),
        *_titled("outliers: off the median of their siblings", Table(outliers, right=(0,))),
        *([f"and {more} more: --json and --html have them"] if more > 0 else []),
    ]


def _outlier(outlier: Outlier) -> tuple[str, ...]:
    also = f"and {outlier.others} more" if outlier.others else ""
    where = (outlier.report.node, outlier.device.name, outlier.device.model)
    return (f"{100 * outlier.off:+.0f} %", *where, outlier.report.backend, outlier.what, also)


def _spread(spread: Spread) -> tuple[str, ...]:
    values = [point.value for point in spread.points]
    numbers = (
        f"{digits(spread.middle)} {spread.unit}",
        digits(min(values)),
        digits(max(values)),
        percent(spread.share),
    )
    counts = (str(len(values)), str(len(spread.outliers) or ""))
    return (spread.model, spread.backend, spread.what, *numbers, *counts)


def _differences(differences: Sequence[Disagreement]) -> list[Part]:
    rows = [
        (each.what, value, str(len(nodes)), named(nodes) if place or len(nodes) < 4 else "")
        for each in differences
        for place, (value, nodes) in enumerate(each.values.items())
    ]
    return _titled("what differs", Table(rows, ("what", "value", "nodes", "which"), right=(2,)))


def _unread(unread: Sequence[Unread]) -> list[Part]:
    return _titled("not read", Table([(each.file, each.reason) for each in unread]))


def _actions(fleet: Fleet) -> Iterator[Part]:
    yield from ("", "what to do first", "")
    if not fleet.actions:
        yield "nothing: every report is a PASS, and no device is off its siblings"
    rows = [
        (f"{place}.", "\n".join(filter(None, [action.what, action.advice, named(action.nodes)])))
        for place, action in enumerate(fleet.actions, start=1)
    ]
    if rows:
        yield Table(rows)


# ---- as JSON ----


def document(fleet: Fleet) -> str:
    """The same facts: every node and outlier by name, and the medians that they are compared with."""
    return json.dumps(
        {
            "schema": SCHEMA,
            "sound": fleet.sound,
            "reports": [_report_document(report) for report in fleet.reports],
            "unread": [{"file": each.file, "reason": each.reason} for each in fleet.unread],
            "speeds": [_spread_document(spread) for spread in fleet.spreads],
            "differences": [{"what": each.what, "values": each.values} for each in fleet.differences],
            "actions": [{"what": each.what, "advice": each.advice, "nodes": each.nodes} for each in fleet.actions],
        },
        indent=2,
    )


def _report_document(report: NodeReport) -> dict[str, Any]:
    kept = ("file", "node", "verdict", "what", "advice", "image", "version", "versions", "backend", "right", "cases")
    devices = [_device_document(device) for device in report.devices]
    code = {"name": report.code, "number": report.number}
    return {**{name: getattr(report, name) for name in kept}, "code": code, "devices": devices}


def _device_document(device: Device) -> dict[str, Any]:
    measures = {
        what: {"value": measure.value, "unit": measure.unit, "of_matmul": measure.share}
        for what, measure in device.measures.items()
    }
    known = {"device": device.name, "model": device.model, "driver": device.driver, "verdict": device.verdict}
    return {**known, "speeds": measures}


def _spread_document(spread: Spread) -> dict[str, Any]:
    outliers = [
        {"node": point.report.node, "device": point.device.name, "value": point.value, "off": point.off}
        for point in spread.outliers
    ]
    known = {"model": spread.model, "backend": spread.backend, "what": spread.what, "unit": spread.unit}
    numbers = {"median": spread.middle, "of_matmul": spread.share, "floor": spread.floor, "devices": len(spread.points)}
    return {**known, **numbers, "outliers": outliers}
