"""Plain attention in the place of a model's own: what the run's loss and gradients are compared with.

It is written out in products, a mask and a softmax, and calls nothing of torch's attention. What may see what is told
by the batch itself (`tell`), so that a mask which the model lost on its way is still known here.

`reference` computes in float32, and in float64 where the model computes in float32. `baseline` computes the same in the
model's own precision and in another order: how far it is from the reference is what rounding alone does to this model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch
    from torch import Tensor

REFERENCE: Final = "plain_reference"
BASELINE: Final = "plain_baseline"
# Scores of one chunk of queries, in numbers: 512 MiB in float64. More than that is computed in chunks, and again on the
# way back.
CHUNK_SCORES: Final = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a batch says of its positions, each (rows, S): `kept` is false where a row is filled up, `documents` numbers
    the documents of a row. None: no position is filled up, a row is one document."""

    kept: Tensor | None
    documents: Tensor | None


@dataclass(kw_only=True)
class Told:
    """The layout of the batch that is on its way, and how many calls of plain attention there were."""

    layout: Layout
    calls: int = 0


_TOLD: Final = Told(layout=Layout(kept=None, documents=None))


def layout_of(batch: Any) -> Layout:
    """A row's documents are told apart by position_ids, which begin at 0 in each; all that a collator of Axolotl's
    leaves in attention_mask is 0 where a row is filled up."""
    mask, positions = batch.get("attention_mask"), batch.get("position_ids")
    documents = (positions == 0).cumsum(-1) if positions is not None and positions.ndim == 2 else None
    return Layout(kept=mask != 0 if mask is not None and mask.ndim == 2 else None, documents=documents)


def tell(batch: Any) -> None:
    """Say which batch the next calls are for."""
    _TOLD.layout = layout_of(batch)


def calls() -> int:
    """How many times plain attention was called so far."""
    return _TOLD.calls


def register() -> None:
    """Let transformers know both by name. Their mask is whatever the model's 2-D mask is: neither needs it."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for name, function in ((REFERENCE, reference), (BASELINE, baseline)):
        ALL_ATTENTION_FUNCTIONS.register(name, function)
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, no_mask)


def no_mask(*_: object, attention_mask: Tensor | None = None, **__: object) -> Tensor | None:
    return attention_mask


@contextmanager
def attention(model: Any, name: str | None) -> Iterator[None]:
    """`model` with the attention `name` in each of its parts; None leaves the run's own."""
    if name is None:
        yield
        return
    found = [module.config for module in model.modules() if hasattr(module, "config")]
    configs = {id(each): each for each in found if hasattr(each, "_attn_implementation_internal")}
    before = {key: each._attn_implementation_internal for key, each in configs.items()}
    try:
        for each in configs.values():
            each._attn_implementation_internal = name
        yield
    finally:
        for key, each in configs.items():
            each._attn_implementation_internal = before[key]


def reference(module: Any, *tensors: Any, **call: Any) -> tuple[Tensor, None]:
    """As transformers calls it: query (rows, heads, S, D), key and value (rows, kv heads, S, D or Dv), and a mask.
    Returns (rows, S, heads, Dv) in the dtype of the run."""
    import torch

    query, key, value, *_ = tensors
    wide = torch.float64 if _dtype(value) is torch.float32 else torch.float32
    out = _plain_in(wide, (query, key, value), _terms(module, query, call), backwards=False)
    return out.to(_dtype(value)), None


def baseline(module: Any, *tensors: Any, **call: Any) -> tuple[Tensor, None]:
    """The same in the run's dtype, its softmax in float32, and with the keys in reverse order."""
    query, key, value, *_ = tensors
    return _plain_in(_dtype(value), (query, key, value), _terms(module, query, call), backwards=True), None


def _dtype(value: Tensor) -> torch.dtype:
    """What the run computes attention in: under autocast that is autocast's."""
    import torch

    kind = value.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype


