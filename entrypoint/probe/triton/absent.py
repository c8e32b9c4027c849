"""GPUs that are not there: what torch, Inductor and Triton ask of a device, answered from a table."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

WARP: Final = 32


@dataclass(frozen=True, kw_only=True)
class AbsentGpu:
    """What kernels may depend on. `shared` is the most shared memory of a block in bytes, `threads` the most resident
    threads of a multiprocessor (CUDA C++ Programming Guide, Technical Specifications per Compute Capability).

    Inductor splits long reductions by the number of multiprocessors, so another GPU of the same capability may compile
    such a kernel anew; all others are the same.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared: int
    threads: int

    @property
    def arch(self) -> str:
        """NVIDIA's name of the architecture, such as sm_90."""
        return "sm_{}{}".format(*self.capability)

    @property
    def properties(self) -> SimpleNamespace:
        """The same by the names of torch.cuda.get_device_properties."""
        major, minor = self.capability
        return SimpleNamespace(
            name=self.name,
            major=major,
            minor=minor,
            multi_processor_count=self.multiprocessors,
            regs_per_multiprocessor=65536,
            max_threads_per_multi_processor=self.threads,
            max_threads_per_block=1024,
            warp_size=WARP,
            shared_memory_per_block=48 << 10,
            shared_memory_per_block_optin=self.shared,
            shared_memory_per_multiprocessor=self.shared + 1024,
            total_memory=16 << 30,
            L2_cache_size=32 << 20,
            is_integrated=0,
            gcnArchName="",
            uuid="",
        )


_EVERY: Final = (
    AbsentGpu(name="A100", capability=(8, 0), multiprocessors=108, shared=163 << 10, threads=2048),
    AbsentGpu(name="GeForce RTX 3090", capability=(8, 6), multiprocessors=82, shared=99 << 10, threads=1536),
    AbsentGpu(name="L40S", capability=(8, 9), multiprocessors=142, shared=99 << 10, threads=1536),
    AbsentGpu(name="H200", capability=(9, 0), multiprocessors=132, shared=227 << 10, threads=2048),  # and H100 SXM
    AbsentGpu(name="B200", capability=(10, 0), multiprocessors=148, shared=227 << 10, threads=2048),
    # (148 is the B200's number; nobody here has asked a B300.)
    AbsentGpu(name="B300", capability=(10, 3), multiprocessors=148, shared=227 << 10, threads=2048),
    AbsentGpu(name="GeForce RTX 5090", capability=(12, 0), multiprocessors=170, shared=99 << 10, threads=1536),
)
GPUS: Final = {gpu.arch: gpu for gpu in _EVERY}


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
