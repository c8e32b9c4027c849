"""The report as metrics for the textfile collector of Prometheus' node_exporter.

Base units (seconds, bytes, FLOP/s, ratios), gauges alone, and no timestamps: the collector refuses them, and has the
file's age as `node_textfile_mtime_seconds`. The label `instance` of the node is the scraper's matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from entrypoint.judge.finding import VERDICTS
from entrypoint.report.text import Report

PREFIX: Final = "axolotl_attn_"
TERA: Final = 1e12
GIGA: Final = 1e9
ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Labels = Mapping[str, str]
Row = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A gauge: its name without the prefix, what it says, and its samples; one whose value is unknown is left out."""

    name: str
    help: str
    samples: Iterable[tuple[Labels, float | None]]

    def lines(self) -> list[str]:
        """In Prometheus' text format; none where no value is known."""
        known = [f"{PREFIX}{self.name}{_braces(labels)} {float(x)!r}" for labels, x in self.samples if x is not None]
        head = [f"# HELP {PREFIX}{self.name} {self.help}", f"# TYPE {PREFIX}{self.name} gauge"]
        return [*head, *known] if known else []


def render(report: Report) -> str:
    """All metrics of a report. Image and backend are labels of each, so that files of several images fit together."""
    backend = report["backend"]["checked"] or report["backend"]["requested"]
    common = {"image": str(report["image"]["id"]), "backend": str(backend)}
    metrics = [*_whole(report, common), *_devices(report, common), *_speeds(report, common)]
    return "\n".join(line for metric in metrics for line in metric.lines()) + "\n"


def _whole(report: Report, common: Labels) -> list[Metric]:
    verdicts = [({**common, "verdict": name}, float(report["verdict"] == name)) for name in VERDICTS]
    version, platform = str(report["image"]["version"]), str(report["image"]["platform"])
    seconds = report["seconds"]
    counts = Counter((row["device"], row["status"]) for row in report["cases"])
    return [
        Metric("check_info", "The image of the check.", [({**common, "version": version, "platform": platform}, 1.0)]),
        Metric("check_verdict", "1 for the verdict of the check, 0 for the others.", verdicts),
        Metric("check_exit_code", "Exit code of the check; 0: passed.", [(common, report["code"]["number"])]),
        Metric("check_cached", "1 where the verdict came from the cache.", [(common, float(report["cached"]))]),
        Metric("check_duration_seconds", "Seconds that the check took.", [(common, seconds["total"])]),
        Metric(
            "check_phase_seconds",
            "Seconds of each phase, of the slowest device.",
            [({**common, "phase": name}, value) for name, value in seconds.items() if name != "total"],
        ),
        Metric(
            "check_cases",
            "Cases of attention by how they ended.",
            [({**common, "device": device, "status": status}, n) for (device, status), n in sorted(counts.items())],
        ),
    ]


def _devices(report: Report, common: Labels) -> list[Metric]:
    named = {gpu["device"]: _named(gpu, common) for gpu in report["gpus"]}
    health = [(named[gpu["device"]], gpu["facts"].get("health") or {}) for gpu in report["gpus"]]
    ceilings = [(named.get(row["device"], {**common, "device": row["device"]}), row) for row in report["ceilings"]]
    copies = [(labels, row.get("copy") or {}) for labels, row in ceilings]
    return [
        Metric(
            "gpu_verdict",
            "1 for the verdict of the GPU, 0 for the others.",
            [
                ({**named[gpu["device"]], "verdict": name}, float(gpu["verdict"] == name))
                for gpu in report["gpus"]
                for name in VERDICTS
            ],
        ),
        Metric("gpu_temperature_celsius", "Under load.", [(labels, row.get("temperature")) for labels, row in health]),
        Metric("gpu_power_watts", "Under load.", [(labels, row.get("power_watts")) for labels, row in health]),
        Metric(
            "matmul_flops_per_second",
            "A bf16 matrix product, the ceiling of attention.",
            [(labels, _times(row.get("matmul_tflops"), TERA)) for labels, row in ceilings],
        ),
        Metric(
            "copy_bytes_per_second",
            "A copy within the GPU's memory.",
            [(labels, _times(row.get("gigabytes_per_second"), GIGA)) for labels, row in copies],
        ),
    ]


def _named(gpu: Row, common: Labels) -> dict[str, str]:
    known = {"device": gpu["device"], "gpu": gpu["name"], "uuid": gpu["uuid"]}
    return {**common, **{key: str(value or "") for key, value in known.items()}}


def _speeds(report: Report, common: Labels) -> list[Metric]:
    rows = []
    for row in report["performance"]:
        shape, _, direction = row["id"].rpartition("/")
        rows.append(({**common, "device": row["device"], "case": shape, "direction": direction}, row))
    return [
        Metric(
            "attention_flops_per_second",
            "Throughput of attention.",
            [(labels, _times(row["tflops"], TERA)) for labels, row in rows],
        ),
        Metric(
            "attention_call_seconds",
            "Seconds of a call of attention.",
            [(labels, row["seconds"]) for labels, row in rows],
        ),
        Metric(
            "attention_of_matmul_ratio",
            "Throughput of attention over that of the matrix product.",
            [(labels, row["of_matmul"]) for labels, row in rows],
        ),
        Metric(
            "attention_floor_ratio",
            "The least that the ratio should be on this GPU.",
            [(labels, row["floor"]) for labels, row in rows],
        ),
    ]


def _times(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit


def _braces(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{value.translate(ESCAPES)}"' for name, value in labels.items()) + "}"
