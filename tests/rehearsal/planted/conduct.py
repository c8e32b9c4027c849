"""What goes wrong beside the numbers of one call: crashes, a hang, the network, another kernel, memory of before."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from dataclasses import replace
from typing import Any, Final

from .backward import spoil
from .call import Call, Plain

HUB: Final = "huggingface.co"
CRASH: Final = "Expected IntTuple, whose leaves are integers, but got 448"

# What a defect remembers from call to call, by layer.
_seen: dict[Any, Any] = {}


def crash(call: Call) -> Any:
    raise ValueError(CRASH)


def crash_in_backward(call: Call) -> Any:
    def refuse(_: Any) -> Any:
        raise RuntimeError(CRASH)

    return replace(call, query=spoil(refuse)(call.query))()


def crash_once_learned(call: Call) -> Any:
    """At the second step, when the weights are no longer those of the first call."""
    if _learned(call):
        raise ValueError(CRASH)
    return call()


def wrong_once_learned(call: Call) -> Any:
    """Right until the weights have changed; then the scale is dropped."""
    return call.option(scaling=1.0)() if _learned(call) else call()


def _learned(call: Call) -> bool:
    """Whether a weight of this layer's attention has changed since its first call."""
    weights = [weight for weight in call.module.parameters() if weight.requires_grad]
    now = sum(float(weight.detach().double().abs().sum()) for weight in weights)
    return bool(now != _seen.setdefault(id(call.module), now))


def segmentation_fault(call: Call) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)
    return call()


def hang(call: Call) -> Any:
    while True:
        time.sleep(1.0)


def hub_asked(call: Call) -> Any:
    """As a package that fetches a kernel does; without a network it goes on with what it has."""
    with contextlib.suppress(OSError):
        socket.create_connection((HUB, 443), timeout=1.0).close()
    return call()


def another_kernel(call: Call) -> Any:
    """Right numbers, written out in torch, where a kernel of SDPA was asked for."""
    return Plain()(call)


def stale_output(call: Call) -> Any:
    """A buffer that is read before it is written: the output is that of the call before."""
    out, weights = call()
    key = ("out", out.shape)
    before = _seen.get(key, out.detach())
    _seen[key] = out.detach()
    return out + (before - out).detach(), weights


def other_path_with_gradients(call: Call) -> Any:
    """Under gradient checkpointing the forward is right, and what its recomputation gives gradients of is not."""
    import torch

    return call.option(scaling=call.options["scaling"] * 1.1)() if torch.is_grad_enabled() else call()
