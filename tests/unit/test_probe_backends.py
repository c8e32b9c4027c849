"""The adapters: cheap to import, right about what they adapt, and honest about what they claim.

What cannot run here runs against a fake of its signature (tests/unit/fakes), next to the float64 reference.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from entrypoint.probe import backends
from entrypoint.probe.backends import Arguments, flex, sdpa, tensors
from entrypoint.probe.fa4 import ownership

torch = pytest.importorskip("torch")

from entrypoint.probe import accuracy, observe, reference, schedule  # noqa: E402  (after the skip, as they need torch to run)
from entrypoint.probe.cases import INPUTS, startup_cases  # noqa: E402
from tests.unit.fakes import flash as fake_flash  # noqa: E402
from tests.unit.fakes import sage as fake_sage  # noqa: E402
from tests.unit.fakes.loading import (  # noqa: E402
    CPU,
    EVERYTHING,
    FAKES,
    HOPPER,
    PACKED,
    PACKED_WINDOW,
    PLAIN,
    SOFTCAP,
    WINDOWS,
    arguments,
    expect_as_reference,
    fresh,
    install,
    loaded,
    on_chip,
    packed,
)

WITHOUT_TORCH = """
import sys
for name in ("torch", "flash_attn", "flash_attn_interface", "sageattention", "xformers"):
    sys.modules[name] = None
import pkgutil, importlib, entrypoint.probe
for module in pkgutil.walk_packages(entrypoint.probe.__path__, "entrypoint.probe."):
    importlib.import_module(module.name)
from entrypoint.probe import backends
assert set(backends.kernel_rules()) == set(backends.NAMES)
"""


def test_every_module_imports_without_torch_and_kernels() -> None:
    """Only `load` needs them, so that what is missing becomes a reason in the report."""
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True)


@pytest.mark.parametrize(
    ("typed", "meant"), [("fa5", "fa4"), ("xformer", "xformers"), ("sdp", "sdpa"), ("Flex", "flex"), ("sag", "sage")]
)
def test_an_unknown_backend_names_the_closest(typed: str, meant: str) -> None:
    """Of those that there are."""
    with pytest.raises(backends.UnknownBackend, match=f"unknown backend '{typed}'. Did you mean '{meant}'"):
        backends.known(typed)


def test_an_unknown_backend_that_is_near_to_none_names_them_all() -> None:
    """A guess that is far off would mislead."""
    with pytest.raises(backends.UnknownBackend, match="Known: fa2, fa3, fa4, flex, s2, sage, sdpa, xformers"):
        backends.known("native")


# --- right about what they adapt ----------------------------------------------------------------------------------


CALLS = {
    "sdpa": {**PLAIN, **WINDOWS, **PACKED, **PACKED_WINDOW},
    "fa2": EVERYTHING,
    "fa3": EVERYTHING,
    "fa4": EVERYTHING,
    "xformers": {**PLAIN, **WINDOWS, **PACKED, **PACKED_WINDOW},
    "sage": {**PLAIN, **PACKED},
}


@pytest.mark.parametrize(
    ("name", "call"),
    [pytest.param(name, call, id=f"{name}-{case}") for name, calls in CALLS.items() for case, call in calls.items()],
)
def test_an_adapter_means_what_the_reference_means(monkeypatch: pytest.MonkeyPatch, name: str, call: Arguments) -> None:
    """Scale, masks exact to one position, documents of length 1 and 0, softcap, grouped heads: out, dQ, dK and dV."""
    expect_as_reference(loaded(monkeypatch, name), call)


def logsumexp(call: Arguments) -> Any:
    """The definition, in float64, from a mask of its own."""
    heads = call.q.shape[2]
    k = tensors.expand_kv(call.k, heads)
    scores = torch.einsum("bihd,bjhd->bhij", call.q, k) * (call.softmax_scale or call.q.shape[-1] ** -0.5)
    i, j = torch.arange(12)[:, None], torch.arange(12)
    seen = (j <= i) | (not call.causal)
    if call.cu_seqlens is not None:
        document = torch.tensor([0] * 5 + [1] + [3] * 6)
        seen = seen & (document[:, None] == document)
    return scores.masked_fill(~seen, -torch.inf).logsumexp(-1)


@pytest.mark.parametrize("name", ["fa2", "fa3", "fa4", "xformers"])
@pytest.mark.parametrize("call", [*PLAIN.values(), *PACKED.values()], ids=[*PLAIN, *PACKED])
def test_a_logsumexp_is_of_batch_heads_and_seqlen(monkeypatch: pytest.MonkeyPatch, name: str, call: Arguments) -> None:
    """A natural logarithm, packed documents a batch of one, and no padding left."""
    backend = loaded(monkeypatch, name)
    assert backend.capabilities is not None
    assert "logsumexp" in backend.capabilities.features
    assert backend.logsumexp is not None
    torch.testing.assert_close(backend.logsumexp(call), logsumexp(call))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("sdpa", SOFTCAP["softcap"]),
        ("xformers", SOFTCAP["softcap"]),
        ("xformers", packed(window=(2, 1), causal=False)),
        ("sage", SOFTCAP["softcap"]),
        ("sage", WINDOWS["window"]),
        *((name, arguments(shifted_group=4)) for name in ("sdpa", "fa2", "fa3", "fa4", "xformers", "sage")),
    ],
)
def test_what_a_package_has_no_argument_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, call: Arguments
) -> None:
    """Ignoring it would be a wrong result without an error."""
    with pytest.raises(NotImplementedError):
        loaded(monkeypatch, name).attention(call)


@pytest.mark.parametrize("name", ["fa2", "fa3", "fa4"])
def test_the_deterministic_mode_is_a_kernel_of_its_own(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It is slower, so it is asked for by itself, and only it claims the same bits again."""
    package = FAKES[name]()
    monkeypatch.setitem(FAKES, name, lambda: package)
    seen: list[bool] = []
    real = package.flash_attn_func

    def flash_attn_func(*args: Any, deterministic: bool = False, **options: Any) -> Any:
        seen.append(deterministic)
        return real(*args, deterministic=deterministic, **options)

    backend = loaded(monkeypatch, name)
    monkeypatch.setattr(package, "flash_attn_func", flash_attn_func)
    mode = backend.kernels["deterministic"]
    assert backend.capabilities is not None
    assert mode.capabilities is not None
    assert mode.capabilities.features - backend.capabilities.features == {"deterministic"}
    assert backend.capabilities.features - mode.capabilities.features == {"logsumexp"}
    backend.attention(PLAIN["causal"])
    mode.attention(PLAIN["causal"])
    assert seen == [False, True]


