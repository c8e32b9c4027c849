"""What a comparison measures: differences of gradients, leaks between documents, weights and noise put back."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from entrypoint.rehearsal import compare, material
from entrypoint.rehearsal.events import LeakEvent

EXACT = torch.tensor([3.0, 4.0])


@pytest.fixture(autouse=True)
def _transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' environment has none; of it only the seed is used here."""
    monkeypatch.setitem(__import__("sys").modules, "transformers", SimpleNamespace(set_seed=torch.manual_seed))


@pytest.mark.parametrize(
    ("run", "error", "ratio"),
    [
        (EXACT, 0.0, 1.0),
        (EXACT + torch.tensor([0.0, 0.5]), 0.1, pytest.approx(math.hypot(3.0, 4.5) / 5.0)),
        (EXACT * 0.0, 1.0, 0.0),
        (None, math.inf, None),
    ],
)
def test_a_gradient_is_apart_by_a_share_of_the_reference(run: Any, error: float, ratio: Any) -> None:
    row = compare.difference("q", run, EXACT, EXACT * 1.01)
    assert row.error == pytest.approx(error)
    assert row.ratio == ratio
    assert (row.norm, row.missing) == (5.0, run is None)
    assert row.baseline == pytest.approx(0.01)


def test_a_gradient_of_zero_is_met_by_zero_alone() -> None:
    nothing = torch.zeros(2)
    assert compare.difference("k", nothing, nothing, EXACT).error == 0.0
    assert compare.difference("k", EXACT, nothing, nothing).error == math.inf


def test_what_a_run_has_no_gradient_for_is_in_the_comparison_and_what_nobody_has_is_not() -> None:
    plain = compare.Pass(loss=1.0, gradients={"q": EXACT, "frozen": None})
    run = compare.Pass(loss=1.0, gradients={"q": None, "frozen": None})
    event = compare.compared(run, plain, plain)
    assert [(row.what, row.missing) for row in event.gradients] == [("q", True)]


@pytest.mark.parametrize(("count", "compared"), [(compare.FEWEST, ["bias"]), (compare.FEWEST - 1, [])])
def test_a_gradient_of_few_numbers_is_compared_only_where_it_is_missing(count: int, compared: list[str]) -> None:
    """The error of so few is a matter of luck; that there is none is not."""
    given, off = torch.ones(count), torch.full((count,), 1.1)
    passes = [compare.Pass(loss=1.0, gradients={"bias": gradient}) for gradient in (off, given, given)]
    assert [row.what for row in compare.compared(*passes).gradients] == compared
    event = compare.compared(replace(passes[0], gradients={"bias": None}), *passes[1:])
    assert [(row.what, row.missing) for row in event.gradients] == [("bias", True)]


