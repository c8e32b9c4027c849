"""One attention layer as a model of transformers has it: the function that it calls, and what it passes to it.

Read: transformers 5.9.0's and 5.16.1's models/llama, models/gemma2 and models/gpt_oss (what a layer passes), their
masking_utils.py (the masks), and Axolotl's core/builders/causal.py (what packing passes: position_ids, no mask).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from entrypoint.race.batch import Batch
from entrypoint.race.contestant import Contestant
from entrypoint.shape import Shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Kind = Literal["full", "window"]
# Pairs of positions of a block mask that is made without a compiler: a gigabyte or two.
MOST_PAIRS: Final = 2**28
_FLASH: Final = ("flash_attention_2", "flash_attention_3", "flash_attention_4")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is computed where: the shape of the calls, and the batch as one contestant lays it out."""

    shape: Shape
    batch: Batch
    where: torch.device

    def window(self, kind: Kind) -> int | None:
        return self.shape.window if kind == "window" else None


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """q [rows, length, heads, head_dim], k and v of kv heads, leaves of their own graph; dout like the output;
    `sinks` [heads], where the model has them."""

    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor
    sinks: Tensor | None


def kinds_of(shape: Shape) -> tuple[Kind, ...]:
    """The kinds of layers that the model has."""
    if shape.window is None:
        return ("full",)
    return ("full", "window") if shape.mixed else ("window",)


def inputs_of(problem: Problem) -> Inputs:
    """Seeded, standard normal."""
    import torch

    shape, batch, where = problem.shape, problem.batch, problem.where
    generator = torch.Generator(device=where).manual_seed(batch.rows)
    dtype = getattr(torch, shape.dtype)

    def draw(heads: int, width: int) -> Tensor:
        size = (batch.rows, batch.length, heads, width)
        return torch.randn(size, generator=generator, device=where, dtype=torch.float32).to(dtype)

    q, k, v = (
        draw(shape.heads, shape.head_dim),
        draw(shape.kv_heads, shape.head_dim),
        draw(shape.kv_heads, shape.value_dim),
    )
    sinks = torch.randn(shape.heads, generator=generator, device=where).to(dtype) if shape.sinks else None
    leaves = (tensor.requires_grad_() for tensor in (q, k, v))
    return Inputs(
        **dict(zip(("q", "k", "v"), leaves, strict=True)), dout=draw(shape.heads, shape.value_dim), sinks=sinks
    )


class Layer:
    """One kind of layer with one contestant's attention; calling it gives the output [rows, length, heads, value_dim].

    Raises what transformers, Axolotl or the kernel's package raises.
    """

    def __init__(self, contestant: Contestant, kind: Kind, problem: Problem) -> None:
        self._contestant = contestant
        self._register()
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        shape, window = problem.shape, problem.window(kind)
        positions = positions_of(problem.batch, problem.where)
        config = _config(contestant.attention, shape, window)
        self._function: Any = ALL_ATTENTION_FUNCTIONS[contestant.attention]
        self._module = _module(config, shape, window)
        self._mask = _mask(config, problem, positions, window)
        self._options: dict[str, Any] = {"position_ids": positions, "sliding_window": window}
        self._options |= {"softcap": shape.softcap} if shape.softcap else {}
        self._scale = shape.scale
        self._padded = shape.value_dim != shape.head_dim and contestant.attention in _FLASH

    def __call__(self, inputs: Inputs) -> Tensor:
        from torch.nn.functional import pad

        q, k, v = (tensor.transpose(1, 2) for tensor in (inputs.q, inputs.k, inputs.v))
        width = v.shape[-1]
        # Flash kernels want one width: models of multi-head latent attention pad v to q's, and cut the output.
        v = pad(v, [0, q.shape[-1] - width]) if self._padded else v
        sinks = {} if inputs.sinks is None else {"s_aux": inputs.sinks}
        given = {**self._options, **sinks, "dropout": 0.0, "scaling": self._scale}
        out: Tensor = self._function(self._module, q, k, v, self._mask, **given)[0]
        return out[..., :width] if self._padded else out

    def _register(self) -> None:
        """What Axolotl registers or replaces when it loads a model with this attention."""
        if self._contestant.attention == "xformers":
            importlib.import_module("axolotl.monkeypatch.attention").register_xformers_attn()
        if self._contestant.varlen:
            importlib.import_module("axolotl.monkeypatch.attention.sdpa_varlen").patch_sdpa_varlen()


