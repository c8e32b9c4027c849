"""Kernel names, and the backend they belong to. The GPU names are real ones, as profilers show them."""

from __future__ import annotations

from typing import Any

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
FA2_FORWARD = (
    "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4, false, false, cutlass::bfloat16_t>>"
)
FA3 = (
    "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::CollectiveMainloopFwdSm90<"
    " cute::tuple<cute::C<1>, cute::C<1>, cute::C<1>>>>>>(flash::FlashAttnFwdSm90::Params)"
)
FA3_BACKWARD = (
    "void cutlass::device_kernel<flash::enable_sm90<flash::FlashAttnBwdSm90<flash::CollectiveMainloopBwdSm90<2>>>>"
)
FA3_POSTPROCESS = "void cutlass::device_kernel<flash::FlashAttnBwdPostprocessConvertdQ<cute::tuple<cute::C<64>>>>"
SAGE_1 = "_attn_fwd"
SAGE_2 = "void qk_int8_sv_f8_attn_kernel<64u, 128u, 128u, 128u, (QuantGranularity)3, __nv_bfloat16>"
SAGE_2_ADA = "void qk_int_sv_f8_attn_kernel<128u, 64u, 32u, 64u, 128u, (DataType)0>"
SAGE_QUANTISATION = "quant_per_block_int8_kernel"
CK = "void ck_tile::kentry<1, ck_tile::FmhaFwdKernel<ck_tile::BlockFmhaPipelineQRKSVSAsync<>>>"
AOTRITON = "attn_fwd"
EFFICIENT_FORWARD = (
    "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel<cutlass::bfloat16_t>)"
)
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
        ([FA2_FORWARD, FA2_PACKAGE, ELEMENTWISE], "fa2", "fa2"),
        ([FLASH2_IN_TORCH], "fa2", "sdpa"),
        ([FA2_FORWARD], "fa4", "fa2"),
        ([FA2_FORWARD], "sdpa", "fa2"),
        ([FA3, FA3_BACKWARD, FA3_POSTPROCESS], "fa3", "fa3"),
        ([FA2_FORWARD], "fa3", "fa2"),
        ([FA3], "fa4", "fa3"),
        ([FA3], "xformers", "xformers"),
        ([CK], "fa2", "fa2"),
        ([AOTRITON], "sdpa", "sdpa"),
        ([AOTRITON], "fa2", "fa2"),
        ([SAGE_QUANTISATION, SAGE_1], "sage", "sage"),
        ([SAGE_QUANTISATION, SAGE_2], "sage", "sage"),
        ([SAGE_2_ADA], "sage", "sage"),
        ([SAGE_QUANTISATION], "sage", None),
        ([FLEX, FLEX_BACKWARD], "s2", "s2"),
        ([FLEX], "s2-flex", "s2-flex"),
        ([FA2_FORWARD, FA2_PACKAGE], "s2-fa2", "s2-fa2"),
        ([FA4], "s2-fa4", "s2-fa4"),
        ([FLEX], "s2-fa4", "s2-flex"),
        ([FLASH2_IN_TORCH], "s2-fa2", "sdpa"),
        ([GEMM, SOFTMAX], "s2", "s2-unfused"),
        ([FLASH2_IN_TORCH], "sdpa-flash", "sdpa-flash"),
        ([CUDNN, ELEMENTWISE], "sdpa-cudnn", "sdpa-cudnn"),
        ([EFFICIENT, EFFICIENT_FORWARD], "sdpa-efficient", "sdpa-efficient"),
        ([FLASH2_IN_TORCH], "sdpa-cudnn", "sdpa-flash"),
        ([CUDNN, EFFICIENT], "sdpa-cudnn", "sdpa-cudnn+sdpa-efficient"),
        ([GEMM, SOFTMAX], "sdpa-math", "sdpa-math"),
        ([GEMM, SOFTMAX], "sdpa-flash", "sdpa-math"),
        ([FLASH2_IN_TORCH], "sdpa-math", "sdpa-flash"),
        ([FA4, FA4_BACKWARD], "fa4-deterministic", "fa4-deterministic"),
        ([FA2_FORWARD], "fa4-deterministic", "fa2"),
        ([GEMM, SOFTMAX], "fa4-deterministic", "fa4-unfused"),
        ([ELEMENTWISE], "fa4", None),
        ([], "sdpa", None),
    ],
)
def test_names_are_attributed(names: list[str], asked: str, observed: str | None) -> None:
    """To the backend asked for if it may launch them, else to the one that does; apart where it fell apart."""
    assert observe.attribute(names, asked) == observed


def test_attention_comes_first() -> None:
    """A reader of the report wants the kernel, not the copy before it."""
    assert observe.presentable(["Memcpy DtoD", FLEX, "Memset"]) == (FLEX, "Memcpy DtoD", "Memset")
    assert observe.presentable(["Memset", "sm80_xmma_gemm_f32"]) == ("sm80_xmma_gemm_f32", "Memset")


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
    names = observe.record(backends.load("sdpa", here), startup_cases()[0], here).names
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    assert "aten::_scaled_dot_product_flash_attention_for_cpu_backward" in names
    assert observe.attribute(names, "sdpa") == "sdpa"


def test_a_call_without_attention_is_told_from_a_profiler_that_saw_nothing() -> None:
    """Something ran and none of it was attention: a kernel that never started, and left its output as it was."""
    torch = pytest.importorskip("torch")
    from entrypoint.probe import backends

    def untouched(arguments: backends.Arguments) -> Any:
        return torch.zeros_like(arguments.q)

    here = torch.device("cpu")
    idle = backends.Backend(name="sage", attention=untouched, no_gradient="none")
    recording = observe.record(idle, startup_cases()[0], here)
    assert recording.recorded > 0
    assert recording.names == ()
    assert observe.attribute(recording.names, "sage") is None


def test_sdpas_math_path_is_told_from_its_kernels() -> None:
    """Forced to math, it is products and a softmax."""
    torch = pytest.importorskip("torch")
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from entrypoint.probe import backends

    here = torch.device("cpu")
    with sdpa_kernel(SDPBackend.MATH):
        names = observe.record(backends.load("sdpa", here), startup_cases()[0], here).names
    assert observe.attribute(names, "sdpa") == "sdpa-math"
