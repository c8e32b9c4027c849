"""What is run: frozen cases, chosen by what a backend claims, and their seeded inputs made on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from entrypoint.events import Dtype
from entrypoint.probe.backends import Arguments, Capabilities, Feature
from entrypoint.probe.memory import Layout

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Family = Callable[["Case", "Draw"], tuple[Tensor, Tensor, Tensor]]


LONGEST_SQUARE = 1024


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attention call: q is [batch, seqlen, heads, head_dim], k and v have kv_heads. `inputs` names a family.

    `head_dim_v` None is head_dim; `softmax_scale`, `window`, `softcap`, `cu_seqlens` and `shifted_group` are those of
    Arguments; `layout` says how the tensors lie in memory.
    """

    id: str
    batch: int
    seqlen: int
    heads: int
    kv_heads: int
    head_dim: int
    causal: bool
    dtype: Dtype = "bfloat16"
    seed: int = 0
    inputs: str = "normal"
    head_dim_v: int | None = None
    softmax_scale: float | None = None
    window: tuple[int, int] | None = None
    softcap: float = 0.0
    cu_seqlens: tuple[int, ...] | None = None
    shifted_group: int | None = None
    layout: Layout = "dense"

    @property
    def sampled(self) -> bool:
        """Whether some rows are compared (entrypoint/probe/rows.py) and not all: the square would be gigabytes."""
        return self.seqlen > LONGEST_SQUARE

    @property
    def variant(self) -> Case:
        """Cases that differ only in name, seed and inputs run the same compiled kernel."""
        return replace(self, id="", seed=0, inputs="")

    @property
    def problem(self) -> Case:
        """Cases that differ only in name and layout have the same inputs and the same right answer."""
        return replace(self, id="", layout="dense")


# --- which cases ------------------------------------------------------------------------------------------------

# Grouped heads and at least two batch entries nearly everywhere. Lengths one past and one short of a tile of 128 (257,
# 129; 255, 127), 64 past one (192), and 333, off every tile. One length for each variant: JIT backends compile each
# shape and feature, and start-up time is somebody's training time.
CAUSAL_64 = Case(id="causal-d64", batch=2, seqlen=333, heads=8, kv_heads=2, head_dim=64, causal=True, seed=1)
FULL_64 = replace(CAUSAL_64, id="full-d64", seqlen=192, causal=False)
CAUSAL_128 = replace(CAUSAL_64, id="causal-d128", seqlen=257, head_dim=128)
FULL_128 = replace(CAUSAL_64, id="full-d128", seqlen=255, head_dim=128, causal=False)
BASE = (CAUSAL_64, FULL_64, CAUSAL_128, FULL_128)

# Documents of 129, 1, 0, 192 and 127 positions.
VARLEN_64 = replace(CAUSAL_64, id="varlen-d64", batch=1, seqlen=449, cu_seqlens=(0, 129, 130, 130, 322, 449))
WINDOW_64 = replace(CAUSAL_64, id="window-d64", window=(100, 0))
FLOAT16_64 = replace(CAUSAL_64, id="causal-d64-float16", dtype="float16")
FEATURES = (
    replace(CAUSAL_128, id="causal-d128-strided", layout="packed"),
    VARLEN_64,
    WINDOW_64,
    replace(FULL_64, id="window-both-d64", window=(70, 33)),
    replace(CAUSAL_64, id="softcap-d64", softcap=15.0, inputs="x3"),
    FLOAT16_64,
)
# Of variants that are compiled already; the first of each family is the shape that its historic bugs had.
INPUTS = (
    *(replace(case, id=f"{case.id}-x3", inputs="x3", seed=2) for case in BASE),
    replace(FULL_128, id="full-d128-x5", inputs="x5", seed=3),
    replace(CAUSAL_128, id="causal-d128-uniform", inputs="uniform", seed=4),
    replace(CAUSAL_64, id="causal-d64-massive", inputs="massive", seed=5),
    replace(FULL_64, id="full-d64-low", inputs="low", seed=6),
    replace(FLOAT16_64, id="causal-d64-float16-overflow", inputs="overflow", seed=7),
    replace(VARLEN_64, id="varlen-d64-leak", inputs="documents", seed=8),
    replace(CAUSAL_64, id="causal-d64-mean", inputs="mean", seed=9),
    replace(FULL_128, id="full-d128-onehot", inputs="onehot", seed=10),
)
HEAD_DIMS = (
    replace(CAUSAL_64, id="mqa-d96", seqlen=192, kv_heads=1, head_dim=96),
    replace(CAUSAL_64, id="causal-d192-v128", seqlen=129, heads=4, kv_heads=4, head_dim=192, head_dim_v=128),
    replace(CAUSAL_64, id="causal-d256", seqlen=127, heads=4, kv_heads=4, head_dim=256),
)
# The only case beyond 2^31 elements; last, because a kernel that gets it wrong may take the device with it.
FAR = replace(CAUSAL_64, id="causal-d64-far", layout="far")
# S2. Three batch entries, because LongLoRA #182 is about them.
S2_64 = replace(CAUSAL_64, id="s2-d64", batch=3, seqlen=256, shifted_group=64)
S2_128 = replace(S2_64, id="s2-d128", batch=2, head_dim=128)
SHIFTED = (S2_64, S2_128, replace(S2_64, id="s2-d64-x3", inputs="x3", seed=2))
# Longer than 4,096 positions, one past a tile: a window, a lost tile or an index that wraps there is seen. One head
# alone, because a CPU computes it; a GPU has what is timed.
LONG_CPU = Case(id="causal-s4225-d64", batch=1, seqlen=4225, heads=1, kv_heads=1, head_dim=64, causal=True, seed=11)
# For a backend that compiles each variant: then this is its only one of head_dim 128, as on a GPU.
LONG_CPU_128 = replace(LONG_CPU, id="causal-s4225-d128", head_dim=128)
# Long enough that plain torch's scores leave a CPU's caches, and short enough to wait for them.
COMPARED_CPU = replace(LONG_CPU, id="causal-s2048-d64", seqlen=2048)
# What else is long, for a GPU: without a mask, documents, and a window past 4,096.
LONG = (
    replace(LONG_CPU, id="full-s4225-d128", heads=4, head_dim=128, causal=False),
    replace(LONG_CPU, id="varlen-s8192-d64", seqlen=8192, heads=4, cu_seqlens=(0, 1, 130, 130, 6176, 8192)),
    replace(LONG_CPU, id="window-s8192-d64", seqlen=8192, heads=4, window=(5000, 0)),
)


