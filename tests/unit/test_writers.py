"""The report as orchestrators read it: to the letter, and by the rules of each reader.

After a change of wording: `python -m tests.unit.test_writers` writes tests/data/written anew; read the difference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import pytest
from prometheus_client.parser import text_string_to_metric_families

from entrypoint import writers
from entrypoint.arguments import USAGE
from entrypoint.judge.finding import Code
from entrypoint.kept.cache import LIFETIME
from entrypoint.report.text import Report
from entrypoint.writers import junit, nfd, npd
from entrypoint.writers.nvsentinel import exit_code
from tests.unit.test_report import SCENES, report_of

ROOT: Final = Path(__file__).resolve().parents[2]
WRITTEN: Final = ROOT / "tests/data/written"
RECORDED: Final = sorted((ROOT / "tests/data/reports").glob("*.json"))
NOW: Final = 1_795_913_600.0  # 2026-11-29T00:53:20Z
ENDINGS: Final = {"junit": "xml", "prometheus": "prom", "nfd": "txt", "npd": "txt"}
SHOWN: Final = ("one-slow-of-8-gpus", "wrong-numbers", "crash")
# What reports come from: an exception of several lines, and what no format may be broken by.
HOSTILE: Final = 'a "quoted" \\ <b>&amp;\x00\x1b[2J\nsecond line ]]>'


def scene(name: str) -> Report:
    return {**report_of(SCENES[name]()), "node": "gpu-7"}


def recorded(path: Path) -> Report:
    report: Report = json.loads(path.read_text(encoding="utf-8"))
    return {"node": "gpu-7", **report}


def hostile() -> Report:
    report = scene("wrong-numbers")
    report["headline"] = {"what": HOSTILE, "advice": HOSTILE}
    report["reasons"], report["notes"], report["logs"], report["node"] = [HOSTILE], [HOSTILE], [HOSTILE], HOSTILE
    report["gpus"][0]["name"] = HOSTILE
    report["cases"][0] |= {"id": HOSTILE, "status": "error", "reason": HOSTILE}
    return report


REPORTS: Final[Mapping[str, Any]] = {
    **{name: lambda name=name: scene(name) for name in SCENES},
    **{path.stem: lambda path=path: recorded(path) for path in RECORDED},
    "hostile": hostile,
}
EVERY = pytest.mark.parametrize("name", REPORTS)


def texts() -> dict[str, str]:
    """What is kept, by file name."""
    return {
        f"{name}.{form}.{ending}": writers.render(form, scene(name), NOW)
        for name in SHOWN
        for form, ending in ENDINGS.items()
    }


@pytest.mark.parametrize("name", texts())
def test_each_form_to_the_letter(name: str) -> None:
    assert texts()[name] == (WRITTEN / name).read_text(encoding="utf-8")


# ---- JUnit ----


@EVERY
def test_junit_is_whole(name: str) -> None:
    """It parses, its counts are those of its cases, and each case has its name, class and time."""
    report = REPORTS[name]()
    suites = ET.fromstring(junit.render(report).encode())
    (suite,) = suites
    cases = suite.findall("testcase")
    assert (suites.tag, suite.tag) == ("testsuites", "testsuite")
    for each in (suites, suite):
        assert int(each.attrib["tests"]) == len(cases) == len(report["cases"]) + 1
        assert int(each.attrib["failures"]) == len(suite.findall("testcase/failure"))
        assert int(each.attrib["errors"]) == len(suite.findall("testcase/error"))
    assert all(case.attrib.keys() == {"name", "classname", "time"} for case in cases)
    assert len({(case.attrib["classname"], case.attrib["name"]) for case in cases}) == len(cases)
    order = [child.tag for child in suite if child.tag != "testcase"]
    assert order == ["properties", "system-out", "system-err"]


@EVERY
def test_junit_fails_where_the_check_does(name: str) -> None:
    """And only there: a DEGRADED start goes on."""
    report = REPORTS[name]()
    (verdict,) = [
        case for case in ET.fromstring(junit.render(report)).iter("testcase") if case.attrib["name"] == "verdict"
    ]
    trouble = [child.tag for child in verdict]
    expected = "error" if report["verdict"] == "NOT_CHECKED" else "failure"
    assert trouble == ([expected] if report["code"]["number"] else [])


def test_junit_says_what_is_wrong_and_what_to_do() -> None:
    suite = ET.fromstring(junit.render(scene("wrong-numbers")))
    verdict, *_ = suite.iter("failure")
    assert verdict.attrib["type"] == "92 WRONG"
    assert verdict.attrib["message"].startswith("fa4 computes wrong numbers")
    assert "Do not train with it" in (verdict.text or "")


# ---- Prometheus ----


def samples(report: Report) -> dict[str, list[tuple[dict[str, str], float]]]:
    """By Prometheus' own parser."""
    families = text_string_to_metric_families(writers.render("prometheus", report, NOW))
    return {family.name: [(sample.labels, sample.value) for sample in family.samples] for family in families}


