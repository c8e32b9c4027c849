"""Write the report as a person reads it: the verdict, what to do, then the facts, on one screen. Pure.

Several GPUs take no more lines than one: what is the same on all of them is said once, and numbers become ranges.
"""

from __future__ import annotations

import json

from entrypoint.console import NAME
from entrypoint.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Final

    from entrypoint.events import HealthEvent

SUMMARY_BYTES: Final = 4096
SHOWN: Final = 6  # failing cases in the text; the JSON has them all

# What entrypoint.report builds: JSON of the contract's schema 1.
Report = dict[str, "Any"]
Row = dict[str, "Any"]


def to_json(report: Report) -> str:
    """Each part on its line, and each item of a list, so that it can be read and compared by lines.

    `json` indents in Python, and takes ten times as long.
    """
    encode = json.JSONEncoder(default=str).encode
    return "{\n" + ",\n".join(f"  {encode(name)}: {_part(part, encode)}" for name, part in report.items()) + "\n}\n"


def _part(part: object, encode: Callable[[object], str]) -> str:
    if not isinstance(part, list) or not part:
        return encode(part)
    return "[\n" + ",\n".join(f"    {encode(item)}" for item in part) + "\n  ]"


def to_text(report: Report) -> str:
    """Reads reports of earlier versions too, such as those kept in a verdict cache or in tests/data/reports."""
    lines = _headline(report)
    lines += [_line("also", reason) for reason in report["reasons"][1:]]
    lines += _run(report.get("run"))
    lines += _choice(report.get("choice"))
    if report["cases"] or report["performance"]:
        lines += [*_image(report), *_gpus(report), *_health(report), *_backend(report)]
        lines += [*_cases(report), *_ceilings(report), *_speeds(report), *_depth(report), *_seconds(report)]
    lines += _rehearsal(report.get("rehearsal"))  # absent from reports of earlier versions
    lines += _collective(report.get("collective"))
    lines += [_line("note", note) for note in report["notes"]]
    return "\n".join(lines) + "\n"


def summary(report: Report) -> str:
    """The first lines of the text, at most SUMMARY_BYTES of UTF-8: for Kubernetes' termination message."""
    text = "\n".join(_headline(report) + [f"also: {reason}" for reason in report["reasons"][1:]])
    return text.encode()[:SUMMARY_BYTES].decode(errors="ignore")


def _collective(part: Row | None) -> list[str]:
    if not part:
        return []
    from entrypoint.report.collected import lines  # only for who asked for it: a plain start loads none of it

    return [_line(label, text) for label, text in lines(part)]


def _line(label: str, text: str) -> str:
    return f"  {label:<9} {text}"


def devices(names: Sequence[str]) -> str:
    """Several of torch's device names in short: "cuda:0-2,5"."""
    kind, colon, _ = names[0].partition(":")
    runs: list[list[int]] = []
    for index in sorted(int(name.partition(":")[2] or 0) for name in names):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    short = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"{kind}:{short}" if colon else kind


def _headline(report: Report) -> list[str]:
    code = report["code"]
    label = report["verdict"] + (f" ({code['number']} {code['name']})" if code["number"] else "")
    cached = " (from the verdict cache)" if report["cached"] else ""
    lines = [f"{NAME} {report['image']['id']}: {label}{cached}: {report['headline']['what']}"]
    if report["headline"]["advice"]:
        lines.append(f"  what to do: {report['headline']['advice']}")
    return lines


# --- the run that is about to start -------------------------------------------------------------------------------


def _run(run: Row | None) -> list[str]:
    """What the configuration asks for and what runs, and each finding with what to write instead."""
    if not run:
        return []
    runs = run["runs"] or "not known before the GPU is"
    packed = {True: "; packed documents are kept apart", False: "; packed documents see each other"}
    what = f"{run['asked']} asked for, {runs} runs{packed.get(run['packed_apart'], '')}"
    lines = [_line("run", f"{run['config']} ({run['action']}): {what}" if run["rules_known"] else run["config"])]
    for found in run["findings"]:
        level = "allowed" if found["allowed"] else found["level"]
        line = f"line {found['line']}: " if found["line"] else ""
        instead = f" Write {found['instead']}." if found["instead"] else ""
        lines.append(_line(level, f"[{found['id']}] {line}{found['why']}{instead}"))
    return lines + [_line("note", note) for note in run["notes"]]


