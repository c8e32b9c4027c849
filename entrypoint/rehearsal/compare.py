"""The same batch and weights under the run's attention and under plain attention: losses, gradients, and leaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from entrypoint.rehearsal import reference
from entrypoint.rehearsal.events import ComparedEvent, Difference, LeakEvent, Part

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NAMES: Final[Mapping[Part, str | None]] = {
    "run": None,
    "reference": reference.REFERENCE,
    "baseline": reference.BASELINE,
}
SEED: Final = 7
# Of fewer numbers the baseline's error is no measure of the run's: that of a router's bias over two experts, which are
# each other's opposite, is a single draw, and another one is 4 times as large in 16 of 100 (measured: 7 times).
FEWEST: Final = 4


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One forward and backward: the loss, and the gradient of each trained parameter (None where it got none)."""

    loss: float
    gradients: Mapping[str, Tensor | None]


@dataclass(frozen=True, kw_only=True)
class Call:
    """A step that is about to be made: `own` makes it, forward and backward, and returns its loss."""

    trainer: Any
    model: Any
    batch: Mapping[str, Any]
    own: Callable[[], Tensor]


def one_pass(call: Call, part: Part) -> Pass:
    """What a step computes with the attention `part` in the model. Its gradients are taken away again."""
    model = call.model
    reference.tell(call.batch)
    seed()
    with reference.attention(model, NAMES[part]), without_attention_dropout(model):
        loss = call.own()
    scale = _scale(call.trainer)
    gradients = {
        name: None if parameter.grad is None else parameter.grad.detach().float() / scale
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    model.zero_grad(set_to_none=True)
    return Pass(loss=float(loss.detach().float()), gradients=gradients)


def compared(run: Pass, plain: Pass, baseline: Pass) -> ComparedEvent:
    """The run and the baseline, each against plain attention of high precision; FEWEST says what is left out."""
    return ComparedEvent(
        run=run.loss,
        reference=plain.loss,
        baseline=baseline.loss,
        gradients=tuple(
            difference(name, run.gradients.get(name), exact, baseline.gradients.get(name))
            for name, exact in plain.gradients.items()
            if exact is not None and (exact.numel() >= FEWEST or run.gradients.get(name) is None)
        ),
    )


def difference(name: str, run: Tensor | None, exact: Tensor, baseline: Tensor | None) -> Difference:
    """One parameter's. Norms are taken in float64, so that none of them overflows."""
    import torch

    def norm(tensor: Tensor) -> float:
        return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))

    scale = norm(exact)

    def off(tensor: Tensor | None) -> float:
        if tensor is None:
            return math.inf
        apart = norm(tensor.double() - exact.double())
        return apart / scale if scale else 0.0 if apart == 0.0 else math.inf

    return Difference(
        what=name,
        error=off(run),
        baseline=off(baseline),
        norm=scale,
        ratio=None if run is None or not scale else norm(run) / scale,
        missing=run is None,
    )


def leak(model: Any, batch: Mapping[str, Any]) -> LeakEvent | None:
    """What the first document of each row says to the later ones; None where no row has two of them."""
    layout = reference.layout_of(batch)
    documents, labels = layout.documents, batch["labels"]
    if documents is None:
        return None
    first = documents == documents[:, :1]
    # The last token of the first document predicts the first one of the second, which has no label.
    later = ~first & (labels != -100)
    if layout.kept is not None:
        later &= layout.kept
    if not bool(later.any()):
        return None
    changed = {**batch, "input_ids": _others(batch["input_ids"], first)}
    found: dict[Part, float] = {}
    noise = 0.0
    parts: tuple[Part, ...] = ("run", "reference")
    for part in parts:
        with reference.attention(model, NAMES[part]):
            before, after = (token_losses(model, each, later) for each in (batch, changed))
            noise = noise if part != "run" else _apart(before, token_losses(model, batch, later))
        found[part] = _apart(before, after)
    # Filled-up positions count as a document of their own.
    counts = [int((row[kept] if kept is not None else row).unique().numel()) for row, kept in _rows(documents, layout)]
    return LeakEvent(documents=sum(counts), run=found["run"], reference=found["reference"], noise=noise)


def _rows(documents: Tensor, layout: reference.Layout) -> Iterable[tuple[Tensor, Tensor | None]]:
    return ((row, None if layout.kept is None else layout.kept[number]) for number, row in enumerate(documents))


def _others(tokens: Tensor, where: Tensor) -> Tensor:
    """Other tokens in the places `where`, each as far from its own as the vocabulary allows."""
    import torch

    from entrypoint.rehearsal.material import FIRST_WORD
    from entrypoint.rehearsal.shrink import VOCABULARY

    words = VOCABULARY - FIRST_WORD
    return torch.where(where, (tokens - FIRST_WORD + words // 2) % words + FIRST_WORD, tokens)


def token_losses(model: Any, batch: Mapping[str, Any], where: Tensor) -> Tensor:
    """The loss of each labelled token in the places `where`, in training's own mode.

    Gradients stay on, though none is taken: without them torch.compile would compile FlexAttention and its mask again.
    """
    import torch

    reference.tell(batch)
    seed()
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with without_attention_dropout(model):
        logits = model(**inputs).logits.detach().float()
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="none", ignore_index=-100
    )
    return losses[where[:, 1:].flatten()]


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, over the largest loss; infinite where one is not finite."""
    import torch

    apart = (one - other).abs().max() / one.abs().max().clamp_min(1e-6)
    return float(apart) if bool(torch.isfinite(apart)) else math.inf


def seed(step: int = 0) -> None:
    """The same noise for every attention: what draws from it does so in the same order, anew in each step."""
    from transformers import set_seed

    set_seed(SEED + step)


@contextmanager
def without_attention_dropout(model: Any) -> Iterator[None]:
    """Dropout within attention would compare one mask of weights with another one."""
    found = [module for module in model.modules() if isinstance(getattr(module, "attention_dropout", None), float)]
    before = [module.attention_dropout for module in found]
    for module in found:
        module.attention_dropout = 0.0
    try:
        yield
    finally:
        for module, dropout in zip(found, before, strict=True):
            module.attention_dropout = dropout


def attention_dropout(model: Any) -> float:
    """The largest share of weights that an attention of the model drops while it trains."""
    found = (getattr(module, "attention_dropout", 0.0) for module in model.modules())
    return max((float(share) for share in found if isinstance(share, float)), default=0.0)


def wake(model: Any) -> None:
    """An adapter begins as zero, so that half of its weights would get no gradient: give it something to begin with."""
    import torch

    torch.manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name and parameter.requires_grad and not bool(parameter.any()):
                parameter.normal_(0.0, 0.02)


def _scale(trainer: Any) -> float:
    """What the gradients are multiplied with: float16's scaler's."""
    scaler = getattr(trainer.accelerator, "scaler", None)
    return float(scaler.get_scale()) if scaler is not None and scaler.is_enabled() else 1.0


def weights(model: Any) -> dict[str, torch.Tensor]:
    """A copy of what the steps will change."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def restore(model: Any, kept: Mapping[str, torch.Tensor]) -> None:
    """The weights of before."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.copy_(kept[name])
