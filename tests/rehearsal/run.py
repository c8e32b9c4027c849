"""Rehearse seeded defects and healthy runs in an image, and keep what came of each.

    python -m tests.rehearsal.run --image axolotl-attn:sdpa-cpu [--seeded [NAME…]] [--healthy N] [--whole] --out FILE

The entrypoint is this tree's. Rehearsals run one after another in one container, each in a process forked off after
Axolotl's import (forked.py); with --whole each is a start of its own, the kernel's check included. One line a run;
FILE is written after each, as JSON, and says which versions ran.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.rehearsal import container, forked
from tests.rehearsal.families import drawn
from tests.rehearsal.forked import Job
from tests.rehearsal.seeded import EXPECTED, SEEDED

PACKAGES: Final = ("torch", "transformers", "axolotl", "peft")


def jobs_of(names: Iterable[str], seeds: Iterable[int]) -> list[Job]:
    """The defects, and then healthy runs."""
    healthy = [Job(name=f"healthy {seed}", setting=drawn(seed)) for seed in seeds]
    return [*(_defect(name) for name in names), *healthy]


def _defect(name: str) -> Job:
    expected = EXPECTED[name]
    seeded = name if name in SEEDED else ""
    return Job(name=name, setting=expected.setting, seeded=seeded, limit=expected.limit)


def outcomes(image: str, jobs: list[Job], *, whole: bool) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Each job with its code, verdict, reason, report's part and seconds, as it ends."""
    if not whole:
        yield from forked.rehearse(image, jobs)
        return
    for job in jobs:
        done = container.start(image, job.setting, seeded=job.seeded, limit=job.limit)
        words = {"code": done.code, "verdict": done.report.get("verdict"), "reason": done.reason}
        yield job, {**words, "rehearsal": done.rehearsal, "seconds": done.seconds}


def row(job: Job, told: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a job, and whether it ended as it must."""
    part = told["rehearsal"] or {}
    kept = {
        "name": job.name,
        "good": good(job, told),
        "setting": job.setting.document(),
        "code": told["code"],
        "rehearsal": part.get("verdict"),
        "reason": told["reason"],
        "ratio": worst(part),
        "seconds": round(told["seconds"], 1),
    }
    return kept | ({"cpu_seconds": round(told["cpu"], 1)} if "cpu" in told else {})


def good(job: Job, told: dict[str, Any]) -> bool:
    """A defect has the code and the word that are expected; a healthy run was rehearsed and passed."""
    if expected := EXPECTED.get(job.name):
        return told["code"] == expected.code and bool(re.search(expected.word, told["reason"] or ""))
    return told["code"] == 0 and (told["rehearsal"] or {}).get("verdict") == "PASS"


def worst(part: dict[str, Any]) -> float | None:
    """The largest error, in budgets; None where nothing was compared, or where one is not finite."""
    ratios = [difference["ratio"] for difference in part.get("differences", [])]
    return None if not ratios or None in ratios else round(max(ratios), 4)


def versions(image: str) -> dict[str, str]:
    """What takes part, as installed in the image."""
    code = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {PACKAGES!r}}}))"
    run = ["docker", "run", "--rm", "--network=none", "--env=ATTN_CHECK=off", image, "python", "-c", code]
    found: dict[str, str] = json.loads(subprocess.run(run, stdout=subprocess.PIPE, check=True).stdout)
    return found


def write(record: dict[str, Any], path: Path) -> None:
    """As JSON, with a line for each run."""
    head = json.dumps({name: value for name, value in record.items() if name != "runs"}, indent=1)
    runs = ",\n".join(f"  {json.dumps(kept)}" for kept in record["runs"])
    path.write_text(f'{head[:-2]},\n "runs": [\n{runs}\n ]\n}}\n', encoding="utf-8")


def line(kept: dict[str, Any]) -> str:
    ratio = "" if kept["ratio"] is None else f", {kept['ratio']:.2f} of its budget"
    verdict = "good" if kept["good"] else "BAD"
    return (
        f"{verdict:<5}{kept['name']} ({kept['seconds']:.0f} s): {kept['code']}{ratio}. {(kept['reason'] or '')[:300]}"
    )


def main() -> int:
    """Exit status 1 when a defect was not found, or a healthy run did not pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="axolotl-attn:sdpa-cpu")
    parser.add_argument("--seeded", nargs="*", metavar="NAME", help="these defects; without a name all")
    parser.add_argument("--healthy", type=int, default=0, metavar="N", help="so many healthy runs")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first of their seeds")
    parser.add_argument("--whole", action="store_true", help="a container for each, from its start to its end")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    # A whole start meets the preflight first, whose rule P16 refuses what is unplanted.
    names = [] if options.seeded is None else options.seeded or list(SEEDED if options.whole else EXPECTED)
    jobs = jobs_of(names, range(options.first, options.first + options.healthy))
    record: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "image": options.image}
    record |= {"whole": options.whole, "versions": versions(options.image), "runs": []}
    for job, told in outcomes(options.image, jobs, whole=options.whole):
        record["runs"].append(row(job, told))
        print(line(record["runs"][-1]), flush=True)
        write(record, options.out)
    return int(len(record["runs"]) < len(jobs) or not all(kept["good"] for kept in record["runs"]))


if __name__ == "__main__":
    sys.exit(main())
