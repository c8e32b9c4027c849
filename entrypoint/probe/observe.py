"""Which kernels really ran: names from torch's profiler, and the backend that they belong to."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from entrypoint.probe import backends, device
from entrypoint.probe.calls import forward_backward
from entrypoint.probe.cases import Case, make_inputs

if TYPE_CHECKING:
    import torch

# A matrix product or a softmax of its own is attention taken apart: cuBLAS, CUTLASS and ATen on a GPU, ATen on a CPU.
UNFUSED = re.compile(r"gemm|nvjet|tensorop|softmax|aten::bmm", re.IGNORECASE)
NAME_LENGTH = 160


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What the profiler saw: each name once, in order, and the number of all events, of attention or not.

    `recorded` 0 is a profiler that saw nothing; `recorded` above 0 without a name that any rule knows is a call in
    which no attention kernel ran.
    """

    names: tuple[str, ...]
    recorded: int


def record(backend: backends.Backend, case: Case, where: torch.device) -> Recording:
    """What one forward and backward of a case ran."""
    arguments, dout = make_inputs(case, where)
    return recorded(where, lambda: forward_backward(backend, arguments, dout))


def recorded(where: torch.device, call: Callable[[], object]) -> Recording:
    """What `call` ran: kernels on a GPU, operators on a CPU.

    A CPU has no kernel events, so there its operators stand for them; the names leave out the bookkeeping ones.
    torch.profiler's own `profile` is this and, for one second of each start, imports of torch.distributed.
    """
    from torch.autograd.profiler import profile

    device.synchronize(where)  # nothing from before may fall into the recording
    on_gpu = where.type == "cuda"
    with profile(use_cpu=not on_gpu, use_device="cuda" if on_gpu else None, use_kineto=True) as recording:
        call()
        device.synchronize(where)
    events = recording.function_events or []
    if where.type == "cuda":
        seen = [event.name for event in events if event.device_type.name == "CUDA" and not event.is_user_annotation]
        return Recording(names=tuple(dict.fromkeys(seen)), recorded=len(seen))
    seen = [event.name for event in events]
    named = [name for name in seen if UNFUSED.search(name) or owners(name)]
    return Recording(names=tuple(dict.fromkeys(named)), recorded=len(seen))


def attribute(names: Sequence[str], asked: str) -> str | None:
    """The backend whose kernels `names` holds; None when there is no attention among them that any rule knows.

    `asked` is a backend's name, or that of one of its forced kernels ("sdpa-cudnn"); then the answer is as exact.
    Some backends launch the same kernels (xFormers and SDPA share torch's), so the one that was asked for goes first.
    Several are joined by "+". Attention taken apart into products and a softmax is "sdpa-math" for SDPA, whose path
    that is, and "<backend>-unfused" for another backend, which fell back to it.
    """
    base, _, variant = asked.partition("-")
    found = {owner for name in names if (owner := owner_of(name, base, asked if variant else base)) is not None}
    if any(UNFUSED.search(name) and not owners(name) for name in names):
        found.add("sdpa-math" if base == "sdpa" else f"{base}-unfused")
    return "+".join(sorted(found)) or None


def owner_of(name: str, base: str, asked: str) -> str | None:
    """The backend that a kernel belongs to, None where no rule knows it.

    Of the backend that was asked for by a forced kernel it is that kernel, or the other one that ran; a variant without
    kernels of its own, such as a deterministic mode, is taken at its word.
    """
    owning = owners(name)
    if base not in owning:
        return owning[0] if owning else None
    if asked == base:
        return base
    variants = backends.variant_rules(base)
    if asked.removeprefix(f"{base}-") not in {*variants, "math"}:
        return asked
    ran = [f"{base}-{variant}" for variant, rules in variants.items() if rules.search(name)]
    return asked if asked in ran else next(iter(ran), base)


def owners(name: str) -> tuple[str, ...]:
    """Every backend that has a rule for this kernel name."""
    return tuple(backend for backend, rules in backends.kernel_rules().items() if rules.search(name))


def presentable(names: Sequence[str]) -> tuple[str, ...]:
    """Attention's own kernels first, then products and softmaxes, then copies and fills; long names are cut."""
    ordered = sorted(names, key=lambda name: (not owners(name), not UNFUSED.search(name)))
    return tuple(name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…" for name in ordered)
