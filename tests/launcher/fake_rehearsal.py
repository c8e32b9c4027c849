"""A rehearsing child that behaves as the word behind "rehearsal " in the file `behaviour` says, without Axolotl.

The launcher's tests put it in the place of `entrypoint/rehearsal/__main__.py`.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from entrypoint.events import KernelsEvent
from entrypoint.rehearsal import events

WORD = (Path(__file__).parents[1] / "probe/behaviour").read_text().strip().removeprefix("rehearsal ")
ARGUMENTS = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
STREAM = os.fdopen(int(ARGUMENTS["--events"]), "w")
VARIABLES = ("RANK", "CUDA_VISIBLE_DEVICES", "NUMBA_DISABLE_JIT")
WRITTEN: Counter[str] = Counter()


def emit(event: events.RehearsalEvent) -> None:
    WRITTEN[events.NAMES[type(event)]] += 1
    print(events.encode(event), file=STREAM, flush=True)


def note(what: str) -> None:
    """Into the file `order` beside `behaviour`, as the fake of the check does; a container may have it read-only."""
    with contextlib.suppress(OSError), Path(__file__).parents[1].joinpath("probe/order").open("a") as file:
        print(what, file=file)


def main() -> None:
    print("arguments", json.dumps({name: ARGUMENTS[name] for name in ("--flags", "--merged", "--device", "--backend")}))
    print("environment", json.dumps({name: os.environ.get(name) for name in VARIABLES}))
    emit(events.StageEvent(name="import"))
    waits = "--wait" in ARGUMENTS
    if waits and WORD in {"beside, and has ended", "beside, and is about to end"}:
        os.close(0)
        note("imported")
        time.sleep(600 if WORD == "beside, and is about to end" else 0)
        return
    note("imported")
    if waits:
        emit(events.StageEvent(name="wait"))
        if sys.stdin.readline() != "go\n":
            return
    note("rehearses")
    emit(
        events.ShrunkEvent(
            type="llama", layers=2, of_layers=32, kinds=(), hidden=256, heads=4, kv_heads=1, head_dim=64,
            vocabulary=512, reduced=("2 of 32 layers",),
        )
    )  # fmt: skip
    emit(events.ChangedEvent(reduced=("rows of 256 instead of 8192 positions",), off=()))
    if WORD == "full":
        emit(events.MemoryEvent(free=7 << 30, total=140 << 30, own=0))
    emit(events.StageEvent(name="compare", detail="run"))
    if WORD in {"full", "too large"}:
        reason = "OutOfMemoryError: CUDA out of memory. Tried to allocate 8.00 GiB"
        kind = reason.partition(":")[0]
        emit(events.RaisedEvent(stage="compare", part="run", kind=kind, reason=reason, where="", out_of_memory=True))
    if WORD == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if WORD == "hang":
        time.sleep(600)
    if WORD == "left":
        emit(events.LeftEvent(reason="its model is odd"))
    gradient = events.Difference(what="q_proj.weight", error=1e-6, baseline=1e-6, norm=1.0, ratio=1.0)
    loss = 7.0 if WORD == "wrong" else 6.5
    emit(events.ComparedEvent(run=loss, reference=6.5, baseline=6.5, gradients=(gradient,)))
    emit(events.LeakEvent(documents=5, run=0.0, reference=0.0, noise=0.0))
    emit(KernelsEvent(asked="sdpa", names=("aten::_scaled",), observed="sdpa", recorded=3))
    for part in ("run", "reference", "baseline"):
        emit(events.StepsEvent(part=part, losses=(loss, 6.4)))
    seconds = {"import": 0.25, **({"wait": 3600.0} if "--wait" in ARGUMENTS else {}), "compare": 0.5}
    emit(events.EndEvent(seconds=seconds, peak=None, written=dict(WRITTEN)))


main()
