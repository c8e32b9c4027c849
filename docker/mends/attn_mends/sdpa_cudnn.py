"""torch: scaled_dot_product_attention tries cuDNN's kernel first, and for what that refuses the others as before."""

from __future__ import annotations

from types import ModuleType


def choose(module: ModuleType) -> str:
    """Set the order that torch.nn.attention's `sdpa_kernel(..., set_priority=True)` sets; returns what was done.

    torch itself changes the order once, at the first call, and only to put cuDNN first where it prefers that.
    """
    # torch has no public function for it that holds longer than a `with`.
    inner = module._C  # noqa: SLF001
    cudnn = int(module.nn.attention.SDPBackend.CUDNN_ATTENTION)
    others = [kernel for kernel in inner._get_sdp_priority_order() if kernel != cudnn]  # noqa: SLF001
    inner._set_sdp_priority_order([cudnn, *others])  # noqa: SLF001
    return "torch prefers cuDNN's attention, and takes its other kernels for what that refuses"
