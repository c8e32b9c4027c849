"""What the container was given: GPUs, drivers, processors, memory."""
