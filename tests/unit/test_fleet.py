"""Reports of many nodes as one picture: what is read, what is an outlier, what differs, and what is to be done."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from attn_matrix import ROOT
from attn_matrix.cli import main
from attn_matrix.commands import fleet as command
from attn_matrix.commands.terminal import plain

from entrypoint.fleet.merge import Fleet, Spread, Unread, merge
from entrypoint.fleet.page import marks, render, speeds
from entrypoint.fleet.reports import COPY, MATMUL, NodeReport, UnreadableReport, parse
from entrypoint.judge.spread import allowed

RECORDED = ROOT / "tests/data/reports"
H200 = "fa4-cu128.h200.json"
NO_GPU = "sdpa-cu130-base.no-gpu.json"
FORWARD = "causal-s8192-d128/forward"


def document(name: str = H200, **changes: Any) -> dict[str, Any]:
    """A recorded report, with some of its parts replaced."""
    recorded: dict[str, Any] = json.loads((RECORDED / name).read_text(encoding="utf-8"))
    return recorded | changes


def report(node: str, name: str = H200, speed: float = 1.0, **changes: Any) -> NodeReport:
    """A recorded report as if it were of `node`, whose GPU has `speed` times the recorded throughputs."""
    made = document(name, node=node, **changes)
    for row in made["performance"]:
        row["tflops"] *= speed
    return parse(made, f"{node}.json", "nobody")


def failed(node: str, number: int, code: str, advice: str = "Drain it.", what: str = "It is so.") -> NodeReport:
    headline = {"what": what, "advice": advice}
    return report(node, verdict="FAIL", code={"number": number, "name": code}, headline=headline)


def spread(fleet: Fleet, what: str, model: str = "NVIDIA H200") -> Spread:
    (found,) = [each for each in fleet.spreads if (each.what, each.model) == (what, model)]
    return found


# ---- reading ----


@pytest.mark.parametrize("path", sorted(RECORDED.glob("*.json")), ids=lambda path: str(path.stem))
def test_every_recorded_report_is_read(path: Path) -> None:
    """Of earlier versions too: verdict, devices and speeds are those of the file."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    read = parse(raw, str(path), path.stem)
    assert (read.verdict, read.number, read.image) == (raw["verdict"], raw["code"]["number"], raw["image"]["id"])
    assert [device.name for device in read.devices if device.driver] == [gpu["device"] for gpu in raw["gpus"]]
    attention = [name for device in read.devices for name in device.measures if name not in {MATMUL, COPY}]
    assert attention == [row["id"] for row in raw["performance"]]


def test_the_node_is_the_reports_own_or_the_files() -> None:
    """Reports of earlier versions do not name one."""
    assert parse(document(), "a/gpu-7.json", "gpu-7").node == "gpu-7"
    assert parse(document(node="gpu-8"), "a/gpu-7.json", "gpu-7").node == "gpu-8"


