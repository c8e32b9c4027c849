"""The attention calls of the run that is about to start, as cases: its own dims, heads, masks, scale and length."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from entrypoint.probe.backends import Backend, Feature
from entrypoint.probe.cases import CAUSAL_64, VARLEN_64, Case, always_shifted

if TYPE_CHECKING:
    from entrypoint.shape import Shape

# Positions that are checked at most: longer runs are checked at these. SDPA takes a window or packed documents as a
# mask of the square, which is 64 MB at 8,192.
LONGEST: Final = {"cuda": 65_536, "cpu": 2_049}
LONGEST_MASK: Final = 8_192
# Elements of q: 256 MB, of which a backward needs some eight and the making of the inputs twice two.
ELEMENTS: Final = 2**27
# Heads of a short call, as many as the generic cases have; and of a long one on a CPU.
SHORT_HEADS: Final = 8
CPU_HEADS: Final = 2
# What the scale may be of 1 / sqrt(head_dim), for the input families that are made for that scale.
USUAL_SCALE: Final = 1.5


@dataclass(frozen=True, kw_only=True)
class Own:
    """`cases` of a run, the likeliest to fail first; the `timed` among them are also timed.

    `left_out` says in words what of the run they leave out.
    """

    cases: tuple[Case, ...]
    timed: tuple[Case, ...]
    left_out: tuple[str, ...]


NONE: Final = Own(cases=(), timed=(), left_out=())


def own_cases(shape: Shape, backend: Backend, device_type: str, *, few: bool) -> Own:
    """The run's calls at its length, by sampled rows, and with other inputs: of the very same call where `few`
    compiled variants are wanted, else of a short one, which costs a hundredth.

    Where only some layers have a window, both calls are checked. A feature that the backend does not claim is left out.
    """
    features: frozenset[Feature] = frozenset() if backend.capabilities is None else backend.capabilities.features
    length, left_out = _length(shape, backend, device_type)
    base = _long(shape, features, device_type, length)
    window = (shape.window - 1, 0) if shape.window is not None and shape.window < length else None
    asked = {"window": window is not None, "softcap": shape.softcap > 0.0, "varlen": shape.packed}
    left_out += [f"own {name}" for name, is_asked in asked.items() if is_asked and name not in features]
    left_out += ["own sinks"] if shape.sinks else []
    long = [base]
    if window is not None and "window" in features:
        windowed = replace(base, id=f"{base.id}-window", window=window)
        long = [base, windowed] if shape.mixed else [windowed]
    same = long if few else _apart(_short(case, shape) for case in long)
    others = [replace(case, id=f"{case.id}-{name}", inputs=name) for case in same for name in _families(base)]
    short = [] if few else [*same, *_strided(same[0], features)]
    timed = () if device_type == "cpu" and not few else tuple(long)
    return Own(cases=(*long, *short, *others), timed=timed, left_out=tuple(left_out))


def _length(shape: Shape, backend: Backend, device_type: str) -> tuple[int, list[str]]:
    """The length that is checked, and the run's where that is longer."""
    masked = (shape.packed or shape.window is not None) and backend.masked
    most = min(LONGEST[device_type], LONGEST_MASK if masked else LONGEST[device_type])
    length = min(shape.length, most)
    return length, [f"own s{shape.length}"] if length < shape.length else []


def _long(shape: Shape, features: frozenset[Feature], device_type: str, length: int) -> Case:
    """Heads are reduced in proportion where the memory asks for it, and on a CPU."""
    packed = shape.packed and "varlen" in features
    batch = 1 if packed or device_type == "cpu" else min(shape.rows, 2)
    most = CPU_HEADS if device_type == "cpu" else max(1, ELEMENTS // (batch * length * shape.head_dim))
    heads, kv_heads = _heads(shape, most, features)
    if device_type == "cpu":
        heads = min(heads, max(kv_heads, CPU_HEADS))
    case = Case(
        id=f"own-s{length}-d{shape.head_dim}",
        batch=batch,
        seqlen=length,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=shape.head_dim,
        head_dim_v=None if shape.value_dim == shape.head_dim else shape.value_dim,
        causal=True,
        dtype=shape.dtype,
        seed=13,
        softmax_scale=None if abs(shape.scale * shape.head_dim**0.5 - 1.0) < 1e-6 else shape.scale,
        softcap=shape.softcap if "softcap" in features else 0.0,
        cu_seqlens=documents(length) if packed else None,
    )
    if not always_shifted(features):
        return case
    group = max(2, length // 8 * 2)  # LongLoRA's quarter of the sequence
    return replace(case, seqlen=4 * group, heads=heads + heads % 2, kv_heads=kv_heads, shifted_group=group)


def _heads(shape: Shape, most: int, features: frozenset[Feature]) -> tuple[int, int]:
    """At most so many query heads and their kv heads, at the run's ratio; at least one kv head's."""
    each = max(1, shape.heads // shape.kv_heads)
    kv_heads = max(1, min(shape.kv_heads, most // each))
    return kv_heads * each, kv_heads if "gqa" in features else kv_heads * each


def documents(length: int) -> tuple[int, ...]:
    """Documents of 1, 65 and 0 positions, a long one, and one of 33: one document may fill a whole row."""
    ends = [0, 1, 66, 66, max(66, length - 33), length]
    return tuple(min(max(end, 0), length) for end in ends)


def _short(case: Case, shape: Shape) -> Case:
    """The same call at the generic cases' lengths, with a batch of two and all kinds of documents."""
    packed = case.cu_seqlens is not None
    pattern = VARLEN_64 if packed else CAUSAL_64
    each = case.heads // case.kv_heads
    kv_heads = max(1, min(shape.kv_heads * (shape.heads // shape.kv_heads) // each, SHORT_HEADS // each))
    window = case.window if case.window is not None and case.window[0] + 1 < pattern.seqlen else None
    return replace(
        case,
        id=case.id.replace(f"-s{case.seqlen}-", f"-s{pattern.seqlen}-"),
        batch=pattern.batch,
        seqlen=pattern.seqlen,
        heads=kv_heads * each,
        kv_heads=kv_heads,
        window=window,
        cu_seqlens=pattern.cu_seqlens,
        seed=14,
    )


def _apart(cases: Iterable[Case]) -> list[Case]:
    """Each variant once: a window longer than the sequence is none."""
    return [*{case.variant: case for case in reversed([*cases])}.values()][::-1]


def _strided(case: Case, features: frozenset[Feature]) -> list[Case]:
    return [replace(case, id=f"{case.id}-strided", layout="packed")] if "strided" in features else []


def _families(case: Case) -> tuple[str, ...]:
    """Input families whose constants fit the call: a massive channel is made for the usual scale and no softcap."""
    scale = 1.0 if case.softmax_scale is None else case.softmax_scale * case.head_dim**0.5
    if scale > USUAL_SCALE:
        return ()
    return ("x3",) if case.softcap or case.softmax_scale is not None else ("x3", "massive", "low")
