"""What the rehearsal says before Axolotl loads the model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from entrypoint.rehearsal import run, training
from entrypoint.rehearsal.eventlog import Stages
from entrypoint.rehearsal.prepare import Task


def loaded(device: str) -> list[dict[str, Any]]:
    """The events of loading a model, which comes to nothing."""
    stream = io.StringIO()
    task = Task(
        config="", flags=(), merged={}, model="", device=device, backend="sdpa", seed=0, folder=Path("/nowhere")
    )
    assert run.load(task, Options(), None, Stages(stream)) is None
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class Options(dict[str, Any]):
    """As Axolotl's configuration: keys are attributes, too."""

    attn_implementation = ""


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def model_of(cfg: object) -> NoReturn:
        raise torch.OutOfMemoryError("2 GiB")

    monkeypatch.setattr(training, "model_of", model_of)


def test_the_memory_of_a_gpu_is_told_before_the_model_takes_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: {"cuda:0": (7, 140)}[device])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: {"cuda:0": 2}[device])

    stage, memory, raised, *_ = loaded("cuda:0")
    assert (stage["event"], stage["name"]) == ("stage", "load")
    assert memory == {"event": "memory", "free": 7, "total": 140, "own": 2}
    assert (raised["event"], raised["out_of_memory"]) == ("raised", True)


def test_a_cpu_has_none() -> None:
    assert [event["event"] for event in loaded("cpu")] == ["stage", "raised", "stage", "raised"]
