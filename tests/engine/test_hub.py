"""With a hub that answers, an image asks it for models and never for attention kernels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_images import docker

SCRIPT = Path(__file__).with_name("hub_requests.py")
KERNELS = "/kernels-community/"


def ask(image: str, what: str, *options: str) -> dict[str, Any]:
    """What the hub was asked for, and the error that the program got."""
    # The hub is on the loopback interface, which a container without a network has too.
    mount = ("--network=none", "--env=ATTN_CHECK=off", f"--volume={SCRIPT}:/hub_requests.py:ro")
    done = docker("run", "--rm", *mount, *options, image, "python", "/hub_requests.py", what)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


@pytest.mark.parametrize("implementation", ["flash_attention_2", "flash_attention_3", "kernels-community"])
def test_an_attention_that_is_not_installed_is_refused_without_asking_the_hub(
    sdpa_cpu: str, implementation: str
) -> None:
    """The image's USE_HUB_KERNELS=0 holds for attention, and the error says how to go past it."""
    answer = ask(sdpa_cpu, implementation)

    assert answer["asked"] == []
    assert "USE_HUB_KERNELS=0 keeps kernels of the hub out" in answer["error"]


def test_axolotls_own_look_for_a_kernel_asks_nothing(sdpa_cpu: str) -> None:
    """Its validation of flash_attention_2 calls the same function, and takes the refusal for an absence."""
    assert ask(sdpa_cpu, "installed") == {"asked": [], "error": None}


def test_a_model_is_asked_for(sdpa_cpu: str) -> None:
    """Models come from the hub as before: the request reaches it."""
    answer = ask(sdpa_cpu, "model")

    assert any(path.startswith("/someone/their-model/") for path in answer["asked"])


def test_whoever_wants_kernels_of_the_hub_gets_them(sdpa_cpu: str) -> None:
    """USE_HUB_KERNELS=1: the hub is asked for the kernel, which is also how this file knows that it would be seen."""
    answer = ask(sdpa_cpu, "flash_attention_2", "--env=USE_HUB_KERNELS=1")

    assert any(KERNELS in path for path in answer["asked"])