@EVERY
def test_metrics_follow_the_rules(name: str) -> None:
    """Gauges with help, base units, no timestamp, and no series twice; exactly one verdict is 1."""
    report = REPORTS[name]()
    for family in text_string_to_metric_families(writers.render("prometheus", report, NOW)):
        assert family.type == "gauge"
        assert family.documentation
        assert re.fullmatch(r"axolotl_attn_[a-z_]+", family.name)
        assert not re.search(r"tflops|milli|giga|mega|percent", family.name)
        assert all(sample.timestamp is None for sample in family.samples)
        assert len({tuple(sorted(sample.labels.items())) for sample in family.samples}) == len(family.samples)
    verdicts = {labels["verdict"]: value for labels, value in samples(report)["axolotl_attn_check_verdict"]}
    assert verdicts == {verdict: float(verdict == report["verdict"]) for verdict in verdicts}
    assert verdicts[report["verdict"]] == 1.0


def test_metrics_are_in_base_units() -> None:
    """FLOP/s of TFLOP/s, bytes of GB."""
    found = samples(scene("healthy"))
    (labels, flops), *_ = found["axolotl_attn_attention_flops_per_second"]
    assert (labels["case"], labels["direction"], flops) == ("causal-s8192-d128", "forward", 675e12)
    assert [value for _, value in found["axolotl_attn_copy_bytes_per_second"]] == [4150e9]
    assert [value for _, value in found["axolotl_attn_gpu_temperature_celsius"]] == [47.0]


def test_a_value_that_is_not_known_is_no_sample() -> None:
    """Neither 0 nor NaN, on which an alert would act."""
    found = samples(recorded(next(path for path in RECORDED if "no-gpu" in path.name)))
    assert not [name for name in found if "flops" in name or "gpu" in name]
    assert found["axolotl_attn_check_exit_code"][0][1] == 91.0


def test_a_label_keeps_what_it_says() -> None:
    """Quotes, backslashes and line ends are escaped, and read back."""
    names = [labels["gpu"] for labels, _ in samples(hostile())["axolotl_attn_gpu_verdict"]]
    assert set(names) == {HOSTILE}


# ---- node-feature-discovery ----

LABEL: Final = re.compile(
    r"feature\.node\.kubernetes\.io/axolotl-attn\.[a-z]+=(|[A-Za-z0-9]|[A-Za-z0-9][\w.-]{0,61}[A-Za-z0-9])"
)


@EVERY
def test_labels_are_labels(name: str) -> None:
    """A comment that ends them after a day, then keys with a namespace and values that Kubernetes takes."""
    expiry, *lines = nfd.render(REPORTS[name](), expiry=NOW + LIFETIME).splitlines()
    assert expiry == "# +expiry-time=2026-11-30T00:53:20Z"
    assert len(lines) == 5
    assert [line for line in lines if not LABEL.fullmatch(line)] == []


@pytest.mark.parametrize(
    ("text", "label"), [("fa4-cu128", "fa4-cu128"), ("0.1.0+local x", "0.1.0_local_x"), ("--", ""), ("é" * 99, "")]
)
def test_a_label_value_is_cut_and_cleaned(text: str, label: str) -> None:
    assert nfd.label_value(text) == label
    assert len(nfd.label_value("a" * 99)) == 63


# ---- node-problem-detector ----


@EVERY
def test_the_verdict_is_one_line(name: str) -> None:
    """VERDICT CODE REASON: a plugin splits it at blanks."""
    report = REPORTS[name]()
    line, end = npd.render(report).split("\n")
    verdict, code, reason = line.split(" ", 2)
    assert (verdict, code, end) == (report["verdict"], str(report["code"]["number"]), "")
    assert reason.split() == report["headline"]["what"].split()


# ---- NVSentinel ----


def test_every_code_has_one_of_nvsentinels() -> None:
    """A fault of the node is 1; what says nothing about the hardware is 2."""
    codes = {code.name: exit_code(code.value) for code in Code}
    assert codes == {"PASS": 0, "CONFIG": 2, "MISMATCH": 2, "WRONG": 1, "SLOW": 1, "GPU_FAULT": 1, "INTERNAL": 2}


# ---- all of them ----


@pytest.mark.parametrize("form", writers.NAMES)
def test_the_usage_names_every_form(form: str) -> None:
    assert f"  --{form} FILE " in USAGE


@pytest.mark.parametrize("form", writers.NAMES)
def test_every_form_is_written_whole(form: str, tmp_path: Path) -> None:
    """Over an older one, and nothing else is left in the folder: node_exporter and others read it at any time."""
    (tmp_path / "it").write_text("older")
    writers.write(form, str(tmp_path / "it"), scene("healthy"))
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    assert (tmp_path / "it").read_text(encoding="utf-8").endswith("\n")
    assert "older" not in (tmp_path / "it").read_text(encoding="utf-8")


def test_a_page_that_cannot_be_made_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The child's last words, such as a package that is missing."""
    from entrypoint.writers import html

    (tmp_path / "__main__.py").write_text("import nothing_of_this_name")
    monkeypatch.setattr(html, "FLEET", tmp_path)
    with pytest.raises(OSError, match="No module named 'nothing_of_this_name'"):
        html.render(scene("healthy"))


if __name__ == "__main__":
    WRITTEN.mkdir(exist_ok=True)
    for file, text in texts().items():
        (WRITTEN / file).write_text(text, encoding="utf-8")
