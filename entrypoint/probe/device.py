"""Opening a device, waiting for it, and telling a failed case from a device that no longer works."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def open_device(name: str) -> torch.device:
    """The device after a first allocation on it. Raises torch's own error when it is not there or cannot be used."""
    import torch

    where = torch.device(name)
    torch.ones(1, device=where).sum().item()
    if where.type == "cuda":
        torch.cuda.set_device(where)
    return where


def synchronize(where: torch.device) -> None:
    """Wait for the device's queued work, and raise its error if one is pending."""
    if where.type == "cuda":
        import torch

        torch.cuda.synchronize(where)


def is_out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError)


def recover(where: torch.device) -> None:
    """After a failed case: give unused memory back and try the device again.

    Errors such as an illegal memory access are sticky: the CUDA context is lost and every later call raises the same
    error, here first. It is left to end the process, because nothing measured after it would mean anything.
    """
    if where.type == "cuda":
        import torch

        synchronize(where)
        torch.cuda.empty_cache()
