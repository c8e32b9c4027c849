"""Backends on this CPU with a fake package in place of theirs, and what their results are compared with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

from entrypoint.probe import backends, reference
from entrypoint.probe.backends import Arguments, Backend, hardware
from entrypoint.probe.fa4 import ownership
from tests.unit.fakes import flash, sage, xformers

CPU = torch.device("cpu")
HOPPER = (9, 0)

FAKES: dict[str, Callable[[], ModuleType]] = {
    "fa2": flash.flash_attn_2,
    "fa3": flash.flash_attn_3,
    "fa4": flash.flash_attn_4,
    "sage": sage.sage_1,
    "xformers": xformers.xformers_ops,
}


def install(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    """A package under the module's name, with its parents."""
    for parent in (module.__name__.partition(".")[0], module.__name__):
        monkeypatch.setitem(sys.modules, parent, module)


def on_chip(monkeypatch: pytest.MonkeyPatch, chip: hardware.Chip) -> None:
    monkeypatch.setattr(hardware, "chip_of", lambda _where: chip)


def loaded(monkeypatch: pytest.MonkeyPatch, name: str, chip: hardware.Chip = HOPPER) -> Backend:
    """A backend on this CPU that believes it is on `chip`, with a fake package where it needs one."""
    if name in FAKES:
        install(monkeypatch, FAKES[name]())
        on_chip(monkeypatch, chip)
    monkeypatch.setattr(ownership, "problems", lambda _module, _distribution: [])
    return backends.load(name, CPU)


def fresh(call: Arguments, *, requires_grad: bool) -> Arguments:
    return call.map(lambda tensor: tensor.clone().requires_grad_(requires_grad))


def expect_as_reference(backend: Backend, call: Arguments) -> None:
    """Output and, where there are any, gradients."""
    trains = backend.no_gradient is None
    mine, exact = fresh(call, requires_grad=trains), fresh(call, requires_grad=True)
    out, expected = backend.attention(mine), reference.attention(exact)
    torch.testing.assert_close(out, expected)
    if not trains:
        assert not out.requires_grad
        return
    dout = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    gradients = torch.autograd.grad(out, (mine.q, mine.k, mine.v), dout)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (exact.q, exact.k, exact.v), dout))


def arguments(**changes: Any) -> Arguments:
    """A grouped call on two sequences, in float64, so that a difference is a mistake and no rounding."""
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(2, 12, 4, 8, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 2, 12, 2, 8, generator=generator, dtype=torch.float64)
    return replace(Arguments(q=q, k=k, v=v, causal=True, softmax_scale=0.3), **changes)


def packed(**changes: Any) -> Arguments:
    """Documents of length 5, 1, 0 and 6 in a row."""
    call = arguments(**changes).map(lambda tensor: tensor[:1])
    return replace(call, cu_seqlens=(0, 5, 6, 6, 12))


# Calls by what is special about them.
PLAIN = {"causal": arguments(), "full": arguments(causal=False), "default-scale": arguments(softmax_scale=None)}
WINDOWS = {
    "window": arguments(window=(3, 0)),
    "window-one-key": arguments(window=(0, 0)),
    "window-both": arguments(window=(2, 1), causal=False),
    "window-left": arguments(window=(3, -1), causal=False),
    "window-right": arguments(window=(-1, 2), causal=False),
    "window-causal-right": arguments(window=(3, 5)),
    "window-none": arguments(window=(-1, -1)),
    "window-causal-none": arguments(window=(-1, 0)),
}
PACKED = {"packed": packed(), "packed-full": packed(causal=False)}
PACKED_WINDOW = {"packed-window": packed(window=(2, 0))}
SOFTCAP = {"softcap": arguments(softcap=0.7), "packed-softcap": packed(softcap=0.7)}
EVERYTHING = {**PLAIN, **WINDOWS, **PACKED, **PACKED_WINDOW, **SOFTCAP}
