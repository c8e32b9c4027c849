"""A call of attention as transformers makes it, and a plain attention of which a defect replaces a part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

# torch is Any to mypy, and so are its tensors here.
Change = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class Call:
    """query: (batch, heads, S, D); key, value: (batch, kv heads, S, D); mask: (batch, 1, S, S), bool or added, or None
    for causal. Called, it is the attention that was asked for: ((batch, S, heads, D), weights or None).
    """

    name: str
    inner: Callable[..., Any]
    module: Any
    query: Any
    key: Any
    value: Any
    mask: Any
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Any:
        return self.inner(self.module, self.query, self.key, self.value, self.mask, **self.options)

    @property
    def causal(self) -> Any:
        """(S, S): what a causal mask allows."""
        import torch

        length = self.query.shape[2]
        return torch.ones(length, length, dtype=torch.bool, device=self.query.device).tril()

    @property
    def allowed(self) -> Any:
        """(batch or 1, 1, S, S) of bool: which query sees which key."""
        import torch

        if self.mask is None:
            return self.causal[None, None]
        return self.mask if self.mask.dtype == torch.bool else self.mask > -1.0

    @property
    def tokens(self) -> Any:
        """(batch or 1, 1, 1, S) of bool: the keys that some query sees, so no padding."""
        return self.allowed.any(dim=-2, keepdim=True)

    @property
    def start(self) -> Any:
        """(batch or 1, 1, S, 1): the first key that a query sees; without a window the start of its document."""
        return self.allowed.int().argmax(dim=-1, keepdim=True)

    def seeing(self, allowed: Any) -> Call:
        """The same call with a mask that allows this."""
        import torch

        if self.name == "eager":
            least = torch.finfo(self.query.dtype).min
            allowed = torch.zeros_like(allowed, dtype=self.query.dtype).masked_fill(~allowed, least)
        return replace(self, mask=allowed)

    def option(self, **options: Any) -> Call:
        """The same call with other keyword arguments."""
        return replace(self, options=self.options | options)


def positions(call: Call) -> tuple[Any, Any]:
    """(S, 1) and (1, S): the positions of queries and of keys."""
    import torch

    at = torch.arange(call.query.shape[2], device=call.query.device)
    return at[:, None], at[None, :]


def same(tensor: Any) -> Any:
    return tensor


def repeated(tensor: Any, groups: int) -> Any:
    """(batch, kv heads, S, D) with the kv head of each query head."""
    return tensor.repeat_interleave(groups, dim=1)


def softmax(scores: Any) -> Any:
    import torch

    return torch.softmax(scores, dim=-1)


def capped(scores: Any, softcap: float | None) -> Any:
    return softcap * (scores / softcap).tanh() if softcap else scores


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Right attention in float32 as torch writes it out; a defect replaces a part. It honours scale, softcap, sinks and
    the mask, in which windows and documents are.
    """

    expand: Callable[[Any, int], Any] = repeated
    scores: Change = same
    cap: Callable[[Any, float | None], Any] = capped
    weights: Change = softmax
    sinks: bool = True

    def __call__(self, call: Call) -> Any:
        groups = call.query.shape[1] // call.key.shape[1]
        q, k, v = (tensor.float() for tensor in (call.query, call.key, call.value))
        k, v = self.expand(k, groups), self.expand(v, groups)
        scores = self.scores(q @ k.transpose(-1, -2) * call.options["scaling"])
        scores = self.cap(scores, call.options.get("softcap")).masked_fill(~call.allowed, -1e30)
        p = self.weights(self._with_sinks(call, scores))[..., : k.shape[2]]
        return (p @ v).transpose(1, 2).to(call.query.dtype).contiguous(), None

    def _with_sinks(self, call: Call, scores: Any) -> Any:
        """The scores with one more column, where the call has sinks: a logit of each head."""
        import torch

        sinks = call.options.get("s_aux")
        if sinks is None or not self.sinks:
            return scores
        column = sinks.float().reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        return torch.cat([scores, column], dim=-1)
