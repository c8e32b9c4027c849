"""Several GPUs in one container: all at the same time, and one that is off its siblings is named."""

from __future__ import annotations

import pytest

from tests.launcher.launchers import ContainerLauncher
from tests.patience import CHECK, SHORT


@pytest.fixture
def gpus(container: ContainerLauncher) -> ContainerLauncher:
    """A container that seems to hold eight."""
    container.give_gpus(8)
    return container


@pytest.mark.parametrize(("present", "code"), [(8, 0), (9, 94)])
def test_all_gpus_are_checked_at_the_same_time(gpus: ContainerLauncher, present: int, code: int) -> None:
    """Eight children wait until so many have begun: one after another they would wait for ever, as for nine."""
    gpus.behave(f"meet {present}")

    result = gpus.run(ATTN_TIMEOUT=CHECK if not code else SHORT)

    assert result.code == code
    assert [item["device"] for item in gpus.report()["gpus"]] == [f"cuda:{index}" for index in range(8)]


@pytest.mark.parametrize(("slow", "code"), [("warn", 0), ("fail", 93)])
def test_a_gpu_off_its_siblings_is_named(gpus: ContainerLauncher, slow: str, code: int) -> None:
    """No floor is known of this model; the others tell."""
    gpus.behave("slow on cuda:3")

    result = gpus.run(ATTN_TIMEOUT=CHECK, ATTN_SLOW=slow)

    assert result.code == code
    report = gpus.report()
    assert [item["device"] for item in report["gpus"] if item["verdict"] != "PASS"] == ["cuda:3"]
    assert "cuda:3: This NVIDIA Fake is slow beside its 7 siblings: a bf16 matmul reaches 80 TFLOP/s" in result.stderr
