"""Where Inductor keeps its compiled kernels on a CPU: a folder for each instruction set, in an image's own directory.

Inductor loads a kernel that it compiled under another instruction set, and then the kernel computes wrong numbers: with
torch 2.13.0, FlexAttention of AVX-512 had relative errors of 0.8 under AVX2. A directory on a volume can meet
several machines, and the variables below make another instruction set of the same CPU.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

DIRECTORY: Final = "TORCHINDUCTOR_CACHE_DIR"
# The image's own value (docker/Dockerfile). Another one is the user's, and stays as it is.
DEFAULT: Final = "/tmp/attn/inductor"
# Variables that limit the instruction set, of ATen and of oneDNN by its older and its newer name.
LIMITS: Final = ("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA")


def variables(environ: Mapping[str, str], cpu: str) -> dict[str, str]:
    """What the check and the command get for `cpu`, its model and flags; nothing where the user chose a directory."""
    if environ.get(DIRECTORY) != DEFAULT:
        return {}
    decides = json.dumps([cpu, *map(environ.get, LIMITS)])
    return {DIRECTORY: f"{DEFAULT}/{hashlib.sha256(decides.encode()).hexdigest()[:12]}"}
