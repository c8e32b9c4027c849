"""What the two-pod tests train: torchrun's ranks add their numbers up, over gloo.

It is run in an image, by its text: `torchrun ... all_reduce.py` has no file of ours there.
"""

import os
import socket

import torch
import torch.distributed

torch.distributed.init_process_group("gloo")
rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
number = torch.tensor(rank + 1)
torch.distributed.all_reduce(number)
print(f"rank {rank} of {size} on {socket.gethostname()}: {int(number)}", flush=True)
assert int(number) == size * (size + 1) // 2, os.environ
torch.distributed.destroy_process_group()
