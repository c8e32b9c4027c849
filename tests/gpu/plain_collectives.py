"""The same collectives as `check --collective`, in the plainest loop: what its bus bandwidth is compared with.

    torchrun --nproc-per-node=8 plain_collectives.py [MiB…]

Standard library and torch alone. Rank 0 prints one JSON object a line: operation, bytes, GB/s of bus bandwidth.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

WARM_UP, TIMED = 5, 20


def main() -> None:
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    for mebibytes in [int(word) for word in sys.argv[1:]] or [256, 1024]:
        measure(mebibytes << 20, device)
    dist.destroy_process_group()


def measure(size: int, device: torch.device) -> None:
    ranks = dist.get_world_size()
    whole = torch.zeros(size // 4 // ranks * ranks, device=device)
    part = torch.zeros(whole.numel() // ranks, device=device)
    share = (ranks - 1) / ranks
    loops: dict[str, tuple[float, Callable[[], Any]]] = {
        "all-reduce": (2 * share, lambda: dist.all_reduce(whole)),
        "all-gather": (share, lambda: dist.all_gather_into_tensor(whole, part)),
        "reduce-scatter": (share, lambda: dist.reduce_scatter_tensor(part, whole)),
    }
    for operation, (factor, call) in loops.items():
        for number in range(WARM_UP + TIMED):
            if number == WARM_UP:
                wait(device)
                dist.barrier()
                began = time.perf_counter()
            call()
        wait(device)
        seconds = (time.perf_counter() - began) / TIMED
        if dist.get_rank() == 0:
            rate = factor * size / seconds / 1e9
            print(json.dumps({"operation": operation, "size": size, "gigabytes_per_second": rate}), flush=True)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
