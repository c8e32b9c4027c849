"""The attention backends: one module each, that adapts a package's function to one signature.

A new backend is a module here with `KERNELS` and `load`, and its name in `NAMES`. Modules are imported by name when
they are needed; importing one never imports torch or a kernel, only its `load` does.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NAMES = ("sdpa", "flex", "fa4", "xformers")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """One attention call: q [batch, seqlen, heads, head_dim], k and v [batch, seqlen, kv_heads, head_dim].

    That is flash-attn's layout. `softmax_scale` None means 1 / sqrt(head_dim).
    """

    q: Tensor
    k: Tensor
    v: Tensor
    causal: bool
    softmax_scale: float | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Arguments:
        """The same call with each tensor changed."""
        return replace(self, q=change(self.q), k=change(self.k), v=change(self.v))


# Returns out [batch, seqlen, heads, head_dim], in q's layout and dtype.
Attention = Callable[[Arguments], "Tensor"]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A backend loaded on a device. `no_gradient` is the reason why it has no backward there, if it has none."""

    name: str
    attention: Attention
    no_gradient: str | None = None


class Adapter(Protocol):
    """What a module of this package provides. `KERNELS`: regular expressions, searched in the profiler's names."""

    KERNELS: tuple[str, ...]

    def load(self, where: torch.device) -> Backend:
        """Import the package and check that it can serve the device; raises whatever the package raises."""
        ...


class UnknownBackend(ValueError):
    """No adapter has this name; the message names the closest."""


def known(name: str) -> str:
    """The name itself. Raises UnknownBackend."""
    if name in NAMES:
        return name
    close = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.0)[0]
    raise UnknownBackend(f"unknown backend {name!r}; did you mean {close!r}? There are: {', '.join(NAMES)}")


def load(name: str, where: torch.device) -> Backend:
    """Load one backend on a device. Raises UnknownBackend, or what the backend's package raises."""
    return _adapter(known(name)).load(where)


@functools.cache
def kernel_rules() -> Mapping[str, re.Pattern[str]]:
    """For each backend the pattern that its kernels' names match."""
    return {name: re.compile("|".join(_adapter(name).KERNELS)) for name in NAMES}


def _adapter(name: str) -> Adapter:
    return cast(Adapter, importlib.import_module(f"{__name__}.{name}"))
