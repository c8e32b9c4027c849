"""Rehearse seeded defects and healthy runs in an image, and keep what came of each.

    python -m tests.rehearsal.run --image axolotl-attn:sdpa-cpu [--seeded [NAME…]] [--healthy N] --out FILE

The entrypoint is this tree's. One line a run; FILE is written after each, as JSON, and says which versions ran.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.rehearsal.container import LIMIT, Start, start
from tests.rehearsal.families import Setting, drawn
from tests.rehearsal.seeded import SEEDED

PACKAGES: Final = ("torch", "transformers", "axolotl", "peft")


def row(setting: Setting, done: Start) -> dict[str, Any]:
    """What is kept of a start."""
    return {
        "setting": setting.document(),
        "code": done.code,
        "verdict": done.report.get("verdict"),
        "rehearsal": done.rehearsal.get("verdict"),
        "reason": done.reason,
        "ratio": done.ratio,
        "seconds": {"start": round(done.seconds, 1), **done.rehearsal.get("seconds", {})},
    }


def seeded(image: str, name: str, limit: int) -> tuple[dict[str, Any], Start]:
    """A defect's run, and whether it ended with the code and the word that are expected."""
    expected = SEEDED[name]
    done = start(image, expected.setting, seeded=name, limit=limit)
    found = done.code == expected.code and bool(re.search(expected.word, done.reason))
    wanted = {"code": expected.code, "word": expected.word}
    return {"name": name, "found": found, "expected": wanted, **row(expected.setting, done)}, done


def healthy(image: str, seed: int, limit: int) -> tuple[dict[str, Any], Start]:
    """A healthy run, and whether it was rehearsed and passed."""
    setting = drawn(seed)
    done = start(image, setting, limit=limit)
    passed = done.code == 0 and done.rehearsal.get("verdict") == "PASS"
    return {"name": f"healthy {seed}", "passed": passed, **row(setting, done)}, done


def versions(image: str) -> dict[str, str]:
    """What takes part, as installed in the image."""
    code = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {PACKAGES!r}}}))"
    run = ["docker", "run", "--rm", "--network=none", "--env=ATTN_CHECK=off", image, "python", "-c", code]
    found: dict[str, str] = json.loads(subprocess.run(run, stdout=subprocess.PIPE, check=True).stdout)
    return found


def line(kept: dict[str, Any]) -> str:
    good = kept.get("found", kept.get("passed"))
    ratio = "" if kept["ratio"] is None else f" ratio {kept['ratio']:.3g}"
    seconds = " ".join(f"{name} {value:.1f}" for name, value in kept["seconds"].items())
    return f"{'ok  ' if good else 'BAD '} {kept['name']}: {kept['code']}{ratio} [{seconds}] {kept['reason'][:300]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="axolotl-attn:sdpa-cpu")
    parser.add_argument("--seeded", nargs="*", metavar="NAME", choices=list(SEEDED), help="these defects; none: all")
    parser.add_argument("--healthy", type=int, default=0, metavar="N", help="so many healthy runs")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first of their seeds")
    parser.add_argument("--limit", type=int, default=LIMIT, help="ATTN_TIMEOUT of each start (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    names = [] if options.seeded is None else options.seeded or list(SEEDED)
    record: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "image": options.image}
    record |= {"versions": versions(options.image), "runs": []}
    jobs = [(seeded, name) for name in names]
    jobs += [(healthy, seed) for seed in range(options.first, options.first + options.healthy)]
    for work, argument in jobs:
        kept, done = work(options.image, argument, options.limit)
        record["runs"].append(kept)
        print(line(kept), flush=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return sum(not kept.get("found", kept.get("passed")) for kept in record["runs"]) > 0


if __name__ == "__main__":
    sys.exit(main())
