"""The report as JUnit XML, as Jenkins, GitLab and GitHub's test reporters read it.

A test case for the verdict, and one for each case of attention on each device. Only what decides the verdict fails.
"""

from __future__ import annotations

import re
from typing import Any, Final
from xml.etree import ElementTree as ET

from entrypoint.report.text import Report

# What XML 1.0 cannot hold, whatever is done to it.
ILLEGAL: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Row = dict[str, Any]


def render(report: Report) -> str:
    """A `testsuites` with one `testsuite`, named after the image."""
    name = f"axolotl-attn.{report['image']['id']}"
    cases = [_verdict(name, report), *(_case(name, row) for row in report["cases"])]
    counted = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": str(sum(case.find("error") is not None for case in cases)),
        "skipped": "0",
        "time": f"{report['seconds']['total']:.3f}",
    }
    suites = ET.Element("testsuites", {"name": "axolotl-attn", **counted})
    suite = ET.SubElement(suites, "testsuite", {"name": name, "hostname": _text(report["node"]), **counted})
    properties = ET.SubElement(suite, "properties")
    for key, value in _properties(report).items():
        ET.SubElement(properties, "property", {"name": _text(key), "value": _text(value)})
    suite.extend(cases)
    ET.SubElement(suite, "system-out").text = _text("\n".join([*report["reasons"], *report["notes"]]))
    ET.SubElement(suite, "system-err").text = _text("\n".join(report["logs"]))
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'


def _verdict(suite: str, report: Report) -> ET.Element:
    """The verdict fails with its code; where nothing was measured, that is an error and no failure."""
    case = ET.Element("testcase", {"classname": suite, "name": "verdict", "time": "0.000"})
    if report["code"]["number"]:
        kind = "error" if report["verdict"] == "NOT_CHECKED" else "failure"
        code = f"{report['code']['number']} {report['code']['name']}"
        _trouble(case, kind, code, report["headline"]["what"], report["headline"]["advice"])
    return case


def _case(suite: str, row: Row) -> ET.Element:
    device, seconds = row["device"], row.get("seconds") or 0.0
    named = {"classname": f"{suite}.{_text(device)}", "name": _text(row["id"])}
    case = ET.Element("testcase", {**named, "time": f"{seconds:.3f}"})
    if row["status"] == "error":
        _trouble(case, "error", "refused", row.get("reason") or "raised instead of a result", "")
    elif row["status"] != "pass":
        _trouble(case, "failure", "wrong", row.get("conduct") or _over(row), "")
    return case


def _over(row: Row) -> str:
    worst = row.get("worst") or {}
    error = "not finite" if row["error"] is None else f"{row['error']:.3g}"
    return f"{worst.get('tensor')} ({worst.get('rule')}): error {error}, budget {row['budget']:.3g}"


def _trouble(case: ET.Element, kind: str, what: str, message: str, advice: str) -> None:
    """`kind` is failure or error. The message of an attribute is one line; the text has all of it."""
    first = message.strip().splitlines()[0] if message.strip() else what
    element = ET.SubElement(case, kind, {"type": what, "message": _text(first)})
    element.text = _text("\n".join(filter(None, [message, advice])))


def _properties(report: Report) -> dict[str, str]:
    """What a person compares two runs by."""
    image, backend = report["image"], report["backend"]
    versions = {f"version.{name}": version or "missing" for name, version in image["versions"].items()}
    gpus = {f"gpu.{gpu['device']}": f"{gpu['name']}, driver {gpu['driver']}" for gpu in report["gpus"]}
    speeds = {f"tflops.{row['device']}.{row['id']}": f"{row['tflops']:.4g}" for row in report["performance"]}
    ran = {"backend.requested": backend["requested"], "backend.observed": backend["observed"]}
    facts = {"verdict": report["verdict"], "cached": report["cached"], **ran, **versions, **gpus, **speeds}
    return {name: str(value) for name, value in facts.items()}


def _text(text: str) -> str:
    return ILLEGAL.sub("\ufffd", text)
