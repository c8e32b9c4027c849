"""`axolotl train` with plain attention in the place of a kernel: what a recipe's loss and gradients are compared with.

    python tests/train/reference.py NAME CONFIG

NAME is the attention that the configuration runs, as transformers registers it: everything else of the run, such as
how documents are packed into rows, stays that of the recipe. Needs the packages of an image with Axolotl.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def plain_attention(  # noqa: PLR0913 (the arguments are those that transformers passes)
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object = None,
    *,
    scaling: float | None = None,
    position_ids: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention in float32, in which a document sees itself alone: one begins wherever its positions do, at 0.

    query: (batch, heads, S, D); key, value: (batch, kv heads, S, D); position_ids: (batch or 1, S). Returns
    (batch, S, heads, D). Padding comes last in a row, so no token that counts sees it, and no mask is needed.
    """
    import torch

    group = query.shape[1] // key.shape[1]
    q, k, v = query.float(), *(each.float().repeat_interleave(group, dim=1) for each in (key, value))
    length = q.shape[2]
    allowed = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()[None, None]
    if position_ids is not None:
        documents = (position_ids == 0).cumsum(-1)
        allowed = allowed & (documents[:, None, :, None] == documents[:, None, None, :])
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).to(query.dtype).contiguous(), None


def main() -> None:
    name, config = sys.argv[1:]
    modeling = import_module("transformers.modeling_utils")
    modeling.ALL_ATTENTION_FUNCTIONS.register(name, plain_attention)
    import_module("axolotl.cli.train").do_cli(config=config)


if __name__ == "__main__":
    main()
