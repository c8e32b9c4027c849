"""What the backends claim, chip by chip: a table that needs no GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from entrypoint.probe import backends
from entrypoint.probe.backends import fa2, fa3, fa4, flex, hardware, masks, sage, sdpa
from entrypoint.probe.backends import xformers as xformers_adapter

torch = pytest.importorskip("torch")

from tests.unit.fakes.loading import arguments, loaded  # noqa: E402

NO_FLAGS: dict[str, bool] = {}
CLAIMS: dict[str, Callable[[hardware.Chip], backends.Capabilities | None]] = {
    "sdpa": sdpa.capabilities,
    "flex": flex.capabilities,
    "fa2": fa2.capabilities,
    "fa3": lambda chip: fa3.capabilities(chip, NO_FLAGS),
    "fa4": fa4.capabilities,
    "sage": lambda chip: sage.capabilities(chip, "1.0.6"),
    "sage2": lambda chip: sage.capabilities(chip, "2.2.0"),
    "xformers": xformers_adapter.capabilities,
}
CHIPS: tuple[hardware.Chip, ...] = (
    *((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0)),
    *("cpu", "gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201"),
)
RUNS_ON = {
    "sdpa": set(CHIPS),
    "flex": set(CHIPS) - {(7, 5)},
    "fa2": {(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), "gfx90a", "gfx942", "gfx950"},
    "fa3": {(9, 0)},
    "fa4": {(9, 0), (10, 0), (10, 3), (12, 0)},
    "sage": {(8, 0), (8, 6), (8, 9), (9, 0)},
    "sage2": {(8, 0), (8, 6), (8, 9), (9, 0), (12, 0)},
    "xformers": {(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0)},
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_backend_claims_something_where_it_runs_and_nothing_elsewhere(name: str) -> None:
    """And each claim says where it is written; at least head_dim 64 in some dtype."""
    claims = {chip: CLAIMS[name](chip) for chip in CHIPS}
    assert {chip for chip, claim in claims.items() if claim is not None} == RUNS_ON[name]
    for claim in claims.values():
        if claim is not None:
            assert claim.source
            assert claim.dtypes
            assert (64, 64) in claim.head_dims


@pytest.mark.parametrize(
    ("name", "chip", "claimed", "not_claimed"),
    [
        ("fa4", (9, 0), [(64, 64), (96, 96), (128, 128), (192, 128)], [(256, 256)]),
        ("fa4", (10, 0), [(128, 128), (192, 128), (256, 256)], [(192, 192)]),
        ("fa4", (12, 0), [(64, 64), (128, 128)], [(192, 128), (256, 256)]),
        ("fa3", (9, 0), [(96, 96), (192, 128), (256, 256)], []),
        ("fa2", (8, 6), [(96, 96), (256, 256)], [(192, 128)]),
        ("flex", (9, 0), [(192, 128)], [(256, 256)]),
        ("flex", (12, 0), [(128, 128)], [(192, 128), (256, 256)]),
        ("xformers", (9, 0), [(192, 128)], []),
        ("xformers", (10, 0), [(256, 256)], [(192, 128)]),
        ("xformers", (7, 5), [(128, 128)], [(256, 256)]),
        ("sage", (9, 0), [(64, 64), (96, 96), (128, 128)], [(256, 256)]),
        ("sdpa", (9, 0), [(256, 256)], []),
    ],
)
def test_head_dims_are_claimed_by_chip(
    name: str, chip: hardware.Chip, claimed: list[tuple[int, int]], not_claimed: list[tuple[int, int]]
) -> None:
    """Forward and backward."""
    claims = CLAIMS[name](chip)
    assert claims is not None
    assert set(claimed) <= set(claims.head_dims)
    assert not set(not_claimed) & set(claims.head_dims)


def test_features_are_claimed_by_chip() -> None:
    """CUTLASS has no window backward; AMD's kernels no softcap; Turing no bfloat16; a CPU's Flex no logsumexp."""
    turing, amd, cpu = xformers_adapter.capabilities((7, 5)), fa2.capabilities("gfx942"), flex.capabilities("cpu")
    assert turing is not None
    assert amd is not None
    assert cpu is not None
    assert "window" not in turing.features
    assert turing.dtypes == ("float16",)
    assert "softcap" not in amd.features
    assert "Triton" in amd.source
    assert "logsumexp" not in turing.features | cpu.features
    blackwell = fa4.capabilities((12, 0))
    assert blackwell is not None
    assert "softcap" not in blackwell.features


def test_flash_attention_2_on_triton_serves_every_amd_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Radeons have no other of its kernels, and these have no sliding window."""
    radeon, instinct = fa2.capabilities("gfx1100", triton=True), fa2.capabilities("gfx942", triton=True)
    assert radeon is not None
    assert instinct == radeon
    assert not radeon.features & {"softcap", "window"}
    assert fa2.capabilities((9, 0), triton=True) == fa2.capabilities((9, 0))
    monkeypatch.setenv("FLASH_ATTENTION_TRITON_AMD_ENABLE", "true")
    assert fa2.on_triton()
    monkeypatch.setenv("FLASH_ATTENTION_TRITON_AMD_ENABLE", "")
    assert not fa2.on_triton()


def test_sdpas_kernels_are_claimed_by_chip() -> None:
    """Flash takes no mask; Turing has only the memory-efficient kernel; math is everywhere."""
    hopper = sdpa.kernel_capabilities((9, 0))
    assert set(hopper) == {"flash", "cudnn", "efficient", "math"}
    assert not hopper["flash"].features & {"window", "varlen"}
    assert hopper["efficient"].features >= {"window", "varlen"}
    assert set(sdpa.kernel_capabilities((7, 5))) == {"efficient", "math"}
    assert set(sdpa.kernel_capabilities("gfx942")) == {"flash", "math"}
    assert "float32" in sdpa.kernel_capabilities("cpu")["flash"].dtypes


def test_a_chip_without_claims_is_refused_with_where_the_backend_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image on the wrong GPU says so before a kernel fails in its own words."""
    with pytest.raises(hardware.UnsupportedChip, match=r"fa3 runs on compute capability 9\.0; this device is 8\.0"):
        loaded(monkeypatch, "fa3", (8, 0))


@pytest.mark.parametrize(
    ("hip", "name", "chip"),
    [(None, "", (8, 9)), ("6.4", "gfx942:sramecc+:xnack-", "gfx942"), ("6.4", "gfx1100", "gfx1100")],
)
def test_a_chip_is_a_compute_capability_or_a_gfx_name(
    monkeypatch: pytest.MonkeyPatch, hip: str | None, name: str, chip: hardware.Chip
) -> None:
    """On AMD torch's device type is cuda as well."""
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _where: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _where: SimpleNamespace(gcnArchName=name))
    assert hardware.chip_of(torch.device("cuda", 0)) == chip


def test_a_pattern_of_nothing_needs_no_mask() -> None:
    """And plain causal has a flag, unless queries and keys differ in number."""
    assert masks.Pattern.of(arguments(causal=False)).masks_nothing
    assert masks.Pattern.of(arguments(causal=False, window=(-1, -1))).masks_nothing
    assert masks.Pattern.of(arguments()).is_plain_causal
    assert not masks.Pattern.of(arguments(window=(3, 0))).is_plain_causal
    call = arguments()
    assert not masks.Pattern.of(replace(call, q=call.q[:, 7:])).is_plain_causal
