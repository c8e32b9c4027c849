"""Read a report (contract: schema 1) for what a fleet is compared by. Pure.

A report comes from another machine and perhaps from another version: nothing in it is trusted to be there or to be of
its type, and what cannot be read is an error that says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from entrypoint.judge.finding import VERDICTS

SCHEMA: Final = 1
MATMUL: Final = "matmul"
COPY: Final = "copy"
CPU: Final = "cpu"
LONGEST: Final = 4000  # characters of a text; an exception may have pages

Row = Mapping[str, Any]


class UnreadableReport(Exception):
    """Why a document is no report that this version can show, as the end of a sentence about it."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One throughput of a device.

    `value` is in `unit`: TFLOP/s, GFLOP/s or GB/s. `share` and `floor` are of the device's matmul, from 0 to about 1.
    The matmul and the copy themselves have no share, and their `floor` is in `unit`.
    """

    value: float
    unit: str
    share: float | None = None
    floor: float | None = None


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU, or the CPU of a report without any; `held_back` names what kept its clocks down."""

    name: str
    model: str
    driver: str | None
    verdict: str
    measures: Mapping[str, Measure] = field(default_factory=dict)
    temperature: float | None = None
    held_back: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """One report: where it is from, its verdict, and what was measured. `right` of `cases` cases passed."""

    file: str
    node: str
    verdict: str
    code: str
    number: int
    what: str
    advice: str
    also: tuple[str, ...]
    image: str
    version: str
    versions: Mapping[str, str]
    backend: str
    devices: tuple[Device, ...]
    right: int
    cases: int
    cached: bool
    seconds: float


def parse(document: object, file: str, fallback: str) -> NodeReport:
    """The report in a parsed JSON document; `fallback` names the node where the report does not.

    Raises UnreadableReport.
    """
    if not isinstance(document, dict) or "schema" not in document or "verdict" not in document:
        raise UnreadableReport("is no report of axolotl-attn")
    schema = document["schema"]
    if schema != SCHEMA or isinstance(schema, bool):
        raise UnreadableReport(f"has schema {_text(schema)[:20]}, this one reads {SCHEMA}: use a newer version")
    try:
        return _report(document, file, fallback)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UnreadableReport(f"is damaged ({type(error).__name__}: {_text(error)[:80]})") from error


def _report(document: Row, file: str, fallback: str) -> NodeReport:
    verdict = _verdict(document)
    headline = document["headline"]
    image, backend = document["image"], document["backend"]
    cases = document["cases"]
    return NodeReport(
        file=_text(file),
        node=_text(document.get("node") or fallback),
        verdict=verdict,
        code=_text(document["code"]["name"]),
        number=int(document["code"]["number"]),
        what=_text(headline["what"]),
        advice=_text(headline["advice"]),
        also=tuple(_text(reason) for reason in document["reasons"][1:]),
        image=_text(image["id"]),
        version=_text(image["version"]),
        versions={_text(name): _text(version or "missing") for name, version in image["versions"].items()},
        backend=_text(backend["checked"] or backend["requested"]),
        devices=_devices(document, verdict),
        right=sum(case["status"] == "pass" for case in cases),
        cases=len(cases),
        cached=bool(document["cached"]),
        seconds=_finite(document["seconds"]["total"]),
    )


def _devices(document: Row, verdict: str) -> tuple[Device, ...]:
    measures = _measures(document)
    if document["gpus"]:
        return tuple(_gpu(gpu, measures.get(gpu["device"], {})) for gpu in document["gpus"])
    if not document["machine"]:
        return ()
    model = _text(document["machine"].get("name") or "a CPU")
    return (Device(name=CPU, model=model, driver=None, verdict=verdict, measures=measures.get(CPU, {})),)


def _gpu(gpu: Row, measures: Mapping[str, Measure]) -> Device:
    health = gpu["facts"].get("health") or {}
    return Device(
        name=_text(gpu["device"]),
        model=_text(gpu["name"] or "an unknown GPU"),
        driver=_text(gpu["driver"]) if gpu["driver"] else None,
        verdict=_verdict(gpu),
        measures=measures,
        temperature=_number(health.get("temperature")),
        held_back=tuple(_text(name) for name in health.get("throttle") or ()),
    )


def _measures(document: Row) -> dict[str, dict[str, Measure]]:
    """By device and by what was measured: the calls of attention, then the matmul and the copy beside them."""
    found: dict[str, dict[str, Measure]] = {}
    for row in document["performance"]:
        share, floor = _number(row["of_matmul"]), _number(row["floor"])
        measure = Measure(**_flops(row["device"], row["tflops"]), share=share, floor=floor)
        found.setdefault(row["device"], {})[_text(row["id"])] = measure
    for row in document.get("ceilings", ()):
        here = found.setdefault(row["device"], {})
        here[MATMUL] = Measure(**_flops(row["device"], row["matmul_tflops"]), floor=_number(row.get("matmul_floor")))
        if copy := row.get("copy"):
            value, floor = _finite(copy["gigabytes_per_second"]), _number(copy["floor"])
            here[COPY] = Measure(value=value, unit="GB/s", floor=floor)
    return found


def _flops(device: str, tflops: object) -> dict[str, Any]:
    """A CPU's are a thousandth of a GPU's."""
    scale, unit = (1000.0, "GFLOP/s") if device == CPU else (1.0, "TFLOP/s")
    return {"value": scale * _finite(tflops), "unit": unit}


def _verdict(row: Row) -> str:
    if row["verdict"] not in VERDICTS:
        raise ValueError(f"no verdict {row['verdict']!r}")
    return str(row["verdict"])


def _number(value: object) -> float | None:
    """A number that may be unknown."""
    return None if value is None else _finite(value)


def _finite(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"no number {value!r}")
    return float(value)


def _text(value: object) -> str:
    """As a text that can be printed anywhere: a control character of a terminal is none of ours."""
    text = str(value)[:LONGEST]
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
