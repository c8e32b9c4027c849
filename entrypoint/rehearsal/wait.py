"""A child that has imported beside the check waits until that is over, without a context on the GPU."""

from __future__ import annotations

import os
import select

from entrypoint.lines import GO


def told_to_go(descriptor: int) -> bool:
    """Whether the parent says so; no word of it means that it is gone.

    Imports read what a GPU can do, for which none needs a context. One that makes it would take memory of a GPU that
    others are timing: then this ends, and the parent begins anew.
    """
    told = bool(select.select([descriptor], [], [], 0.0)[0])
    if not told and has_context():
        return False
    return os.read(descriptor, len(GO)) == GO


def has_context() -> bool:
    """Whether this process holds a context on a GPU, as the driver says."""
    import torch

    if not torch.cuda.is_initialized():
        return False
    return any(torch._C._cuda_hasPrimaryContext(index) for index in range(torch.cuda.device_count()))
