#!/bin/bash
# sbatch job-pyxis.sh: two nodes through pyxis and enroot. pyxis does not start an image's ENTRYPOINT, so attn-run is
# named here: it checks the node's GPUs and then becomes the command.
#SBATCH --job-name=axolotl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --requeue

MASTER=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head --lines=1)
# One node that fails ends the whole job, with that node's code.
exec srun --kill-on-bad-exit=1 --container-image=registry.example.com#axolotl-attn:fa4-cu128 \
    --container-mounts="$PWD:/workspace" --container-workdir=/workspace --export=ALL,ATTN_SLOW=fail \
    attn-run torchrun --nnodes="$SLURM_NNODES" --nproc-per-node=8 --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-endpoint="$MASTER:29500" -m axolotl.cli.train config.yml