def test_fa4_repeats_kv_heads_where_its_backward_wants_equal_head_dims(monkeypatch: pytest.MonkeyPatch) -> None:
    """(192, 128) in small: grouped heads, and v narrower than k."""
    call = arguments()
    expect_as_reference(loaded(monkeypatch, "fa4"), replace(call, v=call.v[..., :4]))


def test_fa4_that_is_not_the_installed_distributions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlashAttention 2's stub in its place: the import would work."""
    install(monkeypatch, fake_flash.flash_attn_4())
    on_chip(monkeypatch, HOPPER)
    monkeypatch.setattr(ownership, "problems", lambda *asked: [f"{' and '.join(asked)} differ"])
    with pytest.raises(ImportError, match=r"flash_attn\.cute and flash-attn-4 differ"):
        backends.load("fa4", CPU)


def test_fa3_of_2_8_3_offers_no_logsumexp_and_claims_what_every_build_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """It neither returns one nor says what its build left out."""
    monkeypatch.setitem(FAKES, "fa3", fake_flash.flash_attn_3_of_2_8_3)
    backend = loaded(monkeypatch, "fa3")
    assert backend.logsumexp is None
    assert backend.capabilities is not None
    assert backend.capabilities.features == {"gqa", "strided", "window", "varlen"}
    assert backend.capabilities.head_dims == ((64, 64), (128, 128))
    expect_as_reference(backend, WINDOWS["window"])


