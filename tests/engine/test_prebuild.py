"""The kernels that the fa4 image brings, where that image has been built: 8 GB, so no test builds it."""

from __future__ import annotations

import pytest
from attn_matrix.host import engine

from tests.engine.test_images import HARDENED, docker

IMAGE = "axolotl-attn:fa4-cu128-base"
# What a start does, and then every call again that the image was built for.
LOOK_UP_ALL = """
import os, subprocess, sys
from pathlib import Path
from entrypoint.kept import kernels_cache
print("said", kernels_cache.seed(Path("/opt/attn"), os.environ))
prebuild = [sys.executable, "-P", "-m", "entrypoint.probe.fa4.prebuild", "--out", os.environ[kernels_cache.DIRECTORY]]
subprocess.run([*prebuild, "--arch", "sm_90", "--head-dims", *sys.argv[1:]], check=True)
print("compiled", len(kernels_cache.compiled(os.environ)))
"""


@pytest.fixture(scope="session")
def fa4(docker_engine: None) -> str:
    """The image's tag, or a skip."""
    if engine.identity(IMAGE) is None:
        pytest.skip(f"needs the image {IMAGE}: nox -s build -- fa4-cu128-base")
    return IMAGE


def looked_up(image: str, *head_dims: str) -> str:
    """The output of LOOK_UP_ALL, as any user on a read-only root, without a GPU."""
    options = ("--network=none", *HARDENED, "--env=PYTHONPATH=/opt/attn", "--entrypoint=python")
    done = docker("run", "--rm", *options, image, "-P", "-c", LOOK_UP_ALL, *head_dims)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_kernel_for_hopper_is_in_the_image(fa4: str) -> None:
    """FA4 finds what training and the check call, and compiles nothing."""
    assert looked_up(fa4, "64", "128").splitlines() == ["said None", "compiled 0"]


def test_what_is_not_in_the_image_is_compiled_and_kept(fa4: str) -> None:
    """Beside the links; the image's own directory cannot be written."""
    first, last = looked_up(fa4, "40").splitlines()
    assert first == "said None"
    assert int(last.removeprefix("compiled ")) > 0


WITH_AXOLOTL = "axolotl-attn:fa4-cu128"
# The calls of transformers' own function, as a model's attention makes them: dense, and with documents' lengths, which
# it makes of a padding mask or of position_ids. (Made of these, they depend on numbers, which no fake tensor has.)
AS_TRANSFORMERS_CALLS = """
import functools, os, sys
from pathlib import Path
from entrypoint.kept import kernels_cache
from entrypoint.probe.fa4 import prebuild
print("said", kernels_cache.seed(Path("/opt/attn"), os.environ))
prebuild.aim("sm_90", Path(os.environ[kernels_cache.DIRECTORY]))
import torch
from flash_attn.cute import interface
from transformers import modeling_flash_attention_utils as flash
flash.is_flash_attn_4_available = lambda: True  # it asks for a GPU too
calls = []
for function in (interface.FlashAttnFunc, interface.FlashAttnVarlenFunc):
    function.apply = functools.partial(prebuild.forward_backward, function, calls)
batch, length = 2, 2048
with prebuild.fake_tensors(), torch.no_grad():
    starts = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device="cuda")
    varlen = dict(cu_seq_lens_q=starts, cu_seq_lens_k=starts, max_length_q=448, max_length_k=448)
    for text in sys.argv[1:]:
        dim, heads, kv_heads = map(int, text.split("/"))
        for lengths in ({}, varlen):
            for gradients in (False, True):
                shape = (1, batch * length) if lengths else (batch, length)
                # (As in a model: the heads of a projection, and so not contiguous by heads.)
                q, k, v = (
                    torch.empty(*shape, n, dim, dtype=torch.bfloat16, device="cuda", requires_grad=gradients)
                    for n in (heads, kv_heads, kv_heads)
                )
                flash._flash_attention_forward(
                    q, k, v, None, query_length=shape[1], is_causal=True, softmax_scale=dim**-0.5,
                    attn_implementation="flash_attention_4", **lengths,
                )
print("calls", len(calls), "compiled", len(kernels_cache.compiled(os.environ)))
"""


@pytest.fixture(scope="session")
def fa4_with_axolotl(docker_engine: None) -> str:
    """The image's tag, or a skip."""
    if engine.identity(WITH_AXOLOTL) is None:
        pytest.skip(f"needs the image {WITH_AXOLOTL}: nox -s build -- fa4-cu128")
    return WITH_AXOLOTL


def as_transformers_calls(image: str, *shapes: str) -> list[str]:
    options = ("--network=none", *HARDENED, "--env=PYTHONPATH=/opt/attn", "--entrypoint=python")
    done = docker("run", "--rm", *options, image, "-P", "-c", AS_TRANSFORMERS_CALLS, *shapes)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("said", "calls"))]


def test_what_transformers_calls_is_in_the_image(fa4_with_axolotl: str) -> None:
    """Head dims and heads of Llama 3.2 1B, Llama 3 8B and 70B, Qwen2.5 7B, Qwen3 0.6B, Phi-3 mini and Gemma 3 4B."""
    shapes = ("64/32/8", "128/32/8", "128/64/8", "128/28/4", "128/16/8", "96/32/32", "256/8/4")
    assert as_transformers_calls(fa4_with_axolotl, *shapes) == ["said None", f"calls {4 * len(shapes)} compiled 0"]


def test_a_shape_that_was_not_compiled_shows(fa4_with_axolotl: str) -> None:
    """Three query heads to each of keys and values, as in Llama 3.2 3B: the calls above would be seen to compile."""
    _, last = as_transformers_calls(fa4_with_axolotl, "128/24/8")
    assert int(last.split()[-1]) > 0
