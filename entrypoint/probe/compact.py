"""The cases of a start for backends that compile each variant for seconds: few variants, several defects in each.

A deep check has a case for each feature, dim and dtype, so that a failure has a name. Here they share calls: whatever
is wrong with one of them still fails, and `check --deep` says which it was.
"""

from __future__ import annotations

from dataclasses import replace

from entrypoint.probe import cases
from entrypoint.probe.backends import Capabilities
from entrypoint.probe.cases import CAUSAL_64, FULL_64, VARLEN_64, Case


def compact_cases(capabilities: Capabilities, *, far: bool) -> tuple[Case, ...]:
    """Six variants of a backend that claims everything, the likeliest to go wrong first; the long call is not here."""
    if cases.always_shifted(capabilities.features):
        return tuple(case for case in cases.SHIFTED if case.head_dim == 64)
    features = capabilities.features
    causal = replace(CAUSAL_64, id="causal-window-d64", window=(100, 0)) if "window" in features else CAUSAL_64
    full = replace(FULL_64, seqlen=255)
    wanted = (
        causal,
        replace(causal, id=f"{causal.id}-x3", inputs="x3", seed=2),
        replace(causal, id=f"{causal.id}-uniform", inputs="uniform", seed=4),
        replace(causal, id=f"{causal.id}-massive", inputs="massive", seed=5),
        full,
        replace(full, id="full-d64-x5", inputs="x5", seed=3),
        replace(full, id="full-d64-low", inputs="low", seed=6),
        *_features(capabilities),
        *_small(capabilities),
        *_wide(capabilities, far=far),
    )
    return tuple(cases.claimed(wanted, capabilities))


def _features(capabilities: Capabilities) -> tuple[Case, ...]:
    """Documents, a window to both sides and a softcap in one full call, as far as they are claimed; x3, since a softcap
    of 15 leaves smaller scores nearly as they are.
    """
    features = capabilities.features
    case = replace(VARLEN_64 if "varlen" in features else CAUSAL_64, id="features-d64", causal=False, seed=8)
    case = replace(case, window=(70, 33)) if "window" in features else case
    case = replace(case, softcap=15.0, inputs="x3") if "softcap" in features else case
    return (case,) if {"varlen", "window", "softcap"} & features else ()


def _small(capabilities: Capabilities) -> tuple[Case, ...]:
    """One kv head, head_dim 96, float16 and slices of one tensor; a length 64 past a tile."""
    wide = 96 if (96, 96) in capabilities.head_dims else 64
    half = "float16" in capabilities.dtypes
    case = replace(
        CAUSAL_64,
        id=f"mqa-d{wide}" + ("-float16" if half else ""),
        seqlen=192,
        kv_heads=1,
        head_dim=wide,
        dtype="float16" if half else "bfloat16",
        layout="packed" if "strided" in capabilities.features else "dense",
        seed=7,
    )
    return (case, replace(case, id=f"{case.id}-overflow", inputs="overflow")) if half else (case,)


def _wide(capabilities: Capabilities, *, far: bool) -> tuple[Case, ...]:
    """The head dims of v that differ, and offsets past 2^31; one past a tile."""
    differ = (192, 128) in capabilities.head_dims
    case = replace(CAUSAL_64, id="causal-d64", seqlen=129, seed=9)
    if differ:
        case = replace(case, id="causal-d192-v128", heads=4, kv_heads=4, head_dim=192, head_dim_v=128)
    case = replace(case, id=f"{case.id}-far", layout="far") if far else case
    return (case,) if differ or far else ()