def test_nothing_in_a_report_moves_the_terminal() -> None:
    """It is from another machine."""
    read = parse(document(node="a\x1b[2Jb\nc"), "x", "y")
    assert read.node == "a [2Jb c"


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ([], "is no report of axolotl-attn"),
        ({"hello": 1}, "is no report of axolotl-attn"),
        (document(schema=2), "has schema 2, this one reads 1"),
        (document(schema="1"), "has schema 1, this one reads 1"),
        (document(schema=True), "has schema True"),
        (document(verdict="SPLENDID"), "is damaged (ValueError: no verdict 'SPLENDID')"),
        (document(gpus=7), "is damaged (TypeError"),
        (document(headline=None), "is damaged (TypeError"),
        (document(performance=[{"id": "x"}]), "is damaged (KeyError"),
        (document(image={}), "is damaged (KeyError: 'id')"),
    ],
)
def test_what_is_no_report_says_why(broken: object, says: str) -> None:
    """Foreign, of the future, or damaged."""
    with pytest.raises(UnreadableReport) as caught:
        parse(broken, "x.json", "x")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "part", ["code", "reasons", "headline", "image", "gpus", "backend", "cases", "performance", "machine", "seconds"]
)
@pytest.mark.parametrize("value", [None, 3, "text", [1], {"a": 1}])
def test_a_part_of_another_type_is_damage_and_no_crash(part: str, value: object) -> None:
    """Either the report is read without it, or it is refused with a reason."""
    with suppress(UnreadableReport):
        read = parse(document() | {part: value}, "x", "y")
        assert (read.verdict, read.file) == ("PASS", "x")


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path to every part of a document; of a list to its first two."""
    yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*path, key))
    elif isinstance(value, list):
        for place, part in enumerate(value[:2]):
            yield from places(part, (*path, place))


def with_part(path: Sequence[str | int], value: object) -> dict[str, Any]:
    made = document()
    at: Any = made
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return made


@pytest.mark.parametrize(
    "value", [None, -1, 10**400, float("nan"), True, "\x1b[2J", [], [[]], {}, {"x": {}}], ids=lambda x: repr(x)[:9]
)
def test_whatever_is_in_a_report_it_is_shown_or_refused(value: object) -> None:
    """Each part of it in turn is something else: neither the reader nor a table, the JSON or the page may break."""
    read = []
    for path in places(document()):
        with suppress(UnreadableReport):
            read.append(parse(with_part(path, value) if path else value, f"{path}.json", "x"))
    fleet = merge(read)
    assert len(read) > 50
    assert plain(*command.tables(fleet))
    assert json.loads(command.document(fleet))
    assert render(fleet).count("<svg") >= 6


# ---- outliers ----


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ([100.0, 100.0, 50.0], 5.0),  # no deviation: 5 %
        ([90.0, 100.0, 110.0], 30.0),  # 3 x 10
        ([99.0, 100.0, 101.0], 5.0),  # 3 x 1 is less than 5 %
    ],
)
def test_the_limit_is_the_larger_of_three_deviations_and_five_per_cent(values: list[float], limit: float) -> None:
    assert allowed(values) == limit


def fleet_of(*factors: float) -> Fleet:
    return merge([report(f"n{place}", speed=factor) for place, factor in enumerate(factors)])


def test_a_device_far_off_its_siblings_is_an_outlier() -> None:
    """Named with how far it is; those beside the limit are not."""
    found = spread(fleet_of(*[1.0] * 5, 0.949, 0.951, 1.051), FORWARD)
    off = {point.report.node: point.off for point in found.outliers}
    assert off.keys() == {"n5", "n7"}
    assert off["n5"] == pytest.approx(0.949 - 1.0)


def test_an_outlier_is_named_once_with_its_worst_call() -> None:
    """However many calls are slow: its node, how many of its devices, and by how much."""
    several = document(node="slow")
    several["gpus"] = [several["gpus"][0] | {"device": f"cuda:{n}"} for n in range(4)]
    several["performance"] = [
        row | {"device": gpu["device"], "tflops": row["tflops"] * (0.5 if gpu["device"] == "cuda:0" else 0.8)}
        for gpu in several["gpus"][:2]
        for row in several["performance"]
    ]
    fleet = merge([*(report(f"n{n}") for n in range(6)), parse(several, "slow.json", "x")])
    assert [(each.device.name, each.others) for each in fleet.outliers] == [("cuda:0", 3), ("cuda:1", 3)]
    assert fleet.outliers[0].off == pytest.approx(-0.5)
    (slow,) = fleet.actions
    assert slow.nodes == ("slow (2 of 4)",)
    assert slow.what.startswith("2 devices slower than the others of the same model, slow cuda:0 the most: 50%")


def test_only_the_same_model_and_backend_are_siblings() -> None:
    """An H100 is not a slow H200, nor FlexAttention a slow FlashAttention; the matmul is compared whatever ran."""
    nodes = [report(f"h200-{n}") for n in range(3)] + [report("h100", "fa4-cu128-base.h100.json", speed=0.5)]
    fleet = merge([*nodes, report("flex", "flex-cu128.h200.json")])
    assert [point for each in fleet.spreads for point in each.outliers if point.report.node == "h100"] == []
    groups = {(each.model, each.backend): len(each.points) for each in fleet.spreads if each.what == FORWARD}
    assert groups[("NVIDIA H200", "fa4")] == 3
    assert groups[("NVIDIA H200", "flex")] == 1
    assert len(spread(fleet, MATMUL).points) == 4


# ---- differences ----


def test_what_differs_is_named_with_its_nodes() -> None:
    """The driver, and versions within one image; what is the same everywhere is no difference."""
    odd = document(node="odd")
    odd["gpus"][0]["driver"] = "570.1"
    odd["image"]["versions"]["flash-attn-4"] = "4.0.0b20"
    fleet = merge([report("a"), report("b"), parse(odd, "odd.json", "x"), report("flex", "flex-cu128.h200.json")])
    differences = {each.what: each.values for each in fleet.differences}
    assert differences["driver"] == {"580.159.04": ("a", "b", "flex"), "570.1": ("odd",)}
    assert differences["flash-attn-4 in fa4-cu128"] == {"4.0.0b36": ("a", "b"), "4.0.0b20": ("odd",)}
    assert differences["image"] == {"fa4-cu128": ("a", "b", "odd"), "flex-cu128": ("flex",)}
    assert differences.keys() == {"driver", "flash-attn-4 in fa4-cu128", "image"}
    assert fleet.same["torch in fa4-cu128"] == document()["image"]["versions"]["torch"]


def test_a_start_that_measured_nothing_has_no_versions() -> None:
    """Its report names those that the image was built to hold, not those that are installed."""
    fleet = merge(
        [report("a", NO_GPU), report("b", NO_GPU, image=document(NO_GPU)["image"] | {"versions": {"torch": "9"}})]
    )
    assert fleet.differences == ()


# ---- what to do first ----


def test_the_worst_comes_first_and_one_matter_is_said_once() -> None:
    """By code, then slow devices, then what differs, then what was not read; numbers in an advice make no other one."""
    nodes = [
        failed("c", 91, "MISMATCH", "Use another."),
        failed("w", 92, "WRONG", "Keep it."),
        failed("g1", 94, "GPU_FAULT", "Drain GPU 3."),
        failed("g2", 94, "GPU_FAULT", "Drain GPU 4."),
        *(report(f"n{n}") for n in range(4)),
        report("slow", speed=0.5),
    ]
    fleet = merge(nodes, [Unread("x.json", "is damaged")])
    assert [action.nodes for action in fleet.actions] == [("g1", "g2"), ("w",), ("c",), ("slow cuda:0",), ("x.json",)]
    assert fleet.actions[0].what == "94 GPU_FAULT: It is so. (and likewise 1 more)"
    assert "slow cuda:0 the most: 50% below" in fleet.actions[3].what
    assert [each.node for each in fleet.reports][:4] == ["g1", "g2", "w", "c"]


def test_a_device_whose_own_verdict_says_it_is_slow_is_not_said_twice() -> None:
    slow = document(node="slow", verdict="DEGRADED", headline={"what": "It is slow.", "advice": "Cool it."})
    slow["gpus"][0]["verdict"] = "DEGRADED"
    for row in slow["performance"]:
        row["tflops"] *= 0.5
    fleet = merge([*(report(f"n{n}") for n in range(4)), parse(slow, "slow.json", "x")])
    assert [action.what for action in fleet.actions] == ["DEGRADED: It is slow."]
    assert len(spread(fleet, FORWARD).outliers) == 1


def test_nothing_is_to_be_done_where_all_is_well() -> None:
    """Two nodes with a faster and a slower GPU are no outliers either."""
    fleet = fleet_of(1.0, 0.9)
    assert fleet.actions == ()
    assert fleet.sound


def test_a_code_of_another_version_is_as_urgent_as_a_check_that_failed() -> None:
    fleet = merge([failed("s", 93, "SLOW"), failed("?", 96, "HAUNTED"), failed("w", 92, "WRONG")])
    assert [each.node for each in fleet.reports] == ["w", "?", "s"]


# ---- cells ----


def test_verdicts_of_gpus_stand_in_their_order() -> None:
    eight = document(node="a")
    eight["gpus"] = [eight["gpus"][0] | {"device": f"cuda:{n}"} for n in range(8)]
    eight["gpus"][3] = eight["gpus"][3] | {"verdict": "FAIL"}
    assert marks(parse(eight, "x", "y").devices) == [("PASS", 3), ("FAIL", 1), ("PASS", 4)]


def test_the_speed_of_a_node_is_that_of_each_devices_fastest_call() -> None:
    """A CPU has none that could be compared."""
    two = document(node="a")
    two["gpus"] = [two["gpus"][0] | {"device": f"cuda:{n}"} for n in range(2)]
    two["performance"] += [row | {"device": "cuda:1", "tflops": row["tflops"] / 2} for row in two["performance"]]
    assert speeds(parse(two, "x", "y"), "forward") == "334-669"
    assert speeds(report("a"), "forward") == "669"
    assert speeds(report("a", "sdpa-cpu-base.epyc.json"), "forward") == ""


# ---- the command ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two nodes, of which one fails, below a folder with what is no report."""
    (tmp_path / "deep").mkdir()
    bad = document(node="bad", verdict="FAIL", code={"number": 94, "name": "GPU_FAULT"})
    texts = {
        "good.json": json.dumps(document(node="good")),
        "deep/bad.json": json.dumps(bad),
        "cut.json": json.dumps(document())[:300],
        "foreign.json": '{"a": 1}',
        "future.json": json.dumps(document(schema=2)),
        "latin.json": "\xff",
        "notes.txt": "not looked at",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="latin-1")
    return tmp_path


