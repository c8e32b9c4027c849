"""A backend beside torch's own kernels on the same call, on the spot: what is slow without a floor of this device.

They take turns, so that what else the machine does meets them all, and the least of each one's times counts: it is the
one that was disturbed least. Nothing here judges.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from entrypoint.events import ComparisonEvent, Direction
from entrypoint.probe import backends, calls, device, reference, timing
from entrypoint.probe.backends import Arguments, Attention, Backend
from entrypoint.probe.cases import Case, make_inputs
from entrypoint.probe.timing import Clock

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# On a GPU, which is the check's alone, a call takes the same time in each.
ROUNDS: Final = {"cuda": 3, "cpu": 5}
# Of all turns of one call, after the first round; slow machines make fewer rounds.
SECONDS: Final = {"cuda": 1.0, "cpu": 0.6}
# A rival whose first turn took so many times the backend's says enough: plain torch takes 25 ms where a kernel takes 2.
FAR_BEHIND: Final = 4.0
# torch's fused kernels that need no compiler, as SDPA forces them.
FUSED: Final = ("flash", "efficient")
# Scores that plain torch writes down at a time: half a gigabyte in bf16. It gets a part of the batch and the heads,
# and its time is scaled by what it was spared: it has no kernel that is better with more.
PLAIN_SCORES: Final = 2**28


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One implementation on its own copy of the inputs; its seconds count `share` times."""

    attention: Attention
    leaves: Arguments
    dout: Tensor
    share: float = 1.0


def is_comparable(case: Case) -> bool:
    """Whether torch's fused kernels have this call: causal or full, and nothing else."""
    return (case.window, case.cu_seqlens, case.shifted_group, case.softcap) == (None, None, None, 0.0)


def compare(backend: Backend, case: Case, where: torch.device, clock: Clock | None = None) -> Iterator[ComparisonEvent]:
    """Forward, and on a GPU backward where the backend has one. A rival that cannot do the call is no rival.

    On a CPU in seconds of the processor on one thread, which neighbours do not change: threads that wait for each other
    on a busy machine made a healthy kernel look three times slower.
    """
    clock = clock or (timing.clock_for(where) if where.type == "cuda" else timing.WallClock(time.process_time))
    with one_thread() if where.type == "cpu" else contextlib.nullcontext():
        yield from _compare(backend, case, where, clock)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """On a busy machine threads wait for each other, and small calls take ten times longer."""
    import torch

    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(kept)


def _compare(backend: Backend, case: Case, where: torch.device, clock: Clock) -> Iterator[ComparisonEvent]:
    trains = backend.no_gradient is None and where.type == "cuda"  # a CPU's backward is judged by nothing
    rivals = {
        name: rival for name, rival in _rivals(backend, case, where, trains=trains).items() if _runs(rival, where)
    }
    if backend.name not in rivals or len(rivals) == 1:
        return
    directions: tuple[Direction, ...] = ("forward", "backward") if trains else ("forward",)
    for direction in directions:
        seconds = _in_turns(rivals, backend.name, direction, clock, where.type)
        yield ComparisonEvent(id=case.id, direction=direction, own=seconds.pop(backend.name), others=seconds)


def _rivals(backend: Backend, case: Case, where: torch.device, *, trains: bool) -> dict[str, Rival]:
    arguments, dout = make_inputs(case, where)

    def rival(attention: Attention, arguments: Arguments = arguments, dout: Tensor = dout, share: float = 1.0) -> Rival:
        leaves = calls.fresh(arguments, requires_grad=trains)
        return Rival(attention=attention, leaves=leaves, dout=dout, share=share)

    kernels = backends.load("sdpa", where).kernels if where.type == "cuda" else {}
    fused = {name: rival(kernels[name].attention) for name in FUSED if name in kernels}
    less = _less(case)
    share = case.batch * case.heads / (less.batch * less.heads)
    plain = rival(reference.reordered, *make_inputs(less, where), share=share)
    return {backend.name: rival(backend.attention), **fused, "plain": plain}


def _less(case: Case) -> Case:
    """The case with so few batch entries and kv heads that the square of its scores has room."""
    each = case.heads // case.kv_heads
    groups = max(1, PLAIN_SCORES // (case.seqlen**2 * each))
    kv_heads = min(case.kv_heads, groups)
    return replace(case, batch=min(case.batch, max(1, groups // kv_heads)), kv_heads=kv_heads, heads=kv_heads * each)


def _runs(rival: Rival, where: torch.device) -> bool:
    """Whether it can do the call; that call also warms it up. Raises the device's own error when that is lost."""
    try:
        reason = None if rival.leaves.q.requires_grad else "not asked for"
        calls.run(Backend(name="rival", attention=rival.attention, no_gradient=reason), rival.leaves, rival.dout)
        device.synchronize(where)
    except Exception:  # noqa: BLE001 - whatever refuses the call, or has no memory for it
        device.recover(where)
        return False
    return True


def _in_turns(
    rivals: Mapping[str, Rival], own: str, direction: Direction, clock: Clock, device_type: str
) -> dict[str, float]:
    """The least seconds of each; of one that is far behind `own` after its first turn, those of that turn."""
    until = clock.now() + SECONDS[device_type]
    seconds = {name: [_once(rival, direction, clock)] for name, rival in rivals.items()}
    near = [name for name, (first,) in seconds.items() if first * rivals[name].share <= FAR_BEHIND * seconds[own][0]]
    for _ in range(ROUNDS[device_type] - 1):
        if clock.now() > until:
            break
        for name in near:
            seconds[name].append(_once(rivals[name], direction, clock))
    return {name: rivals[name].share * min(taken) for name, taken in seconds.items()}


def _once(rival: Rival, direction: Direction, clock: Clock) -> float:
    def backward(loss: Tensor) -> object:
        return calls.backward(loss, rival.leaves)

    def prepare() -> Tensor:
        return calls.loss_of(rival.attention(rival.leaves), rival.dout)

    if direction == "backward":
        return clock.sample(backward, prepare, 1)[0]
    forward: Callable[[None], object] = lambda _: rival.attention(rival.leaves)  # noqa: E731
    return clock.sample(forward, lambda: None, 1)[0]
