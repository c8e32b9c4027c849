"""The lines that the measuring child writes and the parent reads: one JSON object a line, each with an `event` key.

Measuring never judges: an event holds numbers, names and reasons, and no event says whether they are good enough.
Each line is flushed when it is written, so what a child measured before it crashed or hung is not lost.

event       fields
----------  ---------------------------------------------------------------------------------------------------------
phase       name (one of PHASES), detail (such as a case id): what the child is about to do
machine     python, torch, packages {distribution: installed version}, device (see DEVICE_FIELDS)
unusable    subject (one of SUBJECTS), reason: this cannot be used here at all, so no case follows
case        id, dtype, inputs (their family), seconds, tensors {out, dq, dk, dv, and lse where the backend offers the
            logsumexp: see TENSOR_FIELDS}; a gradient that does not exist is null, and then no_gradient is the reason
            (else null); mutated (which of q, k, v and dout the backend wrote into); repeatable (whether the same call
            gave the same bits again; null where the backend does not claim to be deterministic); relative_error (the
            L2 error that the backend has by its design, null for the rounding of its dtype)
case_error  id, reason (exception type and message), out_of_memory (bool)
first_call  id, seconds (of the first forward and backward of this case's kernel variant, compilation included)
health      see HEALTH_FIELDS; may come again, each time with all of them: the last one counts
ceiling     matmul_tflops, seconds (of one product), samples, planned; on a GPU alone
bandwidth   gigabytes_per_second (of a device copy, read and written), seconds (of one copy), samples, planned; on a GPU
            alone
speed       id, direction (forward or backward), call (its shape in words), tflops, seconds (median of one call),
            samples (every timed call), planned (how many samples there were to be: slow calls get fewer)
kernels     asked (the backend, or one of its kernels, forced, such as sdpa-cudnn; absent: the backend), names (as the
            profiler saw them, long ones cut), observed (what they belong to, in the words of asked; null when no rule
            knows them), recorded (how many events the profiler saw, of attention or not), reason (why the profiler
            failed, else null)
done        seconds {phase name: seconds spent in it}; left_out (ids of all cases that were not run, for want of time)

A case of one of the backend's kernels, forced, has the kernel's name before its id: cudnn:causal-d64. A phase may come
more than once. A number that is not finite is null, because JSON has none.
"""

from __future__ import annotations

from typing import Final, Literal

Phase = Literal["import", "machine", "compile", "correctness", "observe", "performance"]
PHASES: Final = ("import", "machine", "compile", "correctness", "observe", "performance")
# The phases in which kernels run on the device: a crash or a hang there is the device's or the kernel's.
KERNEL_PHASES: Final = ("compile", "correctness", "observe", "performance")
# What an `unusable` line is about.
Subject = Literal["torch", "device", "backend"]
SUBJECTS: Final = ("torch", "device", "backend")

# error, baseline: largest absolute difference from the float64 reference, of the backend and of plain torch in the
# same dtype. relative, baseline_relative: the same two as L2 norms divided by the reference's. scale: the largest
# absolute value of the reference. finite: whether every value of the backend's tensor is.
TENSOR_FIELDS: Final = ("error", "baseline", "relative", "baseline_relative", "scale", "finite")

# uuid, capability ("9.0") and driver are null on a CPU; memory is in bytes.
DEVICE_FIELDS: Final = ("index", "name", "uuid", "capability", "driver", "memory_total", "memory_free")

# What NVML says of a GPU, null where it says nothing: temperature (degrees Celsius), power_watts, power_limit_watts,
# sm_megahertz, sm_megahertz_max, throttle (names of what held the clocks back under load, an idle clock apart),
# ecc_uncorrected (volatile errors), row_remap_pending, row_remap_failed (bool), xids (numbers since the check began),
# other_processes (computing on this GPU), reason (why NVML could not be asked at all).
HEALTH_FIELDS: Final = (
    *("temperature", "power_watts", "power_limit_watts", "sm_megahertz", "sm_megahertz_max", "throttle"),
    *("ecc_uncorrected", "row_remap_pending", "row_remap_failed", "xids", "other_processes", "reason"),
)
