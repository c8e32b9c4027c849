"""The rehearsal in a real image: healthy runs pass, and what is planted where transformers calls attention is found.

Three whole starts; the others share one import of Axolotl (tests/rehearsal/forked.py). All of them, and 200 healthy
runs, are recorded in tests/data/rehearsal by `python -m tests.rehearsal.run`.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.patience import CHECK
from tests.rehearsal.container import Start, start
from tests.rehearsal.families import drawn
from tests.rehearsal.forked import rehearse
from tests.rehearsal.run import good, jobs_of
from tests.rehearsal.seeded import SEEDED

LEAK = "the second document sees the first"
FOUND = ("scale dropped", "softcap dropped", "gradient of q cut", "crash at the first step", "a hub asked")
HEALTHY = (2, 6)  # Gemma 2 with LoRA, GPT-OSS
PACKED = 4  # Phi 3


def started(image: str, seeded: str = "", *options: str, **more: Any) -> Start:
    """A whole start with what the image itself holds; without a defect it is a healthy one, packed."""
    setting = SEEDED[seeded].setting if seeded else drawn(PACKED)
    return start(image, setting, seeded=seeded, tree=False, limit=int(float(CHECK)), options=options, **more)


def test_a_healthy_run_passes(sdpa_cpu: str) -> None:
    """Its loss and gradients are plain attention's, its documents apart, by SDPA's kernel and without a hub."""
    done = started(sdpa_cpu)

    assert done.code == 0, done.stderr
    part = done.rehearsal
    assert (part["verdict"], part["reason"], part["observed"], part["hub"]) == ("PASS", None, "sdpa", [])
    assert part["packed"]["documents"] >= 2
    assert part["packed"]["leak"] < 1e-5
    assert len(part["losses"]["runs"]) == len(part["losses"]["reference"]) >= 3
    assert part["model"]["type"] == "phi3"
    assert part["differences"]
    assert all(row["ratio"] < 1.0 for row in part["differences"])
    assert "ehearsed" in done.report["headline"]["what"]


def test_a_training_whose_documents_leak_does_not_start(sdpa_cpu: str) -> None:
    """The command is Axolotl's own; its output never comes, and the reason is in the user's words."""
    done = started(sdpa_cpu, LEAK, command=("axolotl", "train", "config.yml"))

    assert (done.code, done.report) == (92, {}), done.stderr
    assert "packed documents see each other: the loss of document 2 changes when document 1 does" in done.stderr


def test_a_crash_by_signal_is_told_as_the_check_tells_it(sdpa_cpu: str) -> None:
    """The child is gone, and the report says how, and in what."""
    done = started(sdpa_cpu, "segmentation fault")

    assert done.code == 95, done.stderr
    assert "SIGSEGV" in done.reason


def test_without_a_rehearsal_the_leak_is_not_seen(sdpa_cpu: str) -> None:
    """ATTN_REHEARSE=off: the kernel itself is right."""
    done = started(sdpa_cpu, LEAK, "--env=ATTN_REHEARSE=off")

    assert (done.code, done.report["verdict"], done.report["rehearsal"]) == (0, "PASS", None), done.stderr


@pytest.fixture(scope="module")
def forked(sdpa_cpu: str) -> dict[str, tuple[bool, dict[str, Any]]]:
    """Each of the shorter ones: whether it ended as it must, and what was told of it."""
    told = rehearse(sdpa_cpu, jobs_of(FOUND, HEALTHY), tree=False)
    return {job.name: (good(job, answer), answer) for job, answer in told}


@pytest.mark.parametrize("name", [*FOUND, *(f"healthy {seed}" for seed in HEALTHY)])
def test_it_ends_as_it_must(forked: dict[str, tuple[bool, dict[str, Any]]], name: str) -> None:
    """With the code and the words of tests/rehearsal/seeded.py, or as a PASS."""
    is_good, told = forked[name]

    assert is_good, told
