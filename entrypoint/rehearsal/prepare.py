"""From the user's files to Axolotl's own objects: the small model, the changed configuration, the rows."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entrypoint.rehearsal import configuration, material, training
from entrypoint.rehearsal.eventlog import Left, Stages, last_line
from entrypoint.rehearsal.events import ShrunkEvent
from entrypoint.rehearsal.shrink import NotShrinkable, Small, shrink


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is rehearsed: `config` is the user's file, `merged` its values under `flags`; `model` the folder of the
    model's config.json, and `folder` the rehearsal's own. `backend`: the one that is expected to run, or ""."""

    config: str
    flags: tuple[tuple[str, Any], ...]
    merged: Mapping[str, Any]
    model: str
    device: str
    backend: str
    seed: int
    folder: Path

    @property
    def small(self) -> Path:
        """The small model's folder. It is named as the user's model is: Axolotl takes some decisions by that name."""
        name = str(self.merged.get("base_model") or "model").strip("/").replace("..", "_")
        return self.folder / "models" / name


def write_small(task: Task, log: Stages) -> None:
    """The small model and its tokenizer. Raises Left."""
    from transformers import AutoConfig

    with left_if_it_raises("the small model cannot be built"):
        full = AutoConfig.from_pretrained(task.model)
        changes = task.merged.get("model_config") or task.merged.get("overrides_of_model_config") or {}
        try:
            small = shrink(
                {**full.to_dict(), **changes},
                free_head_dim=takes_head_dim(full),
                length=configuration.length_of(task.merged, task.device),
            )
        except NotShrinkable as error:
            raise Left(f"its model cannot be made small: {error}") from error
        task.small.mkdir(parents=True)
        material.write_tokenizer(task.small)
        material.write_model(task.small, full.model_type, small.values)
    log.emit(_event(full.model_type, small))


def _event(kind: str, small: Small) -> ShrunkEvent:
    return ShrunkEvent(
        type=kind,
        layers=small.values["num_hidden_layers"],
        of_layers=small.of_layers,
        kinds=small.kinds,
        hidden=small.values["hidden_size"],
        heads=small.heads,
        kv_heads=small.kv_heads,
        head_dim=small.head_dim,
        vocabulary=small.values["vocab_size"],
        reduced=small.reduced,
    )


def takes_head_dim(config: Any) -> bool:
    """Whether the model's code reads head_dim where its configuration has one. Raises Left for no language model."""
    from transformers import AutoModelForCausalLM

    classes = AutoModelForCausalLM._model_mapping
    if type(config) not in classes:
        raise Left(f"transformers has no causal language model of the type {config.model_type}")
    module = inspect.getmodule(classes[type(config)])
    return reads_head_dim(inspect.getsource(module) if module else "")


def reads_head_dim(code: str) -> bool:
    """Whether attention takes its width from head_dim, or as MLA does from keys of its own, and not from hidden_size.

    GPT-NeoX reads it for its rotation alone.
    """
    return bool(re.search(r"self\.head_dim = [^\n]*\bhead_dim\b|self\.qk_nope_head_dim = ", code))


def configured(task: Task, log: Stages) -> Any:
    """The configuration as Axolotl completes it. Raises Left: after an event where the user's own file is refused, too,
    and without one where what the rehearsal replaced is."""
    import yaml

    places = configuration.Places(
        model=str(task.small),
        data=str(task.folder / "data.jsonl"),
        prepared=str(task.folder / "prepared"),
        output=str(task.folder / "out"),
    )
    file = yaml.safe_load(Path(task.config).read_text(encoding="utf-8"))
    made = configuration.rehearsed(file, task.merged, task.flags, places, task.device)
    path = task.folder / "config.yml"
    path.write_text(json.dumps(made.values, default=str), encoding="utf-8")
    log.emit(made.event)
    try:
        return training.load(path, dict(made.flags))
    except Exception as error:
        if not same(error, training.refusal(task.config, dict(task.flags))):
            raise Left(f"Axolotl does not take what the rehearsal replaced: {last_line(error)}") from error
        log.raised(error)
        raise Left("Axolotl refuses the configuration") from error


def same(error: Exception, other: Exception | None) -> bool:
    """Whether two refusals are one: pydantic's have a message for each key, and around it what was given."""

    def said(each: Exception) -> set[str]:
        rows = getattr(each, "errors", None)
        return {str(row.get("msg")) for row in rows()} if callable(rows) else {last_line(each)}

    return other is not None and type(error) is type(other) and said(error) == said(other)


def rows(task: Task, cfg: Any) -> Any:
    """Axolotl's data set of synthetic documents, enough for all steps. Raises Left."""
    with left_if_it_raises("Axolotl did not take the synthetic data"):
        count = (configuration.STEPS + 1) * max(1, int(cfg.micro_batch_size or 1))
        packed = bool(cfg.sample_packing)
        return training.rows_of(cfg, material.documents(count, cfg.sequence_len, packed=packed, seed=task.seed))


@contextmanager
def left_if_it_raises(what: str) -> Iterator[None]:
    """An exception of the rehearsal's own making says nothing about the run."""
    try:
        yield
    except Left:
        raise
    except Exception as error:
        raise Left(f"{what}: {last_line(error)}") from error
