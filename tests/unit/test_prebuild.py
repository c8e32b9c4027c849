"""What is compiled for GPUs that are not there, with a package that stands for flash-attn-4.

It has the two functions that autograd would call, stores a "kernel" for each key as the real one does, and refuses
tensors that are not fake ones on a CUDA device.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from entrypoint.probe.fa4 import prebuild
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
INTERFACE = """
import os
from pathlib import Path
import torch
from cutlass.utils import HardwareInfo

def compile(name, q, k, causal):
    assert (q.device.type, type(q).__name__) == ("cuda", "FakeTensor")
    if os.environ.get("BROKEN") == f"{name} {q.shape[-1]}":
        raise RuntimeError("ptxas fatal")
    if os.environ.get("FATAL") == f"{name} {q.shape[-1]}":
        os.abort()
    arch, sms = os.environ["FLASH_ATTENTION_ARCH"], os.environ["FLASH_ATTENTION_NUM_SMS"]
    assert HardwareInfo().get_device_multiprocessor_count() == int(sms)
    kernel = Path(os.environ["FLASH_ATTENTION_CUTE_DSL_CACHE_DIR"], "f00d", name)
    kernel.mkdir(parents=True, exist_ok=True)
    gpu = f"{arch}-{sms}-{os.environ['CUTE_DSL_ARCH']}"
    key = f"{gpu}-{q.shape[-1]}-{q.shape[-2] // k.shape[-2]}-{causal}-{q.requires_grad}"
    (kernel / f"{key}.lock").touch()
    if os.environ.get("FULL") != name:
        (kernel / f"{key}.o").write_text("kernel")

class Function:
    @classmethod
    def forward(cls, context, q, k, v, causal):
        compile(f"{cls.__name__}-fwd", q, k, causal)
        out, lse = torch.empty_like(q), torch.empty(1)
        context.save_for_backward(q, k, v, out, lse)
        context.causal = causal
        context.set_materialize_grads(False)
        return out, lse

    @classmethod
    def backward(cls, context, dout, dlse):
        q, k, v, out, lse = context.saved_tensors
        assert dout.shape == out.shape and dlse is None
        compile(f"{cls.__name__}-bwd", q, k, context.causal)

class FlashAttnFunc(Function):
    pass

class FlashAttnVarlenFunc(Function):
    pass

def flash_attn_func(q, k, v, causal=False, **options):
    return FlashAttnFunc.apply(q, k, v, causal)

def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=False, **options):
    assert cu_seqlens_q.dtype == torch.int32
    q + cu_seqlens_q.sum()  # fails where one of them is left from another variant's fake tensors
    return FlashAttnVarlenFunc.apply(q, k, v, causal)
"""
HARDWARE = "class HardwareInfo:\n    def __init__(self, device_id=0):\n        raise RuntimeError('no CUDA')\n"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with flash_attn.cute, its distribution's records, and cutlass.utils."""
    site = tmp_path / "site"
    cute = {"__init__.py": "from .interface import *\n", "interface.py": INTERFACE}
    for name, text in {**{f"flash_attn/cute/{n}": t for n, t in cute.items()}, "cutlass/utils.py": HARDWARE}.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    record = site / "flash_attn_4-4.0.0b36.dist-info" / "RECORD"
    record.parent.mkdir()
    (record.parent / "METADATA").write_text("Metadata-Version: 2.1\nName: flash-attn-4\nVersion: 4.0.0b36\n")
    digests = {n: base64.urlsafe_b64encode(hashlib.sha256(t.encode()).digest()).rstrip(b"=") for n, t in cute.items()}
    record.write_text("".join(f"flash_attn/cute/{name},sha256={d.decode()},1\n" for name, d in digests.items()))
    return site


