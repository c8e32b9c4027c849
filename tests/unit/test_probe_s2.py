"""S2 on FlexAttention and on packed FlashAttention: shifted segments, and no sight of the future."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from entrypoint.probe import backends
from entrypoint.probe.backends import Arguments, Backend, flex, s2

torch = pytest.importorskip("torch")

from entrypoint.probe import reference  # noqa: E402  (after the skip, as it needs torch to run)
from tests.unit.fakes.loading import CPU, arguments, expect_as_reference, fresh, loaded  # noqa: E402


def eager_flex(*tensors: Any, **options: Any) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(*tensors, **options)


def shifted(heads: int, kv_heads: int, group: int) -> Arguments:
    generator = torch.Generator().manual_seed(7)
    q = torch.randn(3, 12, heads, 8, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 3, 12, kv_heads, 8, generator=generator, dtype=torch.float64)
    return Arguments(q=q, k=k, v=v, causal=True, shifted_group=group)


S2_CALLS = [(4, 4, 4), (4, 2, 4), (4, 1, 6), (6, 3, 2), (2, 1, 12), (12, 6, 4)]


@pytest.mark.parametrize("name", ["fa2", "fa3", "fa4"])
@pytest.mark.parametrize(("heads", "kv_heads", "group"), S2_CALLS)
def test_s2_on_flash_attention_is_two_packed_calls(
    monkeypatch: pytest.MonkeyPatch, name: str, heads: int, kv_heads: int, group: int
) -> None:
    """Batches of three, and groups of heads that lie across the halves: out, dQ, dK and dV as the reference's."""
    attention = loaded(monkeypatch, name).attention
    expect_as_reference(Backend(name="s2", attention=s2.on_varlen(attention)), shifted(heads, kv_heads, group))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("heads", "kv_heads", "group"), S2_CALLS)
def test_s2_on_flex_is_one_mask(heads: int, kv_heads: int, group: int) -> None:
    """Whose second half of heads is shifted."""
    call = shifted(heads, kv_heads, group)
    torch.testing.assert_close(s2.on_flex(flex.adapt(eager_flex))(call), reference.attention(call))


def test_s2s_segments_end_where_the_sequence_ends() -> None:
    """No segment goes around, and none goes from one sequence of the batch into the next."""
    assert s2.segments(12, 4, shift=0, batch=1) == (0, 4, 8, 12)
    assert s2.segments(12, 4, shift=2, batch=1) == (0, 2, 6, 10, 12)
    assert s2.segments(12, 4, shift=2, batch=2) == (0, 2, 6, 10, 12, 14, 18, 22, 24)
    assert s2.segments(4, 4, shift=0, batch=2) == (0, 4, 8)
    assert s2.segments(4, 4, shift=2, batch=1) == (0, 2, 4)


def test_s2_does_not_see_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rolled variant lets the first half group see the last one."""
    attention = s2.on_varlen(loaded(monkeypatch, "fa2").attention)
    call = shifted(4, 2, 4)
    changed = fresh(call, requires_grad=False)
    changed.k[:, 10:] += 100.0
    changed.v[:, 10:] -= 100.0
    torch.testing.assert_close(attention(changed)[:, :10], attention(call)[:, :10])


@pytest.mark.parametrize(
    ("heads", "group", "sentence"),
    [
        (4, 3, "the group must be even; got 3"),
        (4, 0, "the group must be even; got 0"),
        (4, 8, "8 does not divide 12"),
        (3, 4, "their number must be even; got 3"),
    ],
)
def test_s2_refuses_what_it_would_get_wrong(
    monkeypatch: pytest.MonkeyPatch, heads: int, group: int, sentence: str
) -> None:
    """With a sentence, on either road."""
    call = shifted(heads, heads, group)
    attention = loaded(monkeypatch, "fa2").attention
    for on in (None, attention):
        with pytest.raises(ValueError, match=sentence):
            s2.shifted_sparse_attention(call.q, call.k, call.v, group, attention=on)


def test_s2_wants_a_group_and_causal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backend is for shifted calls alone."""
    attention = s2.on_varlen(loaded(monkeypatch, "fa2").attention)
    for call in (arguments(), arguments(shifted_group=4, causal=False)):
        with pytest.raises(ValueError, match="needs causal=True and shifted_group"):
            attention(call)


def test_s2_is_called_like_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function for users."""
    call = replace(shifted(4, 2, 4), softmax_scale=0.2)
    out = s2.shifted_sparse_attention(
        call.q, call.k, call.v, 4, softmax_scale=0.2, attention=loaded(monkeypatch, "fa4").attention
    )
    torch.testing.assert_close(out, reference.attention(call))


def test_s2_offers_every_flash_attention_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says on what; the one that is not installed is left out."""
    loaded(monkeypatch, "fa2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace() if "interface" in name else None)
    backend = backends.load("s2", CPU)
    assert list(backend.kernels) == ["fa2"]
    kernel = backend.kernels["fa2"]
    assert kernel.name == "s2-fa2"
    assert kernel.capabilities is not None
    assert kernel.capabilities.features == {"gqa", "strided", "shifted"}
    expect_as_reference(kernel, shifted(4, 2, 4))
