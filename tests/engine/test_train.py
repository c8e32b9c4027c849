"""`docker run IMAGE axolotl train` on a tiny random Llama: three steps on a CPU, without a network, as any user."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.engine.test_images import HARDENED, docker
from tests.patience import CHECK

TRAIN = Path(__file__).resolve().parents[1] / "train"
# Any user can start an image; this one can also read what it wrote: root reads all, and anybody else what is their own.
USER = f"--user={os.getuid() or 12345}:0"
OPTIONS = ("--network=none", f"--env=ATTN_TIMEOUT={CHECK}", *HARDENED, USER, f"--volume={TRAIN}:/train:ro")


@dataclass(frozen=True)
class Training:
    """A run that has ended, and the folder that it wrote to."""

    process: CompletedProcess[str]
    folder: Path

    @property
    def state(self) -> dict[str, Any]:
        """What the trainer wrote about its steps."""
        state: dict[str, Any] = json.loads((self.folder / "out/checkpoint-3/trainer_state.json").read_text())
        return state


@pytest.fixture(scope="module")
def training(sdpa_cpu: str, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A tiny Llama made in the image, and trained by it with a hub that it may not ask."""
    folder = tmp_path_factory.mktemp("training")
    folder.chmod(0o777)  # the container's user is another one
    options = (*OPTIONS, f"--volume={folder}:/workspace")
    made = docker("run", "--rm", *options, "--env=ATTN_CHECK=off", sdpa_cpu, "python", "/train/tiny_llama.py", ".")
    assert made.returncode == 0, made.stderr
    offline = "--env=HF_HUB_OFFLINE=1"
    return Training(docker("run", "--rm", *options, offline, sdpa_cpu, "axolotl", "train", "config.yml"), folder)


def tensors(file: Path) -> dict[str, bytes]:
    """The bytes of each tensor of a safetensors file: the header's length, the header, and then the tensors."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    return {name: content[start:][slice(*facts["data_offsets"])] for name, facts in header.items()}


def test_the_verdict_comes_first_and_the_run_ends_well(training: Training) -> None:
    """Before anything else, but for the check's progress, a PASS of what the training then uses."""
    assert training.process.returncode == 0, training.process.stderr
    first, *_ = (line for line in training.process.stderr.splitlines() if not line.startswith("axolotl-attn: "))
    assert first.startswith("axolotl-attn sdpa-cpu: PASS: sdpa is right")
    assert '"attn_implementation": "sdpa"' in training.process.stdout


def test_the_run_was_rehearsed_before_it_started(training: Training) -> None:
    """By the Axolotl and the configuration of the training itself, on a smaller model, and nothing is left of it."""
    lines = training.process.stderr.splitlines()
    told = next(line for line in lines if line.startswith("  rehearsal "))

    assert (
        "Rehearsed 3 steps of llama with 2 layers: loss and gradients as plain attention's." in lines[_headline(lines)]
    )
    assert told.startswith("  rehearsal llama: 3 steps, loss ")
    assert "of its budget" in told
    assert sorted(path.name for path in training.folder.iterdir()) == [
        "config.yml",
        "model",
        "out",
        "prepared",
        "text.jsonl",
    ]


def _headline(lines: list[str]) -> int:
    return next(number for number, line in enumerate(lines) if line.startswith("axolotl-attn sdpa-cpu: PASS"))


def test_three_steps_are_learned_from(training: Training) -> None:
    """One step after the other, each with a finite loss that is less than the one before."""
    steps = [entry for entry in training.state["log_history"] if "loss" in entry]
    losses = [entry["loss"] for entry in steps]

    assert [entry["step"] for entry in steps] == [1, 2, 3]
    assert all(math.isfinite(entry[name]) and entry[name] > 0 for entry in steps for name in ("loss", "grad_norm"))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.95 * losses[0]


def test_every_weight_is_another_one(training: Training) -> None:
    """Attention's projections among them: queries, keys and values learn only by attention's own backward."""
    before, after = (tensors(training.folder / name / "model.safetensors") for name in ("model", "out"))

    assert before.keys() == after.keys()
    assert {"q_proj", "k_proj", "v_proj"} <= {part for name in before for part in name.split(".")}
    assert [name for name in before if before[name] == after[name]] == []
