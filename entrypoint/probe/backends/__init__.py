"""The attention backends: one module each, that adapts a package's function to one signature.

A new backend is a module here with `KERNELS` and `load`, and its name in `NAMES`. Modules are imported by name when
they are needed; importing one never imports torch or a kernel, only its `load` does. What several of them share is in
`hardware` (which chip, what is claimed there), `masks` (who sees whom), `tensors` (packing, kv heads) and `flash` (the
functions that FlashAttention 2, 3 and 4 have in common).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from entrypoint.spelling import did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# In the order in which a kernel that several may launch is attributed, when none of them was asked for.
NAMES = ("sdpa", "flex", "fa2", "fa3", "fa4", "sage", "xformers", "s2")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """One attention call: q [batch, seqlen, heads, head_dim], k [.., kv_heads, head_dim], v [.., kv_heads, head_dim_v].

    That is flash-attn's layout. `softmax_scale` None means 1 / sqrt(head_dim). `window` (left, right) lets query i see
    keys i - left to i + right, -1 being no bound (flash-attn's window_size; 0 is the key itself). `softcap` c > 0
    replaces scores s by c * tanh(s / c), after the scale. `cu_seqlens` (0, .., total) packs documents along the
    sequence of a batch of one: no query sees another document, and a document may have length 0. `shifted_group` g is
    S2's: each query sees its own segment of g positions, segments of the second half of the heads shifted by g / 2.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    causal: bool
    softmax_scale: float | None = None
    window: tuple[int, int] | None = None
    softcap: float = 0.0
    cu_seqlens: tuple[int, ...] | None = None
    shifted_group: int | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Arguments:
        """The same call with each tensor changed."""
        return replace(self, q=change(self.q), k=change(self.k), v=change(self.v))


Feature = Literal["window", "softcap", "varlen", "gqa", "logsumexp", "deterministic", "strided", "shifted"]


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a backend claims on one device: the cases it must be right in. `source` says where that is written.

    `head_dims` are pairs (of q and k, of v) that work forward and, where the backend has one, backward. Features other
    than gqa, logsumexp and strided are claimed for head dims up to 128. "shifted" is S2's: every call of
    such a backend has a `shifted_group`. `proved` is where it has really run ("H200", "CPU"), or "fake" where only a
    function of the same signature stood in for it. `relative_error` is the relative L2 error that the backend has by
    its design, where that is more than its dtype's rounding (SageAttention quantises), else None.
    """

    dtypes: tuple[str, ...]
    head_dims: tuple[tuple[int, int], ...]
    features: frozenset[Feature]
    source: str
    proved: tuple[str, ...]
    relative_error: float | None = None


# Returns out [batch, seqlen, heads, head_dim], in q's layout and dtype.
Attention = Callable[[Arguments], "Tensor"]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A backend loaded on a device. `no_gradient` is the reason why it has no backward there, if it has none.

    `logsumexp` gives the natural logarithm of each softmax's denominator, [batch, heads, seqlen], where it is offered.
    `kernels` are the same backend's kernels forced one by one (SDPA's flash, cuDNN, memory-efficient, math), or its
    deterministic mode, by name; their own name is `<backend>-<name>`. `masked`: a window or documents go in as a mask
    of the square of the length, which no fused kernel takes beside grouped heads.
    """

    name: str
    attention: Attention
    no_gradient: str | None = None
    capabilities: Capabilities | None = None
    logsumexp: Attention | None = None
    kernels: Mapping[str, Backend] = field(default_factory=dict)
    masked: bool = False


class Adapter(Protocol):
    """What a module of this package provides. `KERNELS`: regular expressions, searched in the profiler's names.

    A module may also have `VARIANTS`, the same for each of the backend's forced kernels that has kernels of its own.
    `CACHE` is the environment variable with the directory where one that compiles just in time keeps what it made.
    `COMPILES_EACH_VARIANT` marks one whose image brings none of it, or Triton's part alone: a start then makes few
    variants serve many cases. It may import what it will need: `preload` all that asks no GPU anything, so that a
    process may still be forked that uses one, `preload_compiler` the rest.
    """

    KERNELS: tuple[str, ...]

    def load(self, where: torch.device) -> Backend:
        """Import the package and check that it can serve the device; raises whatever the package raises."""
        ...


class UnknownBackend(ValueError):
    """No adapter has this name; the message names the closest, or all of them."""


def known(name: str) -> str:
    """The name itself: a backend's, or that of one of its kernels (`sdpa-cudnn`). Raises UnknownBackend."""
    backend, _, kernel = name.partition("-")
    if name in NAMES or (backend in NAMES and kernel in variant_rules(backend)):
        return name
    raise UnknownBackend(f"unknown backend {name!r}. {did_you_mean(name, NAMES)}")


def load(name: str, where: torch.device) -> Backend:
    """Load one backend, or one of its kernels as a backend of its own, on a device.

    Raises UnknownBackend, what the backend's package raises, or RuntimeError for a kernel that is not there.
    """
    backend, _, kernel = known(name).partition("-")
    loaded = _adapter(backend).load(where)
    if not kernel:
        return loaded
    if kernel not in loaded.kernels:
        usable = ", ".join(loaded.kernels)
        raise RuntimeError(f"{backend} cannot use its kernel {kernel} on {where}; it can use {usable}")
    return loaded.kernels[kernel]


def preload(name: str) -> None:
    """Import torch, and of a backend that compiles what asks no GPU anything. What is not there is met later."""
    importlib.import_module("torch")
    _call_if_there(name, "preload")


def preload_compiler(name: str) -> None:
    """Import the rest, while something else has to be waited for."""
    _call_if_there(name, "preload_compiler")


def _call_if_there(name: str, function: str) -> None:
    with contextlib.suppress(Exception):
        _given(name, function, lambda: None)()


@functools.cache
def kernel_rules() -> Mapping[str, re.Pattern[str]]:
    """For each backend the pattern that its kernels' names match."""
    return {name: re.compile("|".join(_adapter(name).KERNELS)) for name in NAMES}


@functools.cache
def variant_rules(name: str) -> Mapping[str, re.Pattern[str]]:
    """For each forced kernel of a backend the pattern that its kernels' names match; empty for most backends."""
    variants: Mapping[str, tuple[str, ...]] = getattr(_adapter(name), "VARIANTS", {})
    return {variant: re.compile("|".join(rules)) for variant, rules in variants.items()}


def cache_variable(name: str) -> str | None:
    """The variable with the directory of a backend's own compiler cache; None for one that is compiled already."""
    variable: str | None = _given(name, "CACHE", None)
    return variable


def compiles_each_variant(name: str) -> bool:
    """Whether the first call of each variant takes seconds of compilation on a machine that has not seen it."""
    return bool(_given(name, "COMPILES_EACH_VARIANT", False))


def start_variants(name: str) -> int | None:
    """How many variants a start compiles where nothing is known of the run; None where nobody has counted them."""
    count: int | None = _given(name, "START_VARIANTS", None)
    return count


def _given(name: str, attribute: str, otherwise: Any) -> Any:
    """What the module of a backend, or of the backend of a kernel, may have; `otherwise` where it has not."""
    return getattr(_adapter(name.partition("-")[0]), attribute, otherwise)


def _adapter(name: str) -> Adapter:
    return cast(Adapter, importlib.import_module(f"{__name__}.{name}"))
