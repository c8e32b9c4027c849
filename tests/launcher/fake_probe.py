"""A measuring child that behaves as the word in the file `behaviour` beside it says.

The launcher's tests put it in the place of `entrypoint/probe/__main__.py`: there is no switch in the product that
could select it. It writes the events of `entrypoint.events` without torch, so that a test takes milliseconds.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

BEHAVIOUR = Path(__file__).with_name("behaviour").read_text().strip()
ARGUMENTS = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
BACKEND, DEVICE = ARGUMENTS["--backend"], ARGUMENTS["--device"]
GPU = {"name": "NVIDIA Fake", "uuid": "GPU-0", "capability": "9.0", "driver": "580.1", "memory_total": 1 << 30}
EVENTS = os.fdopen(int(ARGUMENTS["--events"]), "w")


def emit(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), file=EVENTS, flush=True)


def phase(name: str, detail: str = "") -> None:
    emit("phase", name=name, detail=detail)
    if BEHAVIOUR == f"crash in {name}":
        os.kill(os.getpid(), signal.SIGSEGV)
    if BEHAVIOUR == f"killed in {name}":
        os.kill(os.getpid(), signal.SIGKILL)
    if BEHAVIOUR == f"hang in {name}":
        # A helper that keeps the pipes open, as a compiler worker does; its arguments say whose it is.
        worker = subprocess.Popen(["sh", "-c", "sleep 600; true", "worker", __file__])
        print(f"worker {worker.pid}", flush=True)
        time.sleep(600)
    if BEHAVIOUR == f"compute in {name}":
        while True:  # as a slow machine does, or a loop without an end
            pass
    if BEHAVIOUR == f"raise in {name}":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if BEHAVIOUR == f"silent exit in {name}":
        os._exit(0)


def numbers(error: float = 0.002) -> dict[str, object]:
    baseline = {"baseline": 0.002, "baseline_relative": 0.002}
    return {"error": error, "relative": error, "scale": 1.0, "finite": True, **baseline}


def main() -> None:
    if BEHAVIOUR == "noise":
        print("noise on stdout")
        print("not an event", file=EVENTS, flush=True)
    phase("import")
    if BEHAVIOUR == "unusable backend":
        emit("unusable", subject="backend", reason="ImportError: undefined symbol: _ZN3c10")
        return
    phase("machine")
    if BEHAVIOUR == "unusable device":
        emit("unusable", subject="device", reason="RuntimeError: CUDA driver initialization failed")
        return
    capability = BEHAVIOUR.removeprefix("capability ") if BEHAVIOUR.startswith("capability ") else "9.0"
    facts = {**GPU, "index": 0, "capability": capability} if DEVICE != "cpu" else {"index": None, "name": "fake CPU"}
    emit("machine", python="3", torch="9.9.9+cpu", packages={"torch": "9.9.9"}, device=facts)
    phase("compile")
    phase("correctness", "causal-d64")
    wrong = BEHAVIOUR == "wrong"
    none = BEHAVIOUR == "no gradient"
    gradients = {name: None if none else numbers() for name in ("dq", "dk", "dv")}
    conduct = {"mutated": ["k"] if BEHAVIOUR == "mutated" else [], "repeatable": BEHAVIOUR != "not repeatable"}
    tensors = {"out": numbers(0.5 if wrong else 0.002), **gradients}
    emit("case", id="causal-d64", seconds=0.1, tensors=tensors, **conduct)
    phase("observe")
    emit("kernels", names=["some_kernel"], observed="other" if BEHAVIOUR == "other kernel" else BACKEND, recorded=1)
    phase("performance")
    emit("ceiling", matmul_tflops=100.0, seconds=0.1, samples=[0.1])
    for direction in ("forward", "backward"):
        emit("speed", id="s512", direction=direction, tflops=50.0, seconds=0.1, samples=[0.1])
    emit("done", seconds={"import": 0.1, "correctness": 0.2})
    if BEHAVIOUR == "linger":
        time.sleep(600)


main()