def test_fa3s_build_flags_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As hopper/setup.py writes them."""
    flags = {"FLASHATTENTION_DISABLE_HDIM256": True, "FLASHATTENTION_DISABLE_LOCAL": True}
    config = ModuleType("flash_attn_config")
    vars(config)["CONFIG"] = {"build_flags": flags}
    install(monkeypatch, config)
    claims = loaded(monkeypatch, "fa3").capabilities
    assert claims is not None
    assert "window" not in claims.features
    assert {"softcap", "varlen"} <= claims.features
    assert (192, 128) in claims.head_dims
    assert (256, 256) not in claims.head_dims


def test_sage_1_writes_into_k_and_the_adapter_does_not_hide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model would meet; packed, smoothing is off, because its mean goes over all documents."""
    backend = loaded(monkeypatch, "sage")
    call = fresh(PLAIN["causal"], requires_grad=False)
    backend.attention(call)
    assert not torch.equal(call.k, PLAIN["causal"].k)
    call = fresh(PACKED["packed"], requires_grad=False)
    backend.attention(call)
    assert torch.equal(call.k, PACKED["packed"].k)


def test_sage_2_offers_its_logsumexp(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two versions are told apart by their signature."""
    assert loaded(monkeypatch, "sage").logsumexp is None
    monkeypatch.setitem(FAKES, "sage", fake_sage.sage_2)
    backend = loaded(monkeypatch, "sage")
    assert backend.logsumexp is not None
    torch.testing.assert_close(backend.logsumexp(PLAIN["causal"]), logsumexp(PLAIN["causal"]))
    expect_as_reference(backend, PLAIN["causal"])


def test_sage_says_that_it_cannot_train_and_how_far_off_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its quantisation is its design."""
    backend = loaded(monkeypatch, "sage")
    assert backend.no_gradient is not None
    assert "no backward" in backend.no_gradient
    assert backend.capabilities is not None
    assert backend.capabilities.relative_error == 1.2e-2


def test_queries_are_aligned_with_the_last_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer queries than keys, as in FlashAttention since 2.1; torch's own flag aligns them with the first."""
    for call in (PLAIN["causal"], WINDOWS["window"], WINDOWS["window-both"]):
        short = replace(call, q=call.q[:, 7:])
        for name in ("sdpa", "fa2", "xformers"):
            expect_as_reference(loaded(monkeypatch, name), short)


# --- SDPA's kernels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flash", "math"])
def test_each_of_sdpas_kernels_is_forced(name: str) -> None:
    """On a CPU there are two; each gives the right result, and the profiler sees that it was this one."""
    kernel = backends.load("sdpa", CPU).kernels[name]
    assert kernel.name == f"sdpa-{name}"
    for call in (PLAIN["causal"], WINDOWS["window"], PACKED["packed"]):
        expect_as_reference(kernel, call)
    names = observe.record(kernel, startup_cases()[0], CPU).names
    assert observe.attribute(names, kernel.name) == kernel.name


def test_only_what_torch_can_use_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own predicates say which kernels a device has, and which of them want their kv heads expanded."""
    asked: list[tuple[str, bool]] = []

    def usable(name: str, _where: object, *, grouped: bool) -> bool:
        asked.append((name, grouped))
        return name == "math" or (name == "efficient" and not grouped)

    monkeypatch.setattr(sdpa, "usable", usable)
    on_chip(monkeypatch, HOPPER)
    assert sorted(backends.load("sdpa", CPU).kernels) == ["efficient", "math"]
    assert {("flash", False), ("cudnn", False), ("efficient", True)} <= set(asked)


def test_one_of_its_kernels_is_a_backend_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its whole name; one that torch cannot use here, and one that nobody has heard of, are errors."""
    kernel = backends.load("sdpa-flash", CPU)
    assert (kernel.name, dict(kernel.kernels)) == ("sdpa-flash", {})
    expect_as_reference(kernel, PLAIN["causal"])
    with pytest.raises(RuntimeError, match="sdpa cannot use its kernel cudnn on cpu; it can use flash, math"):
        backends.load("sdpa-cudnn", CPU)
    for name in ("sdpa-fast", "sdpa-", "fast-cudnn"):
        with pytest.raises(backends.UnknownBackend, match=f"unknown backend '{name}'"):
            backends.known(name)
    assert backends.cache_variable("sdpa-cudnn") is None


def test_all_cases_of_a_kernel_that_is_asked_for_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled however long it takes, so that the family that found cuDNN's NaN, and the far case, are never left out.

    On Hopper cuDNN compiles ten variants of two seconds each, and the check leaves out what begins after twenty.
    """
    monkeypatch.setattr(sdpa, "usable", lambda _name, _where, *, grouped: True)
    on_chip(monkeypatch, HOPPER)
    kernel = backends.load("sdpa-cudnn", CPU)
    checked = schedule.checked(kernel, "cuda", far=True)
    planned = {run.case.id for run in checked}
    assert "full-d64-low" in planned
    assert {case.inputs for case in INPUTS} <= {run.case.inputs for run in checked}
    assert any(run.case.layout == "far" for run in checked)
    assert planned <= {run.case.id for run in schedule.always(kernel, "cuda", far=True)}
    assert not planned <= {run.case.id for run in schedule.always(backends.load("sdpa", CPU), "cuda", far=True)}


def test_a_kernel_without_grouped_heads_gets_a_kv_head_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kv head for its group in a row; autograd sums the gradients over it."""
    monkeypatch.setattr(sdpa, "usable", lambda _name, _where, *, grouped: not grouped)
    seen = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(q: Any, k: Any, v: Any, **options: Any) -> Any:
        seen.append((k.shape[1], options["enable_gqa"]))
        return real(q, k, v, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    expect_as_reference(sdpa.forced("flash", CPU, sdpa.capabilities("cpu")), PLAIN["causal"])
    assert seen == [(4, False)]


# --- FlexAttention ----------------------------------------------------------------------------------------------------


def eager_flex(*tensors_: Any, **options: Any) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(*tensors_, **options)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("call", EVERYTHING.values(), ids=EVERYTHING)
def test_flex_means_what_the_reference_means(call: Arguments) -> None:
    """Its uncompiled function, so that every mask is quick to try; forward, as a CPU has no backward."""
    torch.testing.assert_close(flex.adapt(eager_flex)(call), reference.attention(call))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_gives_output_and_logsumexp_from_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for in the same way, with gradients, so that it is compiled once."""
    seen = []

    def spy(q: Any, k: Any, v: Any, **options: Any) -> Any:
        seen.append((q.requires_grad, sorted(options)))
        return eager_flex(q.detach(), k.detach(), v.detach(), **options)

    training = flex.adapt_training(spy)
    call = PLAIN["causal"]
    torch.testing.assert_close(training.out(fresh(call, requires_grad=True)), reference.attention(call))
    torch.testing.assert_close(training.logsumexp(call), logsumexp(call))
    assert seen[0] == seen[1]


def test_a_block_mask_and_a_score_mod_are_made_once() -> None:
    """A new object would be compiled again."""
    one, same = flex.options(arguments(window=(3, 0), softcap=2.0)), flex.options(arguments(window=(3, 0), softcap=2.0))
    assert one["block_mask"] is same["block_mask"]
    assert one["score_mod"] is same["score_mod"]
    other = flex.options(arguments(window=(4, 0), softcap=3.0))
    assert other["block_mask"] is not one["block_mask"]
    assert other["score_mod"] is not one["score_mod"]


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="FlexAttention on a CPU compiles with g++")


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor imports parts of torch that warn
def test_flex_on_a_cpu_is_compiled_forward_only_with_its_own_reason() -> None:
    """It refuses gradients; the forward runs fused, and asking for gradients has not made it fall back."""
    backend = backends.load("flex", CPU)
    case = startup_cases()[0]
    measured = accuracy.measure(backend, case, CPU)
    assert measured.no_gradient is not None
    assert "does not support backward on CPU" in measured.no_gradient
    assert measured.tensors["dq"] is None
    out = measured.tensors["out"]
    assert out is not None
    assert out.relative is not None
    assert out.relative < 5e-3
    assert observe.attribute(observe.record(backend, case, CPU).names, "flex") == "flex"


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_flex_does_windows_documents_softcap_and_s2() -> None:
    """The masks and score_mods are traced, not only called."""
    generator = torch.Generator().manual_seed(5)
    q = torch.randn(1, 192, 4, 32, generator=generator)
    k, v = torch.randn(2, 1, 192, 2, 32, generator=generator)
    packed_call = Arguments(q=q, k=k, v=v, causal=True, window=(70, 0), softcap=5.0, cu_seqlens=(0, 100, 101, 101, 192))
    attention = backends.load("flex", CPU).attention
    torch.testing.assert_close(attention(packed_call), reference.attention(packed_call))
    shifted = Arguments(q=q, k=k, v=v, causal=True, shifted_group=96)
    torch.testing.assert_close(backends.load("s2", CPU).attention(shifted), reference.attention(shifted))
