"""Which kernels really ran: names from torch's profiler, and the backend that they belong to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from entrypoint.probe import backends, device
from entrypoint.probe.calls import forward_backward
from entrypoint.probe.cases import Case, make_inputs

if TYPE_CHECKING:
    import torch

# A matrix product or a softmax of its own is attention taken apart: cuBLAS, CUTLASS and ATen on a GPU, ATen on a CPU.
UNFUSED = re.compile(r"gemm|nvjet|tensorop|softmax|aten::bmm", re.IGNORECASE)
NAME_LENGTH = 160


def kernel_names(backend: backends.Backend, case: Case, where: torch.device) -> tuple[str, ...]:
    """Names of what one forward and backward ran, each once, in order: kernels on a GPU, operators on a CPU.

    A CPU has no kernel events, so there its operators stand for them; bookkeeping ones are left out.
    """
    from torch.profiler import ProfilerActivity, profile

    arguments, dout = make_inputs(case, where)
    device.synchronize(where)  # nothing from before may fall into the recording
    activity = ProfilerActivity.CUDA if where.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as recording:
        forward_backward(backend, arguments, dout)
        device.synchronize(where)
    events = recording.events() or []
    if where.type == "cuda":
        seen = [event.name for event in events if event.device_type.name == "CUDA" and not event.is_user_annotation]
    else:
        seen = [event.name for event in events if UNFUSED.search(event.name) or owners(event.name)]
    return tuple(dict.fromkeys(seen))


def attribute(names: Sequence[str], asked: str) -> str | None:
    """The backend whose kernels `names` holds; None when there is no attention among them that any rule knows.

    Some backends launch the same kernels (xFormers and SDPA share torch's), so the one that was asked for goes first.
    Several are joined by "+". Attention taken apart into products and a softmax is "sdpa-math" for SDPA, whose path
    that is, and "<backend>-unfused" for another backend, which fell back to it.
    """
    found = {asked if asked in owners(name) else owners(name)[0] for name in names if owners(name)}
    if any(UNFUSED.search(name) and not owners(name) for name in names):
        found.add("sdpa-math" if asked == "sdpa" else f"{asked}-unfused")
    return "+".join(sorted(found)) or None


def owners(name: str) -> tuple[str, ...]:
    """Every backend that has a rule for this kernel name."""
    return tuple(backend for backend, rules in backends.kernel_rules().items() if rules.search(name))


def presentable(names: Sequence[str]) -> list[str]:
    """Attention's own kernels first, then copies and fills; of names thousands of characters long, how they begin."""
    ordered = sorted(names, key=lambda name: not owners(name))
    return [name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…" for name in ordered]
