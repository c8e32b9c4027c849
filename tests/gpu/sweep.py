"""How near healthy kernels come to their budgets: `python -m tests.gpu.sweep --out FILE --sweeps N BACKEND…`.

A sweep is every case of a backend, and of each of its forced kernels, with seeds that no sweep before it had; with
`--sampled` every case that is compared by rows, those of a few known runs among them. FILE gets the worst share of its
budget that each case has used (1 is a false alarm) and which tensor and rule that was; a case that raises is in
`refused`, and no more.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from entrypoint.judge.budgets import weigh_case
from entrypoint.probe import accuracy, backends, device, facts, memory, own, schedule
from entrypoint.shape import Shape

# Seeds of the check itself are below.
FRESH = 1000
LLAMA = Shape(heads=32, kv_heads=8, head_dim=128, value_dim=128, scale=128**-0.5, rows=2, length=8192, dtype="bfloat16")
# Llama 3 8B, the same packed, Mistral with its window, and heads as of Gemma 2.
RUNS = (
    LLAMA,
    replace(LLAMA, packed=True),
    replace(LLAMA, window=4096),
    replace(
        LLAMA, heads=8, kv_heads=4, head_dim=256, value_dim=256, scale=1 / 16, window=4096, mixed=True, softcap=50.0
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="torch's name of it")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--sweeps", type=int, default=60, help="of each backend")
    parser.add_argument("backends", nargs="+", metavar="BACKEND")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of each backend; then it begins no new sweep")
    parser.add_argument("--sampled", action="store_true", help="only long cases, and the calls of a few known runs")
    options = parser.parse_args()
    where = device.open_device(options.device)
    document: dict[str, Any] = {"date": date.today().isoformat(), **asdict(facts.machine(where)), "backends": {}}
    for name in options.backends:
        document["backends"][name] = swept = sweep(
            backends.load(name, where), where, options.sweeps, sampled=options.sampled, seconds=options.seconds
        )
        worst = max(swept["cases"].items(), key=lambda item: float(item[1]["ratio"]), default="none ran")
        print(f"{name}: {swept['runs']} cases in {swept['seconds']} s, {len(swept['alarms'])} alarms, worst {worst}")
        options.out.write_text(json.dumps(document, indent=1) + "\n")


def sweep(
    backend: backends.Backend, where: torch.device, sweeps: int, *, sampled: bool = False, seconds: float = math.inf
) -> dict[str, Any]:
    """`sweeps` are those that were begun before `seconds` were over; the last of them is whole."""
    cases: dict[str, dict[str, Any]] = {}
    alarms: list[str] = []
    refused: dict[str, str] = {}
    runs, begun, started = 0, 0, time.monotonic()
    for run, seed in fresh(backend, where, sweeps, sampled=sampled):
        if seed // FRESH > begun:
            if time.monotonic() - started > seconds:
                break
            begun = seed // FRESH
        try:
            worst = weighed(run, where)
        except Exception as error:  # noqa: BLE001 - a kernel may raise anything; hours of sweeps do not end with it
            device.recover(where)
            refused[run.case.id] = f"{type(error).__name__}: {error}"[:500]
            continue
        runs += 1
        if not worst["ratio"] <= 1.0:
            alarms.append(f"{run.case.id} seed {seed}: {worst}")
        if not worst["ratio"] <= cases.get(run.case.id, worst)["ratio"] or run.case.id not in cases:
            cases[run.case.id] = worst
    return {
        "sweeps": begun,
        "runs": runs,
        "seconds": round(time.monotonic() - started, 1),
        "alarms": alarms,
        "refused": refused,
        "cases": cases,
    }


def fresh(
    backend: backends.Backend, where: torch.device, sweeps: int, *, sampled: bool = False
) -> Iterator[tuple[schedule.Scheduled, int]]:
    """The plan again and again, every run with a seed of its own; the far case, which takes seconds, only once."""
    for number in range(sweeps):
        runs = schedule.checked(backend, where.type, far=number == 0 and memory.room_for_far(where))
        for index, run in enumerate(long_runs(backend, where.type) if sampled else runs):
            seed = FRESH * (number + 1) + index
            yield schedule.Scheduled(run.backend, replace(run.case, seed=seed)), seed


def long_runs(backend: backends.Backend, device_type: str) -> list[schedule.Scheduled]:
    """What is compared by rows, in the check and of the known runs; each variant is compiled once for all sweeps."""
    few = backends.compiles_each_variant(backend.name)
    known = [own.own_cases(shape, backend, device_type, few=few).cases for shape in RUNS]
    cases = [run.case for run in schedule.checked(backend, device_type, far=False) if run.backend is backend]
    every = {case.variant: case for case in (*cases, *(case for run in known for case in run)) if case.sampled}
    return [schedule.Scheduled(backend, case) for case in every.values()]


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
