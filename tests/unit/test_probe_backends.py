"""The adapters: known by name, cheap to import, and right about the signature of what they adapt."""

from __future__ import annotations

import shutil
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from entrypoint.probe import backends
from entrypoint.probe.cases import startup_cases

WITHOUT_TORCH = """
import sys
for name in ("torch", "flash_attn", "xformers"):
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
    ("typed", "meant"), [("fa5", "fa4"), ("xformer", "xformers"), ("sdp", "sdpa"), ("Flex", "flex")]
)
def test_an_unknown_backend_names_the_closest(typed: str, meant: str) -> None:
    """And all there are."""
    with pytest.raises(backends.UnknownBackend, match=f"unknown backend '{typed}'; did you mean '{meant}'") as caught:
        backends.known(typed)
    assert "sdpa, flex, fa4, xformers" in str(caught.value)


def install(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: object) -> None:
    """A package under `name` that holds only these attributes, with its parents."""
    for parent in (name.partition(".")[0], name):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    for key, value in attributes.items():
        setattr(sys.modules[name], key, value)


def arguments(torch: Any, *, causal: bool) -> backends.Arguments:
    q = torch.randn(2, 5, 4, 8)
    k, v = torch.randn(2, 2, 5, 2, 8)
    return backends.Arguments(q=q, k=k, v=v, causal=causal, softmax_scale=0.3)


def test_fa4_is_called_as_its_package_wants_and_its_logsumexp_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """flash_attn_func(q, k, v, softmax_scale=, causal=) of 4.0.0b36 returns (out, logsumexp)."""
    torch = pytest.importorskip("torch")

    def flash_attn_func(q: Any, k: Any, v: Any, **options: Any) -> Any:
        assert options == {"softmax_scale": 0.3, "causal": True}
        assert (tuple(k.shape), tuple(v.shape)) == ((2, 5, 2, 8), (2, 5, 2, 8))
        return q + 1, torch.zeros(2, 4, 5)

    install(monkeypatch, "flash_attn.cute", flash_attn_func=flash_attn_func)
    call = arguments(torch, causal=True)
    out = backends.load("fa4", torch.device("cpu")).attention(call)
    assert torch.equal(out, call.q + 1)


def test_flash_attention_2s_stub_of_fa4_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flash_attn.cute without flash_attn_func is not FA4."""
    torch = pytest.importorskip("torch")
    install(monkeypatch, "flash_attn.cute")
    with pytest.raises(AttributeError, match="flash_attn_func"):
        backends.load("fa4", torch.device("cpu"))


@pytest.mark.parametrize("causal", [True, False])
def test_xformers_gets_a_head_of_kv_for_each_query_head(monkeypatch: pytest.MonkeyPatch, causal: bool) -> None:
    """Its grouped layout has no backward; group g's query heads stand in a row, and the mask is its own class."""
    torch = pytest.importorskip("torch")
    call = arguments(torch, causal=causal)

    def memory_efficient_attention(q: Any, k: Any, v: Any, *, attn_bias: Any, scale: float) -> Any:
        assert isinstance(attn_bias, SimpleNamespace) == causal
        assert scale == 0.3
        for group in range(2):
            for head in (2 * group, 2 * group + 1):
                assert torch.equal(k[:, :, head], call.k[:, :, group])
                assert torch.equal(v[:, :, head], call.v[:, :, group])
        return q + 2

    install(
        monkeypatch,
        "xformers.ops",
        memory_efficient_attention=memory_efficient_attention,
        LowerTriangularMask=SimpleNamespace,
    )
    out = backends.load("xformers", torch.device("cpu")).attention(call)
    assert torch.equal(out, call.q + 2)


def test_sdpa_gives_its_output_in_qs_layout_and_takes_the_scale() -> None:
    """Equal to the reference with the same scale."""
    torch = pytest.importorskip("torch")
    from entrypoint.probe import reference

    call = arguments(torch, causal=True)
    out = backends.load("sdpa", torch.device("cpu")).attention(call)
    torch.testing.assert_close(out, reference.attention(call))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor imports parts of torch that warn
@pytest.mark.skipif(shutil.which("g++") is None, reason="FlexAttention on a CPU compiles with g++")
def test_flex_on_a_cpu_is_compiled_forward_only_with_its_own_reason() -> None:
    """It refuses gradients; the forward runs fused, and asking for gradients has not made it fall back."""
    torch = pytest.importorskip("torch")
    from entrypoint.probe import accuracy, observe

    here = torch.device("cpu")
    flex = backends.load("flex", here)
    case = startup_cases()[0]
    measured = accuracy.measure(flex, case, here)
    assert measured.no_gradient is not None
    assert "does not support backward on CPU" in measured.no_gradient
    assert measured.tensors["dq"] is None
    assert measured.tensors["out"] is not None
    assert measured.tensors["out"]["relative"] < 5e-3
    assert observe.attribute(observe.kernel_names(flex, case, here), "flex") == "flex"