def _rehearsal(part: Row | None) -> list[str]:
    """What was rehearsed, with what less than the run has, and the number that came nearest to its limit."""
    if not part:
        return []
    if not part["model"] or part["verdict"] == "NOT_CHECKED":
        return [_line("rehearsal", part["reason"])]
    losses, seconds = part["losses"]["runs"], part["seconds"].get("total", 0.0)
    steps = f"{len(losses)} steps, loss {losses[0]:.4g} to {losses[-1]:.4g}; " if losses and None not in losses else ""
    worst = part["differences"][:1]
    nearest = f"nearest to its limit: {worst[0]['what']} {_of_budget(worst[0]['ratio'])}; " if worst else ""
    lines = [_line("rehearsal", f"{part['model']['type']}: {steps}{nearest}{seconds:.1f} s")]
    return lines + ([_line("", f"with {'; '.join(part['reduced'])}")] if part["reduced"] else [])


def _of_budget(ratio: float | None) -> str:
    return "not finite" if ratio is None else f"at {ratio:.2f} of its budget"


def _choice(choice: Row | None) -> list[str]:
    """What ATTN_BACKEND=auto took, each candidate's time or why it is none, and how the configuration was changed."""
    if not choice:
        return []
    shape = choice["shape"]
    kv = f" ({shape['kv_heads']} of k and v)" if shape["kv_heads"] != shape["heads"] else ""
    what = f"{shape['rows']} x {shape['length']} positions, {shape['heads']} heads{kv} of {shape['head_dim']}"
    part = "" if choice["whole"] else ", a part of the run's"
    lines = [_line("auto", f"{choice['backend']} is taken; a layer forward and backward, {what}{part}")]
    lines += [_line("", f"  {item['backend']:<10} {_milliseconds(item)}") for item in choice["candidates"]]
    if choice["file"]:
        lines.append(_line("config", f"{choice['file']} in place of {choice['of']}:"))
        lines += [_line("", f"  {line}") for line in choice["difference"]]
    return lines


def _milliseconds(item: Row) -> str:
    taken = ", taken" if item["taken"] else ""
    times = item["milliseconds"]
    if not times:
        return str(item["reason"])
    told = f"{times['forward']:.3g} + {times['backward']:.3g} ms{taken}"
    return f"{told}, but {item['reason']}" if item["reason"] else told


# --- the machine ------------------------------------------------------------------------------------------------


def _image(report: Report) -> list[str]:
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in report["image"]["versions"].items())
    return [_line("image", f"{report['image']['id']} {report['image']['version']}: {versions}")]


def _gpus(report: Report) -> list[str]:
    if not report["gpus"]:
        return [_line("cpu", f"{report['machine'].get('name')}: {report['verdict']}")]
    alike: dict[str, list[str]] = {}
    for gpu in report["gpus"]:
        memory = gpu["facts"].get("memory_total")
        size = f", {memory / 2**30:.0f} GiB" if memory else ""
        name = f"{gpu['name']} ({gpu['arch'] or gpu['capability']}), driver {gpu['driver']}{size}"
        alike.setdefault(f"{name}: {gpu['verdict']}", []).append(gpu["device"])
    return [
        _line(devices(names), f"{len(names)} x {text}" if len(report["gpus"]) > 1 else text)
        for text, names in alike.items()
    ]