# Of a backend that claims nothing: what every one of them is asked for.
LEAST = Capabilities(
    dtypes=("bfloat16",),
    head_dims=((64, 64), (128, 128)),
    features=frozenset(("gqa",)),
    source="nothing is claimed",
    proved=(),
)


def startup_cases(capabilities: Capabilities | None = None, *, far: bool = False) -> tuple[Case, ...]:
    """The cases that a backend with these capabilities must be right in, the likeliest to go wrong first.

    None, for a backend that claims nothing: causal and full, head_dim 64 and 128, two input families. `far` adds the
    case that takes gigabytes of the device's memory (memory.room_for_far).
    """
    if capabilities is None:
        return (*BASE, *INPUTS[:4])
    every = (*BASE, *FEATURES, *INPUTS, *HEAD_DIMS, *SHIFTED, *([FAR] if far else []))
    return tuple(claimed(every, capabilities))


def always_shifted(features: frozenset[Feature]) -> bool:
    """Whether the backend is S2: it can be shifted and has no other mask, and every call of it is shifted."""
    return "shifted" in features and not {"window", "varlen"} & features


def claimed(cases: Iterable[Case], capabilities: Capabilities) -> Iterator[Case]:
    """Those that the backend claims, as it claims them."""
    for case in cases:
        adapted = _adapted(case, capabilities)
        if always_shifted(capabilities.features) and case.shifted_group is None:
            continue
        needs = {
            "window": case.window is not None,
            "softcap": case.softcap > 0.0,
            "varlen": case.cu_seqlens is not None,
            "strided": case.layout != "dense",
            "shifted": case.shifted_group is not None,
        }
        able = all(feature in capabilities.features for feature, needed in needs.items() if needed)
        dims = (adapted.head_dim, adapted.head_dim_v or adapted.head_dim)
        if able and dims in capabilities.head_dims and adapted.dtype in capabilities.dtypes:
            yield adapted


def _adapted(case: Case, capabilities: Capabilities) -> Case:
    """As many kv heads as heads without grouped heads, multi-query at head_dim 64 without 96, float16 without bf16."""
    if case.head_dim == 96 and (96, 96) not in capabilities.head_dims:
        case = replace(case, id="mqa-d64", head_dim=64)
    if "gqa" not in capabilities.features:
        case = replace(case, kv_heads=case.heads)
    if case.dtype == "bfloat16" and "bfloat16" not in capabilities.dtypes:
        case = replace(case, dtype="float16")
    return case


def performance_case(device_type: str) -> Case:
    """A shape whose speed matters on a GPU; on a CPU one that is compiled already, to show that timing works."""
    if device_type == "cuda":
        return Case(id="causal-s8192-d128", batch=2, seqlen=8192, heads=16, kv_heads=16, head_dim=128, causal=True)
    return replace(CAUSAL_64, id="causal-s333-d64")


