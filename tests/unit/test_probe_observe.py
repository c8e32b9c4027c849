"""Kernel names, and the backend they belong to. The GPU names are real ones, as profilers show them."""

from __future__ import annotations

import pytest

from entrypoint.probe import observe
from entrypoint.probe.cases import startup_cases

FLASH2_IN_TORCH = "void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<128, 64, 64, 4>>"
CUDNN = "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_kernel0_0"
EFFICIENT = "fmha_cutlassB_bf16_aligned_128x128_k128_sm80(PyTorchMemEffAttention::AttentionBackwardKernel)"
FLEX = "triton_tem_fused_flex_attention_0"
FLEX_BACKWARD = "triton_tem_fused_flex_attention_backward_mul_1"
FA4 = "kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90FlashAttentionForwardSm90_object_at__tensor0000o11101213"
FA4_BACKWARD = "kernel_cutlass_kernel_flash_attncuteflash_bwd_preprocessFlashAttentionBackwardPreprocess_object_at_"
FA4_HD256 = "kernel_cutlass_kernel_flash_attncutesm100_hd256_2cta_fmha_backward_dqkernel_object_at_"
FA2_PACKAGE = "void flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<Flash_bwd_kernel_traits<128, 64, 128>>"
GEMM = "nvjet_tst_256x128_64x4_2x1_v_bz_coopA_NNT"
SOFTMAX = "void at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float, float, float>"
ELEMENTWISE = "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>"


@pytest.mark.parametrize(
    ("names", "asked", "observed"),
    [
        ([FLASH2_IN_TORCH, ELEMENTWISE], "sdpa", "sdpa"),
        ([CUDNN], "sdpa", "sdpa"),
        ([EFFICIENT], "sdpa", "sdpa"),
        ([GEMM, SOFTMAX, ELEMENTWISE], "sdpa", "sdpa-math"),
        ([FLEX, FLEX_BACKWARD, ELEMENTWISE], "flex", "flex"),
        ([GEMM, SOFTMAX], "flex", "flex-unfused"),
        ([FLEX, GEMM, SOFTMAX], "flex", "flex+flex-unfused"),
        ([FA4, FA4_BACKWARD, ELEMENTWISE], "fa4", "fa4"),
        ([FLASH2_IN_TORCH], "fa4", "sdpa"),
        ([FA4, FLASH2_IN_TORCH], "fa4", "fa4+sdpa"),
        ([EFFICIENT], "xformers", "xformers"),
        ([FLASH2_IN_TORCH, FA2_PACKAGE], "xformers", "xformers"),
        ([FA4_HD256], "fa4", "fa4"),
        ([FLASH2_IN_TORCH + ", Softmax<64>"], "sdpa", "sdpa"),
        (["aten::bmm"], "flex", "flex-unfused"),
        ([ELEMENTWISE], "fa4", None),
        ([], "sdpa", None),
    ],
)
def test_names_are_attributed(names: list[str], asked: str, observed: str | None) -> None:
    """To the backend asked for if it may launch them, else to the one that does; apart where it fell apart."""
    assert observe.attribute(names, asked) == observed


def test_attention_comes_first() -> None:
    """A reader of the report wants the kernel, not the copy before it."""
    assert observe.presentable(["Memcpy DtoD", FLEX, "Memset"]) == [FLEX, "Memcpy DtoD", "Memset"]


def test_long_names_are_cut_for_the_report() -> None:
    """CuTe DSL's run to thousands of characters; the beginning says what it is."""
    short, long = observe.presentable([FLEX, FA4 * 20])
    assert short == FLEX
    assert len(long) == observe.NAME_LENGTH
    assert long.startswith(FA4[:100])


def test_a_fused_cpu_kernel_is_seen_forward_and_backward() -> None:
    """SDPA's own operators on a CPU, as the profiler recorded them."""
    torch = pytest.importorskip("torch")
    from entrypoint.probe import backends

    here = torch.device("cpu")
    names = observe.kernel_names(backends.load("sdpa", here), startup_cases()[0], here)
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    assert "aten::_scaled_dot_product_flash_attention_for_cpu_backward" in names
    assert observe.attribute(names, "sdpa") == "sdpa"


def test_sdpas_math_path_is_told_from_its_kernels() -> None:
    """Forced to math, it is products and a softmax."""
    torch = pytest.importorskip("torch")
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from entrypoint.probe import backends

    here = torch.device("cpu")
    with sdpa_kernel(SDPBackend.MATH):
        names = observe.kernel_names(backends.load("sdpa", here), startup_cases()[0], here)
    assert observe.attribute(names, "sdpa") == "sdpa-math"