def test_a_folder_is_one_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The failing node first; what is no report is named with its reason; the exit code says that all is not well."""
    assert main(["fleet", str(folder)]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("node"))
    assert lines[start + 1].split()[:4] == ["bad", "FAIL", "94", "GPU_FAULT"]
    assert lines[start + 2].split()[:2] == ["good", "PASS"]
    for name, reason in (
        ("cut", "is no whole JSON"),
        ("foreign", "is no report"),
        ("future", "has schema 2"),
        ("latin", "is no whole JSON"),
    ):
        assert any(f"{name}.json" in line and reason in line for line in lines), name
    assert "1 files in the folders are no *.json" in err


def test_the_same_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", str(folder), "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["schema"], shown["sound"]) == (1, False)
    assert [each["node"] for each in shown["reports"]] == ["bad", "good"]
    assert len(shown["unread"]) == 4
    assert shown["reports"][0]["devices"][0]["speeds"][FORWARD]["of_matmul"] == pytest.approx(0.854, abs=1e-3)
    assert {each["what"] for each in shown["speeds"]} >= {FORWARD, MATMUL, COPY}


def test_many_reports_are_read_by_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same reports in the same order, and the broken ones with the same reasons, as one after another."""
    for place in range(70):
        broken = place in {3, 40}
        (tmp_path / f"{place:02d}.json").write_text("{" if broken else json.dumps(document(NO_GPU)))
    files, _ = command.find([tmp_path])
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    reports, unread = command.read(files)
    assert reports == [one for file in files if isinstance(one := command.read_one(file), NodeReport)]
    assert [Path(each.file).name for each in unread] == ["03.json", "40.json"]
    assert len(reports) == 68


