"""What a GPU needs before its first use, done in a thread while Python imports: neither has to wait for the other.

On an H200 the driver makes a context in 0.4 s, and the first products, sums and casts of each precision load their
kernels for 0.5 s more. Nothing here is part of the check: what fails is met again, and reported, where it is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from entrypoint.probe import accuracy, backends, cases, reference, rows
from entrypoint.probe.backends import Backend

if TYPE_CHECKING:
    import torch

LIBCUDA: Final = "libcuda.so.1"
# Seconds to wait for a thread at most; the check does the same work without it.
PATIENCE: Final = 10.0
# CU_DEVICE_ATTRIBUTE_COMPUTE_MODE and its usual value, in which any number of processes may use the GPU.
COMPUTE_MODE: Final = 20
SHARED: Final = 0
# The precisions of the cases; float64 and float32, which the reference is computed in, come with each.
DTYPES: Final = ("bfloat16", "float16")


def open_context(device_name: str) -> threading.Thread:
    """Make the context that torch will use on `cuda:N`, its driver's primary one. Needs no torch."""
    return _begun(lambda: _retain(device_name))


def _retain(device_name: str) -> None:
    context = ctypes.c_void_p()
    for driver, device in _driver_of(device_name):
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)


def is_shared(device_name: str) -> bool:
    """Whether several processes may use the device. In a GPU's exclusive mode, which clusters set, only one may."""
    mode = ctypes.c_int(SHARED)
    with contextlib.suppress(OSError):  # no such library, as on AMD
        for driver, device in _driver_of(device_name):
            driver.cuDeviceGetAttribute(ctypes.byref(mode), COMPUTE_MODE, device)
    return mode.value == SHARED


def _driver_of(device_name: str) -> Iterator[tuple[ctypes.CDLL, ctypes.c_int]]:
    """The driver API and its number of `cuda:N`; nothing for another device. Its functions return 0, or an error that
    torch will meet and name. Raises OSError.
    """
    kind, _, index = device_name.partition(":")
    if kind == "cuda":
        driver, device = ctypes.CDLL(LIBCUDA), ctypes.c_int()
        if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), int(index or 0)) == 0:
            yield driver, device


def load_kernels(where: torch.device, long: Sequence[cases.Case] = ()) -> threading.Thread:
    """Make the comparisons that come with every case once, with plain torch in the place of a kernel, and find the
    rows of `long` cases, whose products are others.
    """
    return _begun(lambda: _compare(where, long) if where.type == "cuda" else None)


def _compare(where: torch.device, long: Sequence[cases.Case]) -> None:
    import torch

    torch.cuda.set_device(where)  # a thread begins with the first GPU, and would open that one, too
    plain = Backend(name="plain", attention=reference.reordered)
    first = cases.startup_cases()[0]
    for dtype in DTYPES:
        accuracy.measure(plain, replace(first, dtype=dtype), where)
    for case in long:
        rows.solve(case, where, plain)


def build_launcher(backend: str, where: torch.device) -> threading.Thread:
    """Let Triton compile what it talks to the driver through, where nobody has yet: gcc takes 0.4 s for it. Then let it
    read itself for its cache's key, 0.3 s.
    """
    needed = where.type == "cuda" and backends.compiles_each_variant(backend)
    return _begun(lambda: _load_launcher() if needed else None)


def _load_launcher() -> object:
    from triton.runtime import cache, driver

    return driver.active.utils, cache.triton_key()


def _begun(work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        with contextlib.suppress(Exception):  # an aid: what it meets, the check meets too
            work()

    thread = threading.Thread(target=run, daemon=True)  # one that hangs does not keep the process
    thread.start()
    return thread
