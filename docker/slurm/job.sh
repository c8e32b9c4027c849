#!/bin/bash
# sbatch job.sh: one process a node from an OCI bundle; attn-run checks the node's GPUs and then becomes the command.
# An administrator makes the bundle once, on a file system that all nodes see:
#   umoci unpack --rootless --image axolotl-attn:fa4-cu128 /shared/axolotl-attn
#SBATCH --job-name=axolotl
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --requeue

# The job's exit code is srun's, so the last line is srun: attn.conf acts on it. (`sbatch --container` is not the same:
# the batch script itself would run in the container, which cannot read Slurm's copy of it.)
exec srun --container=/shared/axolotl-attn --export=ALL,ATTN_SLOW=fail \
    attn-run axolotl train config.yml
