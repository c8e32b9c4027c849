"""Which seeded defects each depth finds on the GPU at hand, and what each depth of a real backend takes.

    docker run --rm --gpus all -e ATTN_CHECK=off -v "$PWD:/repo:ro" -e PYTHONPATH=/repo axolotl-attn:ID \
        python -P -m tests.gpu.defects_by_depth --backend NAME

It needs the torch of the image and nothing else. The table and the seconds go to standard output as one JSON document,
one line of progress for each step to standard error; with `--out FILE` the document is also kept after each step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from entrypoint.probe import accuracy, backends, cases, compact, device, memory, own
from entrypoint.shape import Shape
from tests.defects import table
from tests.defects.seeded import wrong_kernels
from tests.unit.wrong_kernels import EVERYTHING, backend, kernel

# A model's calls at two lengths: one head group, since the wrong kernels write down the square of the scores.
RUN = Shape(
    heads=4, kv_heads=1, head_dim=64, value_dim=64, scale=0.125, rows=1, length=8192, dtype="bfloat16", packed=True
)
LONG = replace(cases.LONG_CPU, id="causal-s8192-d128", seqlen=8192, head_dim=128)


def main() -> None:
    options = parse()
    where = device.open_device(options.device)
    torch.set_default_device(where)  # the wrong kernels make their masks on it
    document: dict[str, Any] = {"device": torch.cuda.get_device_name(where), "torch": torch.__version__}
    document["seconds"] = {} if options.no_seconds else seconds(options.backend, options.device)
    keep(document, options.out)
    document["defects"] = {}
    for head, column in columns(where).items():
        document["defects"][head] = found(head, column, where)
        keep(document, options.out)
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="sdpa", help="whose seconds are taken; the defects are nobody's kernels")
    parser.add_argument("--device", default="cuda:0", help="torch's name of it")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--no-seconds", action="store_true", help="the defects alone")
    return parser.parse_args()


def keep(document: dict[str, Any], out: Path | None) -> None:
    if out:
        out.write_text(json.dumps(document, indent=1) + "\n")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def columns(where: torch.device) -> dict[str, Sequence[cases.Case]]:
    """As tests/defects/table.py has them, at this GPU's lengths; the far case as it is where it has room."""
    far = memory.room_for_far(where)
    mine = own.own_cases(RUN, backend(kernel()), "cuda", few=False)
    return {
        "deep, or start": (*cases.startup_cases(EVERYTHING, far=far), LONG),
        "start, few variants": (*compact.compact_cases(EVERYTHING, far=far), *cases.SHIFTED[:1], LONG),
        "start of a known run": sorted(mine.cases, key=lambda case: case.sampled),
    }


def found(head: str, column: Sequence[cases.Case], where: torch.device) -> dict[str, Any]:
    """By defect the case that finds it and where, null where none does; what raised is said, and the next is tried.

    `seconds` are those of the right kernel in all cases, `alarms` what the verdict has against it: nothing.
    """
    wrong, began = wrong_kernels(), time.monotonic()
    results: dict[str, list[str] | None] = {}
    alarms: dict[str, str] = {}
    for case in column:
        if alarm := finding(backend(kernel()), case, where):
            alarms[case.id] = alarm
    right = time.monotonic() - began
    for case in column:
        for name in [name for name in wrong if not results.get(name)]:
            seen = finding(wrong[name], case, where)
            results[name] = [case.id, seen] if seen else None
        say(f"{head}: {case.id}, {sum(map(bool, results.values()))} of {len(wrong)} found")
    return {"seconds": round(right, 2), "alarms": alarms, "found": results}


def finding(kernel: backends.Backend, case: cases.Case, where: torch.device) -> str | None:
    """What the verdict has against it. Raises the device's own error when that is lost."""
    try:
        return table.finding(accuracy.measure(kernel, case, where).event(case, 0.0))
    except Exception as error:  # noqa: BLE001 - a mistake may raise anything on another device
        device.recover(where)
        return f"raises {type(error).__name__}: {error}"[:200]


def seconds(name: str, device_name: str) -> dict[str, Any]:
    """By depth what the real check of a backend takes by phase, each in a process with a compiler's cache of its own.

    FlashAttention 4 keeps the kernels that came with the image.
    """
    depths = {"start": ["--depth", "start"], "deep": ["--depth", "deep"]}
    depths["start of a known run"] = ["--depth", "start", "--shape", RUN.to_json()]
    return {depth: _child(name, device_name, flags) for depth, flags in depths.items()}


def _child(name: str, device_name: str, flags: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "entrypoint.probe", "--backend", name, "--device", device_name]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        environ = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor", "TRITON_CACHE_DIR": f"{cache}/triton"}
        jobs = ["--jobs", str(len(os.sched_getaffinity(0)))]
        done = subprocess.run([*command, *jobs, *flags], env=environ, stdout=subprocess.PIPE, check=False, timeout=600)
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    ends = [event for event in events if event["event"] in {"done", "unusable"}]
    result = {"total": round(time.monotonic() - began, 2), "code": done.returncode, "end": ends[-1:]}
    result["first_calls"] = {event["id"]: event["seconds"] for event in events if event["event"] == "first_call"}
    result["cases"] = {event["id"]: event["seconds"] for event in events if event["event"] == "case"}
    say(f"{name} {' '.join(flags[:2])}: {result['total']} s")
    return result


if __name__ == "__main__":
    main()
