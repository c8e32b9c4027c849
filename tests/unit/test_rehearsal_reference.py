"""Plain attention against a loop over positions in float64, and its gradients against themselves in another order."""

from __future__ import annotations

import math
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from entrypoint.rehearsal import reference
from entrypoint.rehearsal.reference import Layout, Terms, plain

ROWS, HEADS, KV_HEADS, LENGTH, WIDTH = 2, 4, 2, 12, 8
POSITIONS = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8]])
MASK = torch.tensor([[1] * 12, [1] * 9 + [0] * 3])


def inputs(seed: int = 0) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(seed)
    shapes = ((ROWS, HEADS, LENGTH, WIDTH), *[(ROWS, KV_HEADS, LENGTH, WIDTH)] * 2)
    return tuple(torch.randn(shape, dtype=torch.float64) * 2.0 for shape in shapes)


def terms(**changes: object) -> Terms:
    nothing = Layout(kept=None, documents=None)
    known = {"scale": 0.3, "softcap": 0.0, "sinks": None, "causal": True, "window": None, "layout": nothing}
    return Terms(**{**known, **changes})  # type: ignore[arg-type]


def looped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, asked: Terms) -> torch.Tensor:
    """One position after the other, written from the definition."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=torch.float64)
    for row, head, i in product(range(ROWS), range(HEADS), range(LENGTH)):
        source = head // (HEADS // KV_HEADS)
        scores, seen = [], []
        for j in range(LENGTH):
            if asked.causal and j > i or asked.window and abs(i - j) >= asked.window:
                continue
            documents, kept = asked.layout.documents, asked.layout.kept
            if (
                documents is not None
                and documents[row, i] != documents[row, j]
                or kept is not None
                and not kept[row, j]
            ):
                continue
            score = float(q[row, head, i] @ k[row, source, j]) * asked.scale
            scores.append(asked.softcap * math.tanh(score / asked.softcap) if asked.softcap else score)
            seen.append(j)
        total = sum(map(math.exp, scores)) + (math.exp(float(asked.sinks[head])) if asked.sinks is not None else 0.0)
        for j, score in zip(seen, scores, strict=True):
            out[row, head, i] += math.exp(score) / total * v[row, source, j]
    return out


LAYOUT = reference.layout_of({"position_ids": POSITIONS, "attention_mask": MASK})
CASES = {
    "causal": terms(),
    "full": terms(causal=False),
    "window": terms(window=3),
    "softcap": terms(softcap=1.5),
    "sinks": terms(sinks=torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)),
    "documents": terms(layout=LAYOUT),
    "all of it": terms(window=4, softcap=2.0, layout=LAYOUT, sinks=torch.arange(4.0, dtype=torch.float64)),
}


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_it_is_what_the_definition_says(name: str, backwards: bool) -> None:
    q, k, v = inputs()
    torch.testing.assert_close(plain(q, k, v, terms=CASES[name], backwards=backwards), looped(q, k, v, CASES[name]))


def test_chunks_of_queries_change_neither_output_nor_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = CASES["all of it"]
    whole = [each.requires_grad_() for each in inputs()]
    out = plain(*whole, terms=asked)
    out.square().sum().backward()
    monkeypatch.setattr(reference, "CHUNK_SCORES", ROWS * HEADS * LENGTH * 5)
    parts = [each.requires_grad_() for each in inputs()]
    again = plain(*parts, terms=asked)
    again.square().sum().backward()
    torch.testing.assert_close(again, out)
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_query_that_may_see_nothing_gets_nothing() -> None:
    left = Layout(kept=torch.tensor([[0] * 3 + [1] * 9] * 2) != 0, documents=None)
    out = plain(*inputs(), terms=terms(layout=left))
    assert bool(torch.isfinite(out).all())
    assert not bool(out[:, :, :3].any())


def test_documents_are_told_by_the_batch_and_not_by_the_model() -> None:
    """As transformers calls it, with a mask that has lost them."""
    q, k, v = (each.float() for each in inputs())
    reference.tell({"position_ids": POSITIONS, "attention_mask": MASK})
    module = SimpleNamespace(is_causal=True)
    out, _ = reference.reference(module, q, k, v, None, scaling=0.3, dropout=0.0)
    reference.tell({})
    exact = looped(q.double(), k.double(), v.double(), terms(layout=LAYOUT))
    torch.testing.assert_close(out, exact.transpose(1, 2).float())


def test_the_baseline_computes_in_the_run_s_dtype_and_the_reference_above_it() -> None:
    q, k, v = (each.bfloat16() for each in inputs())
    reference.tell({})
    module = SimpleNamespace(is_causal=True)
    exact = looped(q.double(), k.double(), v.double(), terms()).transpose(1, 2)
    high, _ = reference.reference(module, q, k, v, None, scaling=0.3)
    low, _ = reference.baseline(module, q, k, v, None, scaling=0.3)
    assert high.dtype == low.dtype == torch.bfloat16
    assert (high.double() - exact).norm() < (low.double() - exact).norm() < 0.05 * exact.norm()


def test_every_configuration_of_a_model_gets_the_other_attention_and_its_own_back() -> None:
    inner = torch.nn.Linear(1, 1)
    inner.config = SimpleNamespace(_attn_implementation_internal="flash_attention_2")
    model = torch.nn.Sequential(inner)
    model.config = SimpleNamespace(_attn_implementation_internal="sdpa")

    def names() -> list[str]:
        return [each.config._attn_implementation_internal for each in (model, inner)]

    def broken() -> None:
        with reference.attention(model, reference.REFERENCE):
            assert names() == [reference.REFERENCE] * 2
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        broken()
    assert names() == ["sdpa", "flash_attention_2"]
    with reference.attention(model, None):
        assert names() == ["sdpa", "flash_attention_2"]