def run(site: Path, out: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The real command for one architecture and head dim, in a process of its own."""
    command = [sys.executable, "-P", "-m", "entrypoint.probe.fa4.prebuild", "--out", str(out), "--jobs=1", *arguments]
    paths = os.pathsep.join((str(site), str(ROOT)))
    return subprocess.run(
        [*command, "--arch=sm_100", "--head-dims=64"],
        env=os.environ | {"PYTHONPATH": paths} | environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def keys(directory: Path) -> set[str]:
    """The kernels in a cache, each by its use and key."""
    return {f"{path.parent.name} {path.stem}" for path in directory.rglob("*.o")}


def test_training_is_causal_grouped_and_not_dense_and_packed() -> None:
    """For each head dim with the groups of common models, and no two variants have the same name."""
    variants = prebuild.training([(64, 64), (192, 128)], "sm_100")
    assert len({variant.id for variant in variants}) == len(variants) == 2 * 3 * 2
    assert {"causal-d64-group4-packed", "causal-d192-128-group8"} < {variant.id for variant in variants}


def test_hopper_has_the_head_dims_of_few_models_too() -> None:
    """And the groups of few: these alone, unless such a head dim is asked for, and none twice."""
    ids = [variant.id for variant in prebuild.training([(64, 64)], "sm_90")]
    assert {"causal-d256-group2", "causal-d96-group1-packed", "causal-d64-group7"} < {*ids}
    assert "causal-d96-group4" not in ids
    asked = [variant.id for variant in prebuild.training([(64, 64), (96, 96)], "sm_90")]
    assert {*asked} > {*ids, "causal-d96-group4"}
    assert len(asked) == len({*asked})


def test_head_dims_are_of_q_and_k_and_of_v() -> None:
    """One number stands for all three."""
    assert [prebuild.head_dims(text) for text in ("64", "192/128")] == [(64, 64), (192, 128)]


def test_it_compiles_what_training_and_the_check_call_for_the_gpu_asked_for(package: Path, tmp_path: Path) -> None:
    """Forward and backward; the check's own besides; no lock stays, and nothing of an older cache comes in."""
    (tmp_path / "cache/f00d/fwd").mkdir(parents=True)
    (tmp_path / "cache/f00d/fwd/unused.o").touch()
    done = run(package, tmp_path / "out", f"--cache={tmp_path / 'cache'}")
    assert done.returncode == 0, done.stderr
    made = keys(tmp_path / "out")
    assert {
        f"FlashAttn{function}-{direction} sm_100-148-sm_100a-64-{group}-True-{gradients}"
        for function in ("Func", "VarlenFunc")
        for direction, gradients in (("fwd", True), ("fwd", False), ("bwd", True))
        for group in (1, 4, 8)
    } < made
    assert "FlashAttnFunc-bwd sm_100-148-sm_100a-128-1-True-True" in made  # the case that speed is measured with
    assert "FlashAttnFunc-bwd sm_100-148-sm_100a-256-1-True-True" in made  # which is claimed on this architecture alone
    assert "fwd unused" not in made
    assert not [*tmp_path.rglob("*.lock")]
    assert "sm_100 causal-d64-group1: forward 0." in done.stderr
    assert f"sm_100: {len(made)} kernels" in done.stderr


def test_a_variant_that_does_not_compile_ends_it_and_is_named(package: Path, tmp_path: Path) -> None:
    """The build of the image fails, with the compiler's own words above."""
    done = run(package, tmp_path, BROKEN="FlashAttnFunc-bwd 64")
    assert done.returncode == 1
    assert "RuntimeError: ptxas fatal" in done.stderr
    assert done.stderr.splitlines()[-1] == "sm_100: FlashAttention 4 does not compile causal-d64-group1"


def test_a_compiler_that_crashes_ends_it_and_is_named(package: Path, tmp_path: Path) -> None:
    """An abort takes its process with it, and no exception comes out."""
    done = run(package, tmp_path, FATAL="FlashAttnVarlenFunc-fwd 64")
    assert done.returncode == 1
    assert "sm_100: causal-d64-group1-packed ended its process" in done.stderr


def test_a_kernel_that_was_not_stored_ends_it(package: Path, tmp_path: Path) -> None:
    """FA4 itself keeps silent about a full disk."""
    done = run(package, tmp_path, FULL="FlashAttnVarlenFunc-bwd")
    assert done.returncode == 1
    assert "kernels were compiled and cannot be stored" in done.stderr


def test_the_build_mounts_all_that_it_imports() -> None:
    """The Dockerfile names single files, so that a change of the others compiles nothing again."""
    code = "import sys, entrypoint.probe.fa4.prebuild; print(*(n for n in sys.modules if n.startswith('entrypoint')))"
    command = [sys.executable, "-P", "-c", code]
    names = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True).stdout
    outside = {name for name in names.split() if not name.startswith("entrypoint.probe")}
    text = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    assert "source=entrypoint/probe,target=/run/attn/entrypoint/probe" in text
    for name in outside:
        path = name.replace(".", "/")
        path += "/__init__.py" if (ROOT / path).is_dir() else ".py"
        assert f"source={path},target=/run/attn/{path}" in text