def test_sound_reports_are_exit_code_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file may be named twice, and is one report."""
    good = str(folder / "good.json")
    assert main(["fleet", good, good]) == 0
    assert "1 report\n" in capsys.readouterr().out
    assert main(["fleet", good, str(folder / "deep/bad.json")]) == 1


def test_a_file_that_is_not_there_is_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside those that are: a node that sent nothing is what an operator looks for."""
    assert main(["fleet", str(folder / "good.json"), str(folder / "gone.json")]) == 1
    assert "gone.json  cannot be read: No such file or directory" in capsys.readouterr().out


def test_reports_of_one_node_are_told_apart_by_their_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An older one beside a newer, or two images: both are shown."""
    (folder / "older.json").write_text((folder / "good.json").read_text())
    assert main(["fleet", str(folder / "good.json"), str(folder / "older.json")]) == 0
    out = capsys.readouterr().out
    assert f"good ({folder}/good.json)" in out
    assert f"good ({folder}/older.json)" in out


def test_no_report_at_all_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", str(tmp_path)]) == 2
    assert f"no report in {tmp_path}" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", str(folder / "good.json"), "--html", "/proc/page.html"]) == 2
    assert "--html: /proc/page.html cannot be written" in capsys.readouterr().err


def test_what_to_do_first_is_last_in_a_terminal() -> None:
    """There it stays in sight."""
    shown = plain(*command.tables(merge([failed("a", 94, "GPU_FAULT"), report("b")])))
    assert shown.splitlines()[-3:] == ["1.  94 GPU_FAULT: It is so.", "    Drain it.", "    a"]
    calm = plain(*command.tables(merge([report("b")])))
    assert calm.splitlines()[-1].startswith("nothing: every report is a PASS")


def test_a_report_of_several_gpus_is_one_row() -> None:
    eight = copy.deepcopy(document(node="a"))
    eight["gpus"] = [eight["gpus"][0] | {"device": f"cuda:{n}"} for n in range(8)]
    rows: Sequence[Sequence[str]] = command.tables(merge([parse(eight, "x", "y")]))[3].rows  # type: ignore[union-attr]
    assert [row[3] for row in rows] == ["8 x NVIDIA H200, driver 580.159.04"]
