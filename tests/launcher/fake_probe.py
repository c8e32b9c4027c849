"""A measuring child that behaves as the word in the file `behaviour` beside it says.

The launcher's tests put it in the place of `entrypoint/probe/__main__.py`: there is no switch in the product that
could select it. It writes the events of `entrypoint.events` without torch, so that a test takes milliseconds.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from entrypoint import events

ARGUMENTS = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
BACKEND, DEVICE = ARGUMENTS["--backend"], ARGUMENTS["--device"]
# "wrong on cuda:3": the other GPUs are healthy.
WORD, _, ONLY = Path(__file__).with_name("behaviour").read_text().strip().partition(" on ")
BEHAVIOUR = WORD if ONLY in ("", DEVICE) else "healthy"
EVENTS = os.fdopen(int(ARGUMENTS["--events"]), "w")
PAGES = "\n".join(
    ["InductorError: LoweringException:", *["a page of code"] * 40, "AssertionError: libcuda.so cannot found!"]
)
WRITTEN: Counter[str] = Counter()


def emit(event: events.Event) -> None:
    name = events.NAMES[type(event)]
    WRITTEN[name] += 1
    line = events.encode(event)
    # Half of a line, as when a library writes into the middle of it.
    print(line[: len(line) // 2] if BEHAVIOUR == f"garbled {name}" else line, file=EVENTS, flush=True)


def phase(name: events.Phase, detail: str = "") -> None:
    emit(events.PhaseEvent(name=name, detail=detail))
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
    if BEHAVIOUR == f"fill memory in {name}":
        kept: list[bytes] = []
        while True:
            kept.append(b"1" * (1 << 22))
    if BEHAVIOUR == f"raise in {name}":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if BEHAVIOUR == f"silent exit in {name}":
        os._exit(0)


def meet(count: int) -> None:
    """Go on only when so many children are here at the same time; each of them leaves a file."""
    here = Path("/tmp/children")
    here.mkdir(exist_ok=True)
    (here / DEVICE).touch()
    while len(list(here.iterdir())) < count:
        time.sleep(0.01)


def beside() -> None:
    """Go on only when the rehearsal's child, begun beside this one, has imported."""
    order = Path(__file__).with_name("order")
    while not order.exists():
        time.sleep(0.01)
    if BEHAVIOUR == "rehearsal beside a hang":
        time.sleep(600)
    if BEHAVIOUR == "rehearsal beside a parent that is killed":
        os.kill(os.getppid(), signal.SIGKILL)
        os._exit(0)
    with order.open("a") as file:
        print("checked", file=file)


def compiles() -> bool:
    """As a compiler does: what lies in its folder is loaded without a look at it. Whether it is no good."""
    kernel = Path(os.environ["TRITON_CACHE_DIR"], "kernel")
    if not kernel.exists():
        kernel.parent.mkdir(parents=True, exist_ok=True)
        half = kernel.with_name(f".{os.urandom(4).hex()}")
        half.write_text("good")
        os.utime(half, (0, 0))  # a check takes longer than this one
        half.replace(kernel)
    return kernel.read_text() != "good"


def numbers(error: float = 0.002) -> events.TensorErrors:
    return events.TensorErrors(
        error=error, baseline=0.002, relative=error, baseline_relative=0.002, scale=1.0, finite=True
    )


def facts() -> events.DeviceFacts:
    capability = BEHAVIOUR.removeprefix("capability ") if BEHAVIOUR.startswith("capability ") else "9.0"
    on_gpu = DEVICE != "cpu"
    return events.DeviceFacts(
        index=0,
        name="NVIDIA Fake" if on_gpu else "fake CPU",
        uuid="GPU-0" if on_gpu else None,
        capability=capability if on_gpu else None,
        driver="580.1" if on_gpu else None,
        memory_total=1 << 30,
        memory_free=1 << 30,
    )


def case() -> events.CaseEvent:
    gradient = None if BEHAVIOUR == "no gradient" else numbers()
    wrong = BEHAVIOUR in {"wrong", "rehearsal beside a wrong check"} or (BEHAVIOUR == "compiled" and compiles())
    return events.CaseEvent(
        id="causal-d64",
        dtype="bfloat16",
        inputs="normal",
        seconds=0.1,
        tensors={
            "out": numbers(0.5 if wrong else 0.002),
            "dq": gradient,
            "dk": gradient,
            "dv": gradient,
        },
        mutated=("k",) if BEHAVIOUR == "mutated" else (),
        repeatable=BEHAVIOUR != "not repeatable",
    )


def speed(direction: events.Direction) -> events.SpeedEvent:
    return events.SpeedEvent(
        id="s512", direction=direction, call="causal", tflops=50.0, seconds=0.1, samples=(0.1,), planned=1
    )


def main() -> None:
    if BEHAVIOUR == "noise":
        print("noise on stdout")
        print("not an event", file=EVENTS, flush=True)
    phase("import")
    if BEHAVIOUR == "unusable backend":
        emit(events.UnusableEvent(subject="backend", reason="ImportError: undefined symbol: _ZN3c10"))
        return
    if BEHAVIOUR == "unusable in pages":
        emit(events.UnusableEvent(subject="backend", reason=PAGES))
        return
    phase("machine")
    if BEHAVIOUR == "unusable device":
        emit(events.UnusableEvent(subject="device", reason="RuntimeError: CUDA driver initialization failed"))
        return
    emit(events.MachineEvent(python="3", torch="9.9.9+cpu", packages={"torch": "9.9.9"}, device=facts()))
    phase("compile")
    phase("correctness", "causal-d64")
    if BEHAVIOUR.startswith("meet "):
        meet(int(BEHAVIOUR.removeprefix("meet ")))
    if BEHAVIOUR.startswith("rehearsal beside"):
        beside()
    emit(case())
    phase("observe")
    observed = "other" if BEHAVIOUR == "other kernel" else BACKEND
    emit(events.KernelsEvent(asked=BACKEND, names=("some_kernel",), observed=observed, recorded=1))
    emit(events.HealthEvent(reason="this device has no NVML"))
    phase("performance")
    matmul = 80.0 if BEHAVIOUR == "slow" else 100.0
    emit(events.CeilingEvent(matmul_tflops=matmul, seconds=0.1, samples=(0.1,), planned=1))
    for direction in events.DIRECTIONS:
        emit(speed(direction))
    # What it was told, where the report shows it.
    deeper = (f"depth {ARGUMENTS['--depth']}", f"shape {ARGUMENTS.get('--shape')}")
    seconds = {"import": 0.1, "correctness": 0.2}
    emit(events.DoneEvent(seconds=seconds, left_out=(), written=dict(WRITTEN), deeper=deeper))
    if BEHAVIOUR == "linger":
        time.sleep(600)


main()
