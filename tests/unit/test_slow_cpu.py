"""A check on a CPU without bf16 instructions, which two variables of torch's libraries make of any x86 CPU.

What is asserted is what is measured and what is left out, never how long it takes: neighbours change that.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from entrypoint.probe import performance
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
# oneDNN's and ATen's kernels as on a CPU with AVX2 alone: products of bf16 tensors are emulated.
SLOW = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
COUNT = """
import json
import torch
from entrypoint.probe import cases, reference

products, einsum = [], torch.einsum

def counted(equation, *tensors):
    products.extend(str(tensor.dtype) for tensor in tensors)
    return einsum(equation, *tensors)

arguments, dout = cases.make_inputs(cases.BASE[0], torch.device("cpu"))
torch.einsum = counted
results = reference.plain_torch(arguments, dout)
print(json.dumps([products, str(results.out.dtype), str(results.dq.dtype), torch.backends.cpu.get_cpu_capability()]))
"""

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86 CPU, whose AVX2 can be forced")


def python(*arguments: str) -> str:
    """The output of Python on the slow CPU."""
    pytest.importorskip("torch")
    environ = {**os.environ, **SLOW, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-P", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    """What the real child says of SDPA there, within no time at all: everything that can be left out is."""
    text = python("-m", "entrypoint.probe", "--backend", "sdpa", "--device", "cpu", "--seconds", "0")
    return [json.loads(line) for line in text.splitlines()]


def test_a_slow_cpu_is_checked_and_has_no_ceiling(events: list[dict[str, Any]]) -> None:
    """Attention is timed; no matmul and no copy is, nor is there a phase for one."""
    kinds = Counter(event["event"] for event in events)
    phases = {event["detail"] for event in events if event["event"] == "phase" and event["name"] == "performance"}

    assert (kinds["ceiling"], kinds["bandwidth"], kinds["speed"], kinds["comparison"]) == (0, 0, 2, 1)
    assert phases == {"causal-s333-d64", "causal-s2048-d64 beside torch's"}


def test_what_is_timed_keeps_to_its_samples(events: list[dict[str, Any]]) -> None:
    """As many as were planned or fewer, and what was called is said in words."""
    for speed in (event for event in events if event["event"] == "speed"):
        assert 1 <= len(speed["samples"]) <= speed["planned"]
        assert speed["call"] == performance.in_words(performance.timed_cases("cpu")[0])


def test_no_time_leaves_the_plainest_cases_and_names_the_rest(events: list[dict[str, Any]]) -> None:
    """Neither lost in silence nor counted as right."""
    run = [event["id"] for event in events if event["event"] == "case"]

    assert run == ["causal-d64", "full-d64", "causal-d128", "full-d128"]
    assert {"causal-d64-x3", "flash:causal-d64", "varlen-d64"} <= set(events[-1]["left_out"])
    assert not set(run) & set(events[-1]["left_out"])


def test_the_baseline_multiplies_in_float32_and_rounds_once() -> None:
    """No product of halves, which such a CPU emulates; output and gradients are in the dtype of the inputs."""
    products, out, dq, capability = json.loads(python("-c", COUNT))

    assert capability == "AVX2"
    assert products == ["torch.float32"] * 4
    assert (out, dq) == ("torch.bfloat16", "torch.bfloat16")
