"""What this machine offers: its engine, its GPUs, its images, and environments where there is no engine."""
