"""How near healthy kernels come to their budgets: `python -P -m tests.gpu.sweep --out FILE --sweeps N BACKEND…`.

A sweep is every case of a backend, and of each of its forced kernels, with seeds that no sweep before it had. FILE gets
the worst share of its budget that each case has used (1 is a false alarm) and which tensor and rule that was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from entrypoint.judge.budgets import weigh_case
from entrypoint.probe import accuracy, backends, device, facts, memory, schedule

# Seeds of the check itself are below.
FRESH = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="torch's name of it")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--sweeps", type=int, default=60, help="of each backend")
    parser.add_argument("backends", nargs="+", metavar="BACKEND")
    options = parser.parse_args()
    where = device.open_device(options.device)
    document: dict[str, Any] = {"date": date.today().isoformat(), **asdict(facts.machine(where)), "backends": {}}
    for name in options.backends:
        document["backends"][name] = swept = sweep(backends.load(name, where), where, options.sweeps)
        worst = max(swept["cases"].items(), key=lambda item: float(item[1]["ratio"]))
        print(f"{name}: {swept['runs']} cases in {swept['seconds']} s, {len(swept['alarms'])} alarms, worst {worst}")
        options.out.write_text(json.dumps(document, indent=1) + "\n")


def sweep(backend: backends.Backend, where: torch.device, sweeps: int) -> dict[str, Any]:
    cases: dict[str, dict[str, Any]] = {}
    alarms: list[str] = []
    runs, started = 0, time.monotonic()
    for run, seed in fresh(backend, where, sweeps):
        worst = weighed(run, where)
        runs += 1
        if not worst["ratio"] <= 1.0:
            alarms.append(f"{run.case.id} seed {seed}: {worst}")
        if not worst["ratio"] <= cases.get(run.case.id, worst)["ratio"] or run.case.id not in cases:
            cases[run.case.id] = worst
    return {
        "sweeps": sweeps,
        "runs": runs,
        "seconds": round(time.monotonic() - started, 1),
        "alarms": alarms,
        "cases": cases,
    }


def fresh(backend: backends.Backend, where: torch.device, sweeps: int) -> Iterator[tuple[schedule.Scheduled, int]]:
    """The plan again and again, every run with a seed of its own; the far case, which takes seconds, only once."""
    for number in range(sweeps):
        for index, run in enumerate(schedule.checked(backend, far=number == 0 and memory.room_for_far(where))):
            seed = FRESH * (number + 1) + index
            yield schedule.Scheduled(run.backend, replace(run.case, seed=seed)), seed


def weighed(run: schedule.Scheduled, where: torch.device) -> dict[str, Any]:
    """The tensor that came nearest to its budget. What the check also looks at, conduct, is an alarm here as well."""
    measured = accuracy.measure(run.backend, run.case, where)
    if measured.mutated or measured.no_gradient or measured.repeatable is False:
        return {"ratio": float("inf"), "conduct": [*measured.mutated, measured.no_gradient, measured.repeatable]}
    claims = run.backend.capabilities
    designed = None if claims is None else claims.relative_error
    worst = max(weigh_case(measured.event(run.case, 0.0, designed)), key=lambda one: one.ratio)
    return {"ratio": round(worst.ratio, 3), "tensor": worst.tensor, "rule": worst.rule}


if __name__ == "__main__":
    main()
