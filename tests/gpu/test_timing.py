"""Our times next to triton.testing.do_bench's, in one run on one GPU: the two must mean the same."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

from entrypoint.probe import backends, calls, performance, timing
from entrypoint.probe.cases import Case, make_inputs

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and a torch that sees it")

ROUNDS = 7  # one after the other, ours and theirs in turns, so that a clock that drifts moves both
AGREEMENT = 0.03


def theirs(call: Callable[[], object]) -> float:
    """The median of do_bench, in seconds. It clears the same 256 MB before each call, for 0.1 s."""
    testing = pytest.importorskip("triton.testing")
    return float(testing.do_bench(call, return_mode="median")) / 1000.0


def ratio(ours: Callable[[], float], call: Callable[[], object]) -> float:
    """How much longer ours is: the median of the rounds, each of which compares neighbours in time."""
    return median(ours() / theirs(call) for _ in range(ROUNDS))


def calls_of(case: Case, here: Any) -> tuple[Callable[[], object], Callable[[], object]]:
    """SDPA's forward, and its backward on one graph that is kept."""
    backend = backends.load("sdpa", here)
    arguments, dout = make_inputs(case, here)
    leaves = calls.fresh(arguments, requires_grad=True)
    out = backend.attention(leaves)
    inputs = (leaves.q, leaves.k, leaves.v)
    backward = lambda: torch.autograd.grad(out, inputs, dout, retain_graph=True)  # noqa: E731
    return lambda: backend.attention(leaves), backward


@pytest.mark.parametrize("case", performance.timed_cases("cuda"), ids=lambda case: str(case.id))
def test_attention_takes_as_long_as_do_bench_says(case: Case) -> None:
    """Forward and backward at each timed shape, within 3 %."""
    here = torch.device("cuda:0")
    clock = timing.clock_for(here)
    backend = backends.load("sdpa", here)
    for direction, call in zip(("forward", "backward"), calls_of(case, here), strict=True):

        def ours(direction: str = direction) -> float:
            speeds = performance.attention_speeds(backend, case, here, clock)
            return next(speed.seconds for speed in speeds if speed.direction == direction)

        assert ratio(ours, call) == pytest.approx(1.0, abs=AGREEMENT), f"{case.id} {direction}"


def test_a_matmul_and_a_copy_take_as_long_as_do_bench_says() -> None:
    """The two ceilings, within 3 %."""
    here = torch.device("cuda:0")
    size = performance.MATMUL_SIZE
    left, right = (torch.randn(size, size, device=here).to(torch.bfloat16) for _ in range(2))
    source, target = (torch.zeros(performance.COPY_BYTES, dtype=torch.uint8, device=here) for _ in range(2))

    matmul = ratio(lambda: performance.matmul_ceiling(here).seconds, lambda: torch.mm(left, right))
    copy = ratio(lambda: performance.copy_bandwidth(here).seconds, lambda: target.copy_(source))

    assert matmul == pytest.approx(1.0, abs=AGREEMENT)
    assert copy == pytest.approx(1.0, abs=AGREEMENT)