class Sums(torch.nn.Module):  # type: ignore[misc]  # torch is Any where types are checked
    """Logits are sums of embeddings over what a position sees: all of its row, or its own document."""

    def __init__(self, *, apart: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(512, 512)
        self.apart = apart

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> Any:
        seen = torch.ones(input_ids.shape[1], input_ids.shape[1]).tril().expand(len(input_ids), -1, -1)
        documents = (position_ids == 0).cumsum(-1)
        if self.apart:
            seen = seen * (documents[:, :, None] == documents[:, None, :])
        return SimpleNamespace(logits=seen @ self.embedding(input_ids))


def batch() -> dict[str, torch.Tensor]:
    tokens = torch.tensor([[4, 5, 6, 7, 8, 9, 10, 11]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    labels = tokens.masked_fill(positions < 1, -100)
    return {"input_ids": tokens, "position_ids": positions, "labels": labels}


@pytest.mark.parametrize("apart", [True, False])
def test_a_leak_is_what_the_first_document_changes_in_the_second(apart: bool) -> None:
    event = compare.leak(Sums(apart=apart), batch())
    assert isinstance(event, LeakEvent)
    assert (event.documents, event.noise) == (2, 0.0)
    assert event.run is not None
    assert (event.run == 0.0) is apart
    assert apart or event.run > 1e-3


def test_a_leak_is_looked_for_as_training_calls_the_model() -> None:
    """torch.compile makes another graph where gradients are off; none is taken, and none is left behind."""
    model, seen = Sums(apart=True), []
    model.register_forward_pre_hook(lambda *_: seen.append((torch.is_grad_enabled(), model.training)))
    compare.leak(model, batch())
    assert set(seen) == {(True, True)}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_rows_of_one_document_cannot_leak() -> None:
    one = {**batch(), "position_ids": torch.arange(8)[None]}
    assert compare.leak(Sums(apart=True), one) is None
    padded = {key: value for key, value in batch().items() if key != "position_ids"}
    assert compare.leak(Sums(apart=True), padded) is None


def test_a_step_leaves_neither_gradient_nor_dropout_behind() -> None:
    """Its loss and its gradients are those of a step without dropout in attention."""
    layer = torch.nn.Linear(2, 1)
    layer.attention_dropout = 0.1
    seen = []

    def own() -> torch.Tensor:
        seen.append(layer.attention_dropout)
        loss = layer(torch.ones(1, 2)).sum()
        loss.backward()
        return loss.detach()

    call = compare.Call(trainer=SimpleNamespace(accelerator=SimpleNamespace()), model=layer, batch={}, own=own)
    found = compare.one_pass(call, "run")
    assert (seen, layer.attention_dropout) == ([0.0], 0.1)
    assert found.gradients.keys() == {"weight", "bias"}
    assert layer.weight.grad is None
    torch.testing.assert_close(found.gradients["weight"], torch.ones(1, 2))


def test_a_scaled_gradient_is_scaled_back() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    scaler = SimpleNamespace(is_enabled=lambda: True, get_scale=lambda: 8.0)

    def own() -> torch.Tensor:
        (layer(torch.ones(1, 1)).sum() * 8.0).backward()
        return torch.tensor(1.0)

    trainer = SimpleNamespace(accelerator=SimpleNamespace(scaler=scaler))
    found = compare.one_pass(compare.Call(trainer=trainer, model=layer, batch={}, own=own), "run")
    torch.testing.assert_close(found.gradients["weight"], torch.ones(1, 1))


def test_an_adapter_of_zero_is_woken_and_weights_come_back() -> None:
    model = torch.nn.ModuleDict({"lora_B": torch.nn.Linear(2, 2, bias=False), "lora_A": torch.nn.Linear(2, 2)})
    torch.nn.init.zeros_(model["lora_B"].weight)
    compare.wake(model)
    assert bool(model["lora_B"].weight.any())
    kept = compare.weights(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    compare.restore(model, kept)
    assert all(torch.equal(parameter, kept[name]) for name, parameter in model.named_parameters())


# ---- the documents ----


@pytest.mark.parametrize("packed", [True, False])
def test_documents_differ_in_length_and_fit_into_a_row(packed: bool) -> None:
    found = material.documents(3, 256, packed=packed)
    lengths = {len(document["input_ids"]) for document in found}
    assert len(lengths) >= 3
    assert max(lengths) <= 256
    if packed:
        assert sum(len(document["input_ids"]) for document in found) > 2.5 * 256


def test_documents_are_the_same_for_the_same_seed_alone() -> None:
    assert material.documents(2, 64, packed=True) == material.documents(2, 64, packed=True)
    assert material.documents(2, 64, packed=True) != material.documents(2, 64, packed=True, seed=1)


def test_nothing_is_learned_from_a_first_token() -> None:
    """In a packed row it follows another document."""
    for document in material.documents(2, 64, packed=True):
        assert document["labels"][0] == material.IGNORED
        assert document["labels"][material.PROMPT :] == document["input_ids"][material.PROMPT :]
        assert min(document["input_ids"]) >= material.FIRST_WORD


def test_scores_are_made_to_differ_where_a_norm_or_a_cap_hides_it() -> None:
    names = ("q_norm.weight", "k_norm.weight", "self_attn.q_proj.weight", "self_attn.sinks")
    before = {name: torch.ones(64) for name in names}
    for capped in (False, True):
        after = {name: weight.clone() for name, weight in before.items()}
        material.sharpen(after.items(), capped=capped)
        assert bool((after["q_norm.weight"] == material.SHARPER).all())
        assert bool((after["k_norm.weight"] == 1.0).all())
        assert bool((after["self_attn.q_proj.weight"] == (material.CAPPED if capped else 1.0)).all())
        assert after["self_attn.sinks"].std() > 0.5
