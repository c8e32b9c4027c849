"""The exit codes that NVSentinel's preflight checks end with: `check --exit-codes=nvsentinel`.

0: passed. 1: the test failed, and the node is treated as unhealthy. 2: the check could not be made as it was set up,
which says nothing about the hardware. (NVIDIA/NVSentinel, preflight-checks.)
"""

from __future__ import annotations

from typing import Final

from entrypoint.judge.finding import Code

FAILED: Final = frozenset({Code.WRONG, Code.SLOW, Code.GPU_FAULT})


def exit_code(number: int) -> int:
    """NVSentinel's code for one of ours."""
    code = Code(number)
    return 0 if code is Code.PASS else 1 if code in FAILED else 2