@contextmanager
def preferred(contestant: Contestant) -> Iterator[None]:
    """SDPA's kernels in the order that the command will have: cuDNN's first, as the image's `sdpa_cudnn` puts it, or
    torch's own."""
    if not contestant.prefers_cudnn:
        yield
        return
    import torch

    inner: Any = torch._C
    before = inner._get_sdp_priority_order()
    cudnn = int(torch.nn.attention.SDPBackend.CUDNN_ATTENTION)
    inner._set_sdp_priority_order([cudnn, *(kernel for kernel in before if kernel != cudnn)])
    try:
        yield
    finally:
        inner._set_sdp_priority_order(before)


def positions_of(batch: Batch, where: torch.device) -> Tensor:
    """position_ids: each document of a packed row counts from 0; else one row from 0 for all, as models make it."""
    import torch

    if not batch.packed:
        return torch.arange(batch.length, device=where)[None]
    rows = [torch.cat([torch.arange(length) for length in lengths]) for lengths in batch.documents]
    return torch.stack(rows).to(where)


def _config(attention: str, shape: Shape, window: int | None) -> Any:
    from transformers import PretrainedConfig

    config = PretrainedConfig()
    config.num_attention_heads, config.num_key_value_heads = shape.heads, shape.kv_heads
    config.head_dim, config.hidden_size = shape.head_dim, shape.heads * shape.head_dim
    config.sliding_window = window
    config._attn_implementation = attention
    return config


def _module(config: Any, shape: Shape, window: int | None) -> Any:
    """The attributes that attention functions read of the layer that calls them."""
    import torch

    module: Any = torch.nn.Module()
    module.config, module.layer_idx, module.is_causal = config, 0, True
    module.num_key_value_groups = shape.heads // shape.kv_heads
    module.head_dim, module.scaling, module.attention_dropout = shape.head_dim, shape.scale, 0.0
    module.sliding_window = window
    return module.train()


def _mask(config: Any, problem: Problem, positions: Tensor, window: int | None) -> Any:
    """The mask that the model makes once for all its layers: None, a tensor, or flex's BlockMask."""
    import torch
    from transformers import masking_utils

    make = masking_utils.create_sliding_window_causal_mask if window else masking_utils.create_causal_mask
    batch, where = problem.batch, problem.where
    embeds = torch.empty(batch.rows, batch.length, 1, dtype=getattr(torch, problem.shape.dtype), device=where)
    given = {
        "config": config,
        "inputs_embeds": embeds,
        "input_embeds": embeds,
        "attention_mask": None if batch.packed else _padding(batch, where),
        "cache_position": torch.arange(batch.length, device=where),
        "past_key_values": None,
        "position_ids": positions,
    }
    taken = inspect.signature(make).parameters
    with _without_compiler(batch):
        return make(**{name: value for name, value in given.items() if name in taken})


@contextmanager
def _without_compiler(batch: Batch) -> Iterator[None]:
    """FlexAttention's block mask is made by plain torch, where transformers would compile that for 20 s and more.

    The mask is the same and its making is not timed; a training makes it once for all its layers. One that would take
    gigabytes, a few bytes for each pair of positions, is compiled.
    """
    from transformers import masking_utils

    create = getattr(masking_utils, "create_block_mask", None)
    if create is None or batch.rows * batch.length**2 > MOST_PAIRS:
        yield
        return
    masking_utils.create_block_mask = lambda *args, **given: create(*args, **{**given, "_compile": False})
    try:
        yield
    finally:
        masking_utils.create_block_mask = create


def _padding(batch: Batch, where: torch.device) -> Tensor:
    """attention_mask as a collator makes it: 1 for a document's positions, 0 for padding."""
    import torch

    lengths = torch.tensor([sum(row) for row in batch.documents], device=where)
    return (torch.arange(batch.length, device=where)[None] < lengths[:, None]).long()
