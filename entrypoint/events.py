"""The lines that the measuring child writes and the parent reads: one JSON object a line, each with an `event` key.

Measuring never judges: an event holds numbers, names and reasons, and no event says whether they are good enough.
Each line is flushed when it is written, so what a child measured before it crashed or hung is not lost.

event       fields
----------  ---------------------------------------------------------------------------------------------------------
phase       name (one of PHASES), detail (such as a case id): what the child is about to do
machine     python, torch, packages {distribution: installed version}, device (see DEVICE_FIELDS)
unusable    subject (one of SUBJECTS), reason: this cannot be used here at all, so no case follows
case        id, seconds, tensors {out, dq, dk, dv: see TENSOR_FIELDS}; a gradient that does not exist is null, and then
            no_gradient is the reason (else null)
case_error  id, reason (exception type and message), out_of_memory (bool)
ceiling     matmul_tflops, seconds (of one product), samples
speed       id, direction (forward or backward), tflops, seconds (median of one call), samples (every timed call)
kernels     names (as the profiler saw them, long ones cut), observed (the backend they belong to, null when no rule
            knows them), reason (why the profiler failed, else null)
done        seconds {phase name: seconds spent in it}

A phase may come more than once. A number that is not finite is null, because JSON has none.
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