def _health(report: Report) -> list[str]:
    """One GPU's sensors under load; of several, the range of temperatures and who was held back by what."""
    known = {gpu["device"]: _sensors(health) for gpu in report["gpus"] if (health := gpu["facts"].get("health"))}
    if not known:
        return []
    from entrypoint.judge.health import held_back, state  # not for a CPU

    if len(known) == 1:
        return [_line("health", state(health)) for health in known.values()]
    degrees = [health.temperature for health in known.values() if health.temperature is not None]
    parts = [f"{_range(degrees, '.0f')} °C"] if degrees else []
    clocks: dict[str, list[str]] = {}
    for device, health in known.items():
        clocks.setdefault(held_back(health), []).append(device)
    parts += [f"{how} on {devices(names)}" for how, names in clocks.items() if how]
    return [_line("health", ", ".join(parts) or "sensors not readable")]


def _sensors(health: Row) -> HealthEvent:
    """The facts in a report by their names: all that `state` reads, without the types of the child's events."""
    from types import SimpleNamespace

    return SimpleNamespace(**health)  # type: ignore[return-value]


def _backend(report: Report) -> list[str]:
    backend = report["backend"]
    # Forward and backward; a CPU's are alike as far as they are shown.
    kernels = ", ".join(dict.fromkeys(name[:48] for name in backend["kernels"][:2])) or "none seen"
    text = f"{backend['requested']} asked for, {backend['observed'] or 'unknown'} observed: {kernels}"
    lines = [_line("backend", text)]
    forced = backend.get("forced", {})  # absent from reports of earlier versions
    ran = [asked for asked, observed in forced.items() if asked == observed]
    if ran:
        lines.append(_line("kernels", f"forced one by one, each of them ran: {', '.join(ran)}"))
    for asked, observed in forced.items():
        if isinstance(observed, dict):
            lines.append(_line("kernels", f"{asked} asked for; {_by_device(observed)}"))
    return lines


def _by_device(observed: Mapping[str, str | None]) -> str:
    """Which kernel ran where, when the GPUs differ: "sdpa-cudnn on cuda:0-2, unknown on cuda:3"."""
    where: dict[str, list[str]] = {}
    for device, kernel in observed.items():
        where.setdefault(kernel or "unknown", []).append(device)
    return ", ".join(f"{kernel} on {devices(names)}" for kernel, names in where.items())


# --- correctness ------------------------------------------------------------------------------------------------


def _cases(report: Report) -> list[str]:
    cases = [case for case in report["cases"] if case.get("worst")]
    lines = []
    if cases:
        passed = sum(case["status"] == "pass" for case in cases)
        tight = max(cases, key=_ratio)
        on = f" on {len(report['gpus'])} GPUs" if len(report["gpus"]) > 1 else ""
        nearest = f"nearest to its limit: {tight['id']} {_worst(tight)}"
        lines.append(_line("correct", f"{passed} of {len(report['cases'])} cases{on}; {nearest}"))
    failed = _failed(report)
    lines += failed[:SHOWN]
    if len(failed) > SHOWN:
        lines.append(_line("", f"and {len(failed) - SHOWN} more in the JSON report"))
    return lines


def _ratio(case: Row) -> float:
    ratio = case["worst"]["ratio"]
    return float("inf") if ratio is None else ratio


def _failed(report: Report) -> list[str]:
    """A line for each case that failed, with the GPUs on which it did when there are several."""
    groups: dict[str, list[Row]] = {}
    for case in report["cases"]:
        if case["status"] != "pass":
            groups.setdefault(case["id"], []).append(case)
    lines = []
    for case_id, rows in groups.items():
        label = "error" if rows[0]["status"] == "error" else "wrong"
        on = f" ({devices([row['device'] for row in rows])})" if len(report["gpus"]) > 1 else ""
        lines.append(_line(label, f"{case_id} {_trouble(rows[0])}{on}"))
    return lines


def _trouble(case: Row) -> str:
    """What is wrong, in one line; the JSON report has the whole of a long exception."""
    from entrypoint.judge.cause import cause  # its patterns are compiled for a case that failed

    return cause(case.get("reason") or "") or str(case.get("conduct") or _worst(case))


