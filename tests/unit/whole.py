"""Events as a child writes them: a test names the fields that it is about, and a healthy run has the others."""

from __future__ import annotations

import json
from typing import Any, Final

from entrypoint.events import DeviceFacts, HealthEvent, TensorErrors

NUMBERS: Final = TensorErrors(
    error=0.002, baseline=0.002, relative=0.002, baseline_relative=0.002, scale=1.0, finite=True
)
DEVICE: Final = DeviceFacts(
    index=0,
    name="NVIDIA H200",
    uuid="GPU-0",
    capability="9.0",
    driver="580.159.04",
    memory_total=150109880320,
    memory_free=149458911232,
)
HEALTHY: Final[dict[str, dict[str, Any]]] = {
    "phase": {"name": "correctness", "detail": ""},
    "machine": {"python": "3.11.2", "torch": "2.10.0+cu128", "packages": {}, "device": {}},
    "unusable": {"subject": "backend", "reason": ""},
    "first_call": {"id": "causal-d64", "seconds": 0.04},
    "case": {
        "id": "causal-d64",
        "dtype": "bfloat16",
        "inputs": "normal",
        "seconds": 0.02,
        "tensors": dict.fromkeys(("out", "dq", "dk", "dv"), vars(NUMBERS)),
        "no_gradient": None,
        "mutated": [],
        "repeatable": None,
        "relative_error": None,
    },
    "case_error": {"id": "causal-d64", "reason": "", "out_of_memory": False},
    "kernels": {"asked": "fa4", "names": ["k"], "observed": "fa4", "recorded": 1, "reason": None},
    "health": vars(HealthEvent()),
    "ceiling": {"matmul_tflops": 700.0, "seconds": 1.4e-3, "samples": [1.4e-3], "planned": 1},
    "bandwidth": {"gigabytes_per_second": 4150.0, "seconds": 5e-4, "samples": [5e-4], "planned": 1},
    "speed": {
        "id": "s8192",
        "direction": "forward",
        "call": "causal, 1 x 8192 positions, 16 heads of 128, bfloat16",
        "tflops": 600.0,
        "seconds": 1e-3,
        "samples": [1e-3],
        "planned": 1,
    },
    "comparison": {"id": "s8192", "direction": "forward", "own": 1e-3, "others": {"plain": 1e-2}},
    "done": {"seconds": {}, "left_out": [], "written": {}, "deeper": []},
}


def whole(event: dict[str, Any]) -> dict[str, Any]:
    """The event with every field: those that are not given are a healthy run's, of a device too."""
    full = {**HEALTHY[event["event"]], **event}
    return full | {"device": vars(DEVICE) | full["device"]} if event["event"] == "machine" else full


def line(event: dict[str, Any]) -> bytes:
    """The whole event as the child writes it."""
    return json.dumps(whole(event)).encode()
