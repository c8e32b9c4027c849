"""Triton's kernels of FlexAttention's start, which an image compiles ahead for GPUs that its build does not have."""
