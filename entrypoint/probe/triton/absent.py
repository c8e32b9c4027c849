"""GPUs that are not there: what torch, Inductor and Triton ask of a device, answered from the table in ahead.py."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from unittest import mock

from entrypoint.probe.ahead import WARP

if TYPE_CHECKING:
    from entrypoint.probe.ahead import AbsentGpu


@contextlib.contextmanager
def pretended(gpu: AbsentGpu) -> Iterator[None]:
    """Inside, `gpu` is the one CUDA device of this process. Nothing can be launched on it."""
    with contextlib.ExitStack() as stack:
        for place, name, answer in _answers(gpu):
            stack.enter_context(mock.patch.object(place, name, answer, create=True))
        _forget_devices()
        yield
    _forget_devices()


def _answers(gpu: AbsentGpu) -> Iterator[tuple[Any, str, Any]]:
    """Each function that would ask the driver: where it is, its name, and what it says instead."""
    import torch
    import torch._inductor.runtime.triton_helpers
    import torch._subclasses.fake_tensor

    properties, capability = gpu.properties, gpu.capability
    for name in ("get_device_properties", "_get_device_properties"):
        yield torch.cuda, name, lambda *_: properties
    yield torch.cuda, "get_device_capability", lambda *_: capability
    yield torch.cuda, "get_device_name", lambda *_: gpu.name
    yield torch.cuda, "get_rng_state", lambda *_: torch.zeros(16, dtype=torch.uint8)
    for name, value in {"is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0}.items():
        yield torch.cuda, name, functools.partial(lambda value, *_: value, value)
    for name in ("set_rng_state", "_lazy_init", "set_device", "synchronize"):
        yield torch.cuda, name, lambda *_: None
    for name in ("_exchange_device", "_maybe_exchange_device"):
        yield torch.cuda, name, lambda *_: 0
    for name in ("_cuda_exchangeDevice", "_cuda_maybeExchangeDevice"):
        yield torch._C, name, lambda *_: 0
    yield torch._C, "_cuda_getDevice", lambda: 0
    yield torch._C, "_cuda_setDevice", lambda *_: None
    yield torch._C, "_cuda_getCurrentRawStream", lambda *_: 0
    yield torch._subclasses.fake_tensor, "init_gpu_context", lambda *_: None
    yield torch._inductor.runtime.triton_helpers, "set_driver_to_gpu", lambda: None
    yield drivers(), "_active", Driver(gpu)


def drivers() -> Any:
    """Where Triton keeps the driver that is active."""
    from triton.runtime import driver

    return driver


def _forget_devices() -> None:
    """What torch remembers of whether there is a GPU, and of which."""
    import torch.utils._triton

    for each in vars(torch.utils._triton).values():
        if hasattr(each, "cache_clear"):
            each.cache_clear()


class Driver:
    """Stands for Triton's driver of the GPU: the target that kernels are compiled for, and the only device."""

    def __init__(self, gpu: AbsentGpu) -> None:
        self.gpu = gpu

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        major, minor = self.gpu.capability
        return GPUTarget("cuda", 10 * major + minor, WARP)

    def get_active_torch_device(self) -> Any:
        import torch

        return torch.device("cuda", 0)

    def get_device_capability(self, *_: Any) -> tuple[int, int]:
        return self.gpu.capability

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: Any) -> int:
        return 0

    def set_current_device(self, _: Any) -> None:
        pass
