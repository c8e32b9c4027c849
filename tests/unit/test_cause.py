"""Pages of an exception to the one line that a person reads first."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrypoint.judge.cause import LONGEST, cause

RECORDED = Path(__file__).resolve().parents[1] / "data/exceptions"

ACCESS = """\
Traceback (most recent call last):
  File "/opt/attn/entrypoint/probe/device.py", line 30, in synchronize
    torch.cuda.synchronize(where)
torch.AcceleratorError: CUDA error: an illegal memory access was encountered
Search for `cudaErrorIllegalAddress' in the CUDA documentation for more information.
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""
LIBCUDA = """\
no case runs forward and backward: BackendCompilerFailed: backend='inductor' raised:
AssertionError: libcuda.so cannot found!
Possible files are located at []. Please create a symlink of libcuda.so to any of the files.

Set TORCHDYNAMO_VERBOSE=1 for the internal stack trace (please do this especially if you're reporting a bug to PyTorch).

You can suppress this exception and fall back to eager by setting:
    import torch._dynamo
    torch._dynamo.config.suppress_errors = True
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("\n \n", ""),
        ("ImportError: no module named x", "ImportError: no module named x"),
        ("killed\nby somebody", "by somebody"),
        ("device lost\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n", "device lost"),
        (ACCESS, "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"),
        (LIBCUDA, "AssertionError: libcuda.so cannot found!"),
        ("CompilationError: at 12:8:\n  x = tl.load(p)\n  ^", "CompilationError: at 12:8: x = tl.load(p)"),
    ],
)
def test_the_cause_is_one_line(text: str, expected: str) -> None:
    """The last exception that is named, without what torch advises; else the last line."""
    assert cause(text) == expected


def test_a_long_line_is_cut() -> None:
    """What is left out can be seen."""
    assert cause("ValueError: " + "x" * 1000) == ("ValueError: " + "x" * 1000)[: LONGEST - 1] + "…"


def test_a_compilers_pages_become_one_line() -> None:
    """As torch.compile gave it for FlexAttention on a CPU with a C++ compiler that does not work: 72 lines."""
    text = (RECORDED / "inductor.txt").read_text()
    assert len(text) > 4000
    assert cause(text) == "InductorError: LoweringException: AssertionError: target: flex_attention"
