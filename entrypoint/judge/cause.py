"""The one line of a long exception that a person reads first. Pure.

An exception of a compiler has pages: code, the command that failed, and advice on how to get more of it. The report
keeps them all; a verdict's first lines carry the cause alone.
"""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 300  # characters
# A line that begins with an exception's name and says something: "torch.AcceleratorError: CUDA error: …".
_EXCEPTION: Final = re.compile(r"(?:\w+: )*(?:\w+\.)*\w*(?:Error|Exception|Failed|Exc)(?:: .*\w.*)")
# What torch adds to an exception: how to get more of it, which is no cause of anything.
_ADVICE: Final = re.compile(
    r"Set TORCHDYNAMO_VERBOSE|You can suppress this exception|import torch\._dynamo|torch\._dynamo\.config|"
    r"CUDA kernel errors might be|For debugging consider passing|Compile with `TORCH_USE_CUDA_DSA`|"
    r"Search for `cudaError|Device-side assertion tracking|Please check that|Developer debug context|"
    r"For more details about this graph break|The above exception was the direct cause|from user code:"
)


def cause(text: str) -> str:
    """The last line of `text` that names an exception and what it says, at most LONGEST characters of it.

    An exception that wraps another one has the inner one last. The last line of all when no line names one.
    """
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _ADVICE.match(line)]
    if not lines:
        return ""
    named = [index for index, line in enumerate(lines) if _EXCEPTION.match(line)]
    index = named[-1] if named else len(lines) - 1
    # A line such as "LoweringException: AssertionError:" has its message on the next one.
    line = " ".join(lines[index : index + 2]) if lines[index].endswith(":") else lines[index]
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
