"""The check on a real GPU, with the torch and the kernels of this Python: healthy backends pass, broken ones do not."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from tests.gpu.record import check, with_startup

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and a torch that sees it")

NEEDS = {
    "sdpa": "torch",
    "flex": "torch",
    "s2": "torch",
    "fa2": "flash_attn.flash_attn_interface",
    "fa3": "flash_attn_interface",
    "fa4": "flash_attn.cute",
    "xformers": "xformers",
}


def importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def patched(folder: Path, body: str) -> dict[str, str]:
    """An environment in which torch's attention is `broken(real, q, k, v, **kwargs)` with this body."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    code = (
        "import os, time\n"
        "import torch\n"
        "import torch.nn.functional as F\n"
        "real = F.scaled_dot_product_attention\n"
        f"def broken(q, k, v, **kwargs):\n{lines}\n"
        "F.scaled_dot_product_attention = broken\n"
    )
    return with_startup(code, folder)


@pytest.mark.parametrize("backend", NEEDS)
def test_a_healthy_backend_passes(backend: str, tmp_path: Path) -> None:
    """Every case within its budget, and the profiler saw the backend's own kernels."""
    if not importable(NEEDS[backend]):
        pytest.skip(f"needs {NEEDS[backend]}")

    report = check(f"{backend}-cu128", tmp_path, dict(os.environ))

    assert report["verdict"] == "PASS", report["reasons"]
    assert report["backend"]["observed"] == backend
    assert len(report["cases"]) >= 6
    assert all(0.05 < row["of_matmul"] < 1 for row in report["performance"])
    assert report["gpus"][0]["uuid"].startswith("GPU-")


BROKEN = {
    "scale": "return real(q * 1.05, k, v, **kwargs)",
    "batch index mixed": "return real(q, k.flip(0), v, **kwargs)",
    "mask dropped": "return real(q, k, v, **(kwargs | {'is_causal': False}))",
    "wrong group": "return real(q, k.flip(1), v, **kwargs)",
    "zeroed dK": "return real(q, k.detach() + 0 * k, v, **kwargs)",
    "cut gradient": "return real(q, k, v, **kwargs).detach()",
    "not a number": "out = real(q, k, v, **kwargs).clone(); out[-1, -1, -1, -1] = float('nan'); return out",
}


@pytest.mark.parametrize("defect", BROKEN)
def test_a_wrong_kernel_is_found(defect: str, tmp_path: Path) -> None:
    """92, whatever is wrong with it."""
    report = check("sdpa-cu128", tmp_path, patched(tmp_path, BROKEN[defect]))

    assert (report["verdict"], report["code"]["number"]) == ("FAIL", 92), report["reasons"]


def test_the_unfused_path_is_found(tmp_path: Path) -> None:
    """SDPA on its math path: right, slow, and not what was asked for."""
    body = "from torch.nn.attention import SDPBackend, sdpa_kernel\nwith sdpa_kernel(SDPBackend.MATH):\n"
    report = check("sdpa-cu128", tmp_path, patched(tmp_path, body + "    return real(q, k, v, **kwargs)"))

    assert report["code"]["number"] == 92, report["reasons"]
    assert "sdpa-math" in report["reasons"][0]


FAULTS: dict[str, tuple[str, int, str]] = {
    "illegal access": ("torch.zeros(1, device=q.device)[torch.full((1,), 10**9, device=q.device)]\n", 94, "sdpa"),
    "hang": ("time.sleep(600)\n", 94, "was not done after 20 s"),
    "crash": ("os.kill(os.getpid(), 11)\n", 94, "crashed with SIGSEGV"),
    "memory": ("torch.empty(10**12, device=q.device)\n", 95, "memory"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str, tmp_path: Path) -> None:
    """A crash and a hang are the GPU's or the kernel's (94); a full GPU says nothing about the kernel (95)."""
    line, code, says = FAULTS[fault]
    environ = patched(tmp_path, line + "return real(q, k, v, **kwargs)") | {"ATTN_TIMEOUT": "20"}

    report = check("sdpa-cu128", tmp_path, environ)

    assert report["code"]["number"] == code, report["reasons"]
    assert says in report["reasons"][0]