def _plain_in(dtype: torch.dtype, tensors: tuple[Tensor, ...], terms: Terms, *, backwards: bool) -> Tensor:
    """Plain attention in `dtype`, (rows, S, heads, Dv)."""
    import torch

    _TOLD.calls += 1
    with torch.autocast(tensors[0].device.type, enabled=False):
        out = plain(*(tensor.to(dtype) for tensor in tensors), terms=terms, backwards=backwards)
    return out.transpose(1, 2).contiguous()


def _terms(module: Any, query: Tensor, call: Mapping[str, Any]) -> Terms:
    scale = call.get("scaling")
    return Terms(
        scale=query.shape[-1] ** -0.5 if scale is None else float(scale),
        softcap=float(call.get("softcap") or 0.0),
        sinks=call.get("s_aux"),
        causal=bool(getattr(module, "is_causal", True)),
        window=call.get("sliding_window"),
        layout=_TOLD.layout,
    )


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a call asks for. `window`: a position sees itself and the window - 1 before it; `sinks` (heads,) are logits
    that take part in each softmax and have no value."""

    scale: float
    softcap: float
    sinks: Tensor | None
    causal: bool
    window: int | None
    layout: Layout


def plain(q: Tensor, k: Tensor, v: Tensor, *, terms: Terms, backwards: bool = False) -> Tensor:
    """q (rows, heads, S, D), k and v (rows, kv heads, S, D or Dv) in the dtype to compute in; (rows, heads, S, Dv)."""
    import torch
    from torch.utils.checkpoint import checkpoint

    group = q.shape[1] // k.shape[1]
    k, v = (each.repeat_interleave(group, dim=1) for each in (k, v))
    rows, heads, length, _ = q.shape
    size = max(1, CHUNK_SCORES // (rows * heads * k.shape[2]))
    if size >= length:
        return chunk((q, k, v), terms, 0, backwards=backwards)
    chunks = [
        checkpoint(chunk, (q[:, :, at : at + size], k, v), terms, at, backwards=backwards, use_reentrant=False)
        for at in range(0, length, size)
    ]
    return torch.cat(chunks, dim=2)


def chunk(tensors: tuple[Tensor, Tensor, Tensor], terms: Terms, at: int, *, backwards: bool) -> Tensor:
    """The outputs of the queries from position `at` on, over all keys."""
    import torch

    q, k, v = tensors
    allowed = _allowed(terms, q.shape[2], k.shape[2], at, q.device)
    if backwards:
        k, v, allowed = k.flip(2), v.flip(2), allowed.flip(-1)
    scores = (q @ k.transpose(-1, -2)) * terms.scale
    if terms.softcap:
        scores = torch.tanh(scores / terms.softcap) * terms.softcap
    if scores.dtype not in {torch.float32, torch.float64}:
        scores = scores.float()
    scores = scores.masked_fill(~allowed, float("-inf"))
    if terms.sinks is not None:
        sink = terms.sinks.to(scores.dtype).reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        weights = torch.cat([scores, sink], dim=-1).softmax(dim=-1)[..., :-1]
    else:
        weights = scores.softmax(dim=-1)
    # A query that may see nothing, such as one of a filled-up row, gets nothing.
    weights = weights.masked_fill(~allowed.any(dim=-1, keepdim=True), 0.0)
    return weights.to(v.dtype) @ v


def _allowed(terms: Terms, queries: int, keys: int, at: int, device: torch.device) -> Tensor:
    """(rows or 1, 1, queries, keys): which key a query may see."""
    import torch

    i = torch.arange(at, at + queries, device=device)[:, None]
    j = torch.arange(keys, device=device)[None, :]
    allowed = (j <= i if terms.causal else torch.ones_like(j <= i))[None, None]
    if terms.window:
        allowed = allowed & (i - j < terms.window) & (j - i < terms.window)
    if (documents := terms.layout.documents) is not None:
        documents = documents.to(device)
        allowed = allowed & (documents[:, None, at : at + queries, None] == documents[:, None, None, :])
    if (kept := terms.layout.kept) is not None:
        allowed = allowed & kept.to(device)[:, None, None, :]
    return allowed
