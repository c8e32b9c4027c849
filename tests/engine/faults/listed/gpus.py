"""Images for GPUs where there is none, the wrong driver, or one of eight that is bad.

A GPU is a device node, and its measurements are those of the fake child.
"""

from __future__ import annotations

from typing import Final

from tests.engine.faults.fault import RUNS, Fault

NVIDIA: Final = {"device": "cuda", "vendor": "nvidia"}
AMD: Final = {"device": "cuda", "vendor": "amd"}
NODE: Final = "--device=/dev/null:/dev/nvidia0"


def one_of_eight(name: str, behaviour: str, code: int, says: str, **env: str) -> Fault:
    return Fault(name=f"1 of 8 {name}", gpus=8, behaviour=f"{behaviour} on cuda:3", code=code, says=says, env=env)


FAULTS: Final = (
    Fault(name="no GPU", spec=NVIDIA, code=91, says=r"No NVIDIA GPU is in reach"),
    Fault(name="no GPU for an image of AMD's", spec=AMD, code=91, says=r"No AMD GPU is in reach"),
    Fault(
        name="another maker's GPU", spec=AMD, options=(NODE,), code=91, says=r"No AMD GPU is in reach, though another"
    ),
    Fault(
        name="a GPU and none of the driver's library",
        spec=NVIDIA,
        options=(NODE,),
        env={"NVIDIA_DRIVER_CAPABILITIES": "utility"},
        code=91,
        says=r"NVIDIA_DRIVER_CAPABILITIES=utility leaves it out",
    ),
    Fault(
        name="a driver that CUDA does not take",
        gpus=1,
        behaviour="unusable device",
        code=91,
        says=r"cuda:0 cannot be used: RuntimeError: CUDA driver initialization failed",
    ),
    Fault(
        name="torch finds no driver (the image's own check)",
        gpus=1,
        behaviour="",
        code=91,
        says=r"cuda:0 cannot be used: ",
    ),
    Fault(
        name="a GPU that the image does not support",
        gpus=1,
        behaviour="capability 8.9",
        code=91,
        says=r"does not support NVIDIA Fake \(compute capability 8.9\)",
    ),
    one_of_eight("crashes", "crash in correctness", 94, r"sdpa crashed with SIGSEGV in correctness \(causal-d64\)"),
    one_of_eight("hangs", "hang in performance", 94, r"hung or waited in performance", ATTN_TIMEOUT="15"),
    one_of_eight("computes wrong numbers", "wrong", 92, r"sdpa computes wrong numbers"),
    one_of_eight("has an illegal access", "raise in correctness", 94, r"an illegal memory access was encountered"),
    one_of_eight("is killed for memory", "killed in correctness", 95, r"The check was killed in correctness"),
    one_of_eight("is slow", "slow", RUNS, r"slow beside its 7 siblings"),
    one_of_eight("is slow, with ATTN_SLOW=fail", "slow", 93, r"slow beside its 7 siblings", ATTN_SLOW="fail"),
)