# --- their inputs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A case's source of random numbers: float32, on the device, in the order of the calls."""

    case: Case
    generator: torch.Generator
    where: torch.device

    def normal(self, heads: int, head_dim: int) -> Tensor:
        import torch

        return torch.randn(self._shape(heads, head_dim), generator=self.generator, device=self.where)

    def uniform(self, heads: int, head_dim: int) -> Tensor:
        import torch

        return torch.rand(self._shape(heads, head_dim), generator=self.generator, device=self.where)

    def _shape(self, heads: int, head_dim: int) -> tuple[int, ...]:
        return (self.case.batch, self.case.seqlen, heads, head_dim)


def make_inputs(case: Case, where: torch.device) -> tuple[Arguments, Tensor]:
    """The arguments of the call, and dout [batch, seqlen, heads, head_dim_v], the gradient of the output.

    Made on the device from the case's seed: the same on every run on one kind of device. dout is always normal. They
    are dense whatever the layout: `memory.place` copies them into it for each launch.
    """
    import torch

    draw = Draw(case=case, generator=torch.Generator(where).manual_seed(case.seed), where=where)
    dtype: torch.dtype = getattr(torch, case.dtype)
    q, k, v = (tensor.to(dtype) for tensor in FAMILIES[case.inputs](case, draw))
    dout = draw.normal(case.heads, case.head_dim_v or case.head_dim).to(dtype)
    arguments = Arguments(
        q=q,
        k=k,
        v=v,
        causal=case.causal,
        softmax_scale=case.softmax_scale,
        window=case.window,
        softcap=case.softcap,
        cu_seqlens=case.cu_seqlens,
        shifted_group=case.shifted_group,
    )
    return arguments, dout


def _normal(case: Case, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    return (
        draw.normal(case.heads, case.head_dim),
        draw.normal(case.kv_heads, case.head_dim),
        draw.normal(case.kv_heads, case.head_dim_v or case.head_dim),
    )


def _scaled(factor: float) -> Family:
    """Scores factor^2 as wide, so a softmax near one-hot: where large logits overflow or lose their maximum."""

    def family(case: Case, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = _normal(case, draw)
        return q * factor, k * factor, v * factor

    return family


def _uniform(case: Case, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """[0, 1): torch's own tests draw these. No sign cancels, so a sum that misses a part is off by its whole size."""
    return (
        draw.uniform(case.heads, case.head_dim),
        draw.uniform(case.kv_heads, case.head_dim),
        draw.uniform(case.kv_heads, case.head_dim_v or case.head_dim),
    )


# What one massive channel adds to every score: past 88.7, where exp overflows float32, or below -88.7, where cuDNN's
# gradients were not a number (pytorch#196678).
SHIFT = 120.0
# A channel whose square, a product before the scale, is past float16's largest number (65504).
OVERFLOW = 264.0


def _one_channel(sign: float, channel: float | None = None) -> Family:
    """One massive channel, as trained models have: the same in every q, and in every k with this sign.

    Softmax is the same with and without it. SHIFT is split evenly over q and k, because what is rounded in dS comes
    back in dq and dk times the constant, in right kernels too.
    """

    def family(case: Case, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = _normal(case, draw)
        q[..., 0] = channel or (SHIFT * case.head_dim**0.5) ** 0.5
        k[..., 0] = q[0, 0, 0, 0] * sign
        return q, k, v

    return family


def _documents(case: Case, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """Keys score 6 more for each document that they lie before: one that leaks into the next takes over its softmax."""
    import torch

    q, k, v = _normal(case, draw)
    ends = torch.tensor((case.cu_seqlens or (0, case.seqlen))[1:], device=draw.where)
    document = torch.searchsorted(ends, torch.arange(case.seqlen, device=draw.where), right=True)
    q[..., 0] = case.head_dim**0.5
    k[..., 0] = 6.0 * (len(ends) - document)[:, None]
    return q, k, v


def _mean(case: Case, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """q = k = 0: every key that is seen has the same weight (oracles.running_mean)."""
    q, k, v = _normal(case, draw)
    return q * 0.0, k * 0.0, v


def _onehot(case: Case, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """Keys are random signs times 4, query i the key of position S - 1 - i, so that it sees this one alone.

    At head_dim 128 its score is 181 and every other's below 80: the other weights are zero in float32.
    """
    q, k, v = _normal(case, draw)
    k = k.sign() * 4.0
    return k.flip(1).repeat_interleave(q.shape[2] // k.shape[2], dim=2), k, v


FAMILIES: dict[str, Family] = {
    "normal": _normal,
    "x3": _scaled(3.0),
    "x5": _scaled(5.0),
    "uniform": _uniform,
    "massive": _one_channel(1.0),
    "low": _one_channel(-1.0),
    "overflow": _one_channel(1.0, OVERFLOW),
    "documents": _documents,
    "mean": _mean,
    "onehot": _onehot,
}
