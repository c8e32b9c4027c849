"""Deliberately wrong attention kernels: what the check must find. Each is one mistake in an otherwise exact kernel.

They compute in float32 and round once, so that apart from their mistake they are better than plain torch in bfloat16.
`kernel` is the right one; tests/defects/ has the mistakes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from entrypoint.probe.backends import Arguments, Attention, Backend, Capabilities, Feature

# torch is Any to mypy, and so are its tensors here.
Change = Callable[[Any], Any]
Mask = Callable[[Any, Any, Arguments], Any]
FEATURES: tuple[Feature, ...] = ("window", "softcap", "varlen", "gqa", "logsumexp", "strided", "shifted")
EVERYTHING = Capabilities(
    dtypes=("bfloat16", "float16"),
    head_dims=((64, 64), (96, 96), (128, 128), (192, 128), (256, 256)),
    features=frozenset(FEATURES),
    source="these tests",
    proved=("CPU",),
)


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Who sees whom, with a number or a function for each part that can be off."""

    causal: int | None = 0
    left: int | None = 0
    right: int | None = 0
    documents: Callable[[Any, tuple[int, ...]], Any] | None = None
    segments: Callable[[Any, int, int], Any] | None = None

    def __call__(self, i: Any, j: Any, arguments: Arguments) -> Any:
        """True where query i must not see key j, [H or 1, S, S]. `causal`, `left` and `right` are added to the bounds;
        None ignores the bound.
        """
        left, right = arguments.window or (-1, -1)
        hidden = (j > i + self.causal) if arguments.causal and self.causal is not None else (j < 0) & (i < 0)
        if left >= 0 and self.left is not None:
            hidden = hidden | (j < i - left - self.left)
        if right >= 0 and self.right is not None and not arguments.causal:
            hidden = hidden | (j > i + right + self.right)
        if arguments.cu_seqlens is not None:
            document = self.documents or document_of
            hidden = hidden | (document(i, arguments.cu_seqlens) != document(j, arguments.cu_seqlens))
        if arguments.shifted_group is None:
            return hidden[None]
        segment, heads = self.segments or segment_of, arguments.q.shape[2]
        return hidden | (segment(i, arguments.shifted_group, heads) != segment(j, arguments.shifted_group, heads))


def document_of(at: Any, cu_seqlens: tuple[int, ...]) -> Any:
    return sum((at >= end).long() for end in cu_seqlens[1:])


def segment_of(at: Any, group: int, heads: int) -> Any:
    """[H, ...]: the second half of the heads is shifted by half a group."""
    import torch

    shift = (torch.arange(heads) >= heads // 2).long() * (group // 2)
    return (at + shift[:, None, None]) // group


def group_of(head: int, heads: int, kv_heads: int) -> int:
    return head // (heads // kv_heads)


def softmax(scores: Any) -> Any:
    import torch

    return torch.softmax(scores, dim=-1)


def cap(scores: Any, softcap: float) -> Any:
    return softcap * (scores / softcap).tanh() if softcap else scores


def identity(tensor: Any) -> Any:
    return tensor


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of an attention kernel, each of which a mistake replaces; as they are, the kernel is right.

    `kv_of` maps a query head to its kv head; `inputs`, `expanded_k`, `expanded_v` and `scores` change what goes in, k
    and v with one head for each query head, and the scaled scores; `result` changes what comes out.
    """

    scale: float = 1.0
    hidden: Mask = Masks()
    kv_of: Callable[[int, int, int], int] = group_of
    inputs: Callable[[Arguments], Arguments] = identity
    expanded_k: Change = identity
    expanded_v: Change = identity
    scores: Change = identity
    capped: Callable[[Any, float], Any] = cap
    weights: Change = softmax
    result: Callable[[Any, Arguments], Any] = lambda out, arguments: out

    def masked_scores(self, arguments: Arguments) -> Any:
        """[B, H, S, S], -1e30 where a query does not see a key: then a row that sees nothing is no NaN by accident."""
        import torch

        q = arguments.q.float()
        k = self.expanded_k(self.heads_of(arguments.k, q.shape[2]))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) * (self.scale * q.shape[-1] ** -0.5)
        scores = self.capped(self.scores(scores), arguments.softcap)
        i, j = torch.arange(q.shape[1])[:, None], torch.arange(k.shape[1])[None, :]
        return scores.masked_fill(self.hidden(i, j, arguments), -1e30)

    def heads_of(self, tensor: Any, heads: int) -> Any:
        """k or v in float32, with the kv head of each query head."""
        import torch

        index = torch.tensor([self.kv_of(head, heads, tensor.shape[2]) for head in range(heads)])
        return tensor.float()[:, :, index]


def kernel(**parts: Any) -> Attention:
    """An attention function with these of its Parts replaced; with none it is right."""
    import torch

    made = Parts(**parts)

    def attention(arguments: Arguments) -> Any:
        changed = made.inputs(arguments)
        p = made.weights(made.masked_scores(changed))
        v = made.expanded_v(made.heads_of(changed.v, changed.q.shape[2]))
        out = torch.einsum("bhij,bjhd->bihd", p, v).to(arguments.q.dtype)
        return made.result(out, arguments)

    return attention


def logsumexp(arguments: Arguments) -> Any:
    return Parts().masked_scores(arguments).logsumexp(dim=-1)


def backend(attention: Attention, lse: Attention = logsumexp, *, deterministic: bool = False) -> Backend:
    """A backend that claims everything; its other parts are right."""
    claims = EVERYTHING
    if deterministic:
        claims = replace(claims, features=claims.features | {"deterministic"})
    return Backend(name="test", attention=attention, capabilities=claims, logsumexp=lse)


def rows_up_to(tensor: Any, count: int) -> Any:
    """1 for the first `count` positions of [batch, seqlen, heads, head_dim], 0 for the rest."""
    return (tensor.new_ones(tensor.shape[1]).cumsum(0, dtype=float) <= count).to(tensor.dtype)[:, None, None]