def _worst(case: Row) -> str:
    worst = case["worst"]
    ratio = "not finite" if worst["ratio"] is None else f"{worst['ratio']:.2f} of its budget"
    return f"{worst['tensor']} ({worst['rule']}) at {ratio}"


# --- speed ------------------------------------------------------------------------------------------------------


def _ceilings(report: Report) -> list[str]:
    """What the GPUs do without attention."""
    rows = report["ceilings"]
    if not rows:
        return []
    parts = [_ceiling("matmul", [row["matmul_tflops"] for row in rows], "TFLOP/s", rows[0].get("matmul_floor"))]
    copies = [copy for row in rows if (copy := row.get("copy"))]
    if copies:
        rates = [copy["gigabytes_per_second"] for copy in copies]
        parts.append(_ceiling("copy", rates, "GB/s", copies[0]["floor"]))
    return [_line("ceiling", "; ".join(parts))]


def _ceiling(name: str, reached: Sequence[float], unit: str, floor: float | None) -> str:
    return f"{name} {_range(reached)} {unit}" + (f" (floor {_range([floor])})" if floor is not None else "")


def _speeds(report: Report) -> list[str]:
    """A line for each shape: forward and backward, over all GPUs."""
    shapes: dict[str, dict[str, list[Row]]] = {}
    for row in report["performance"]:
        shape, _, direction = row["id"].rpartition("/")
        shapes.setdefault(shape, {}).setdefault(direction, []).append(row)
    lines = []
    for shape, directions in shapes.items():
        rows = [row for rows in directions.values() for row in rows]
        parts = [f"{direction} {_speed(rows)}" for direction, rows in directions.items()]
        call = rows[0].get("call")
        named = f"{shape} ({call})" if call and not report["ceilings"] else shape
        lines.append(_line("speed", f"{named}: {'; '.join(parts)}{_fewer(rows)}"))
    return lines


def _speed(rows: Sequence[Row]) -> str:
    """TFLOP/s beside a ceiling; where there is none, the time of a call, which needs no comparison to be understood."""
    shares = [row["of_matmul"] for row in rows if row["of_matmul"] is not None]
    if not shares:
        return f"{_range([1000.0 * row['seconds'] for row in rows])} ms"
    share = f", {_range([100 * share for share in shares], '.0f')}% of matmul"
    floor = "no floor known" if rows[0]["floor"] is None else f"floor {rows[0]['floor']:.0%}"
    return f"{_range([row['tflops'] for row in rows])} TFLOP/s{share} ({floor})"


def _fewer(rows: Sequence[Row]) -> str:
    """Says so where calls were too slow for all planned samples."""
    cut = [(len(row["samples"]), row["planned"]) for row in rows if len(row["samples"]) < (row.get("planned") or 0)]
    return f" (slow: {min(cut)[0]} of {min(cut)[1]} samples)" if cut else ""


def _range(numbers: Iterable[float], form: str | None = None) -> str:
    """Least and largest, or one number when both read the same; without a format, three digits or all of them."""
    ordered = sorted(numbers)
    low, high = (format(x, form or (".3g" if x < 100 else ",.0f")) for x in (ordered[0], ordered[-1]))
    return low if low == high else f"{low}-{high}"


def _depth(report: Report) -> list[str]:
    """What a start leaves to a deep check, by the first few names. Reports of earlier versions have none."""
    left_out = report.get("left_out")
    if not left_out or report.get("depth") != "start":
        return []
    more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    return [_line("depth", f"start; only check --deep has {', '.join(left_out[:3])}{more}")]


def _seconds(report: Report) -> list[str]:
    seconds = report["seconds"]
    phases = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if name != "total")
    calls = report.get("first_calls", ())  # absent from reports of earlier versions
    longest = max(calls, key=lambda call: float(call["seconds"]), default=None)
    if longest and longest["seconds"] >= 0.1:
        phases += f"; longest first call: {longest['id']} {longest['seconds']:.1f}"
    return [_line("time", f"{seconds['total']:.1f} s: {phases}")]
