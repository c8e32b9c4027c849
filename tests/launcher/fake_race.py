"""A child that times nothing: it tells the times that the file `times` beside it holds, as `entrypoint.race` would.

{"sdpa": 3.0} is milliseconds of a forward, and of a backward the same; "wrong" and "crash" are what they say.
"""

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from entrypoint import events

TIMES = json.loads(Path(__file__).with_name("times").read_text())
ARGUMENTS = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
STREAM = os.fdopen(int(ARGUMENTS["--events"]), "w")
WRITTEN: Counter[str] = Counter()


def emit(event: events.Event) -> None:
    WRITTEN[events.NAMES[type(event)]] += 1
    print(events.encode(event), file=STREAM, flush=True)


def numbers(error: float) -> events.TensorErrors:
    return events.TensorErrors(
        error=error, baseline=0.002, relative=error, baseline_relative=0.002, scale=1.0, finite=True
    )


def contestant(backend: str, told: object) -> None:
    emit(events.PhaseEvent(name="correctness", detail=backend))
    if told == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    errors = dict.fromkeys(("out", "dq", "dk", "dv"), numbers(0.5 if told == "wrong" else 0.002))
    emit(
        events.CaseEvent(
            id=f"{backend}/full",
            dtype="bfloat16",
            inputs="normal",
            seconds=0.1,
            tensors=errors,  # type: ignore[arg-type]
        )
    )
    taken = told / 1000 if isinstance(told, float) else 0.001
    for direction in events.DIRECTIONS:
        emit(
            events.SpeedEvent(
                id=f"{backend}/full",
                direction=direction,
                call="",
                tflops=1.0,
                seconds=taken,
                samples=(taken,),
                planned=1,
            )
        )


for entered in json.loads(ARGUMENTS["--contestants"]):
    contestant(entered["backend"], TIMES[entered["backend"]])
emit(events.DoneEvent(seconds={}, left_out=(), written=dict(WRITTEN)))
