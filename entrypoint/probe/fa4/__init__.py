"""FlashAttention 4's own files and the kernels that an image compiles ahead for it."""
