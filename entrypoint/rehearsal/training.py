"""The only door to Axolotl: its configuration, its model, its trainer, and what a step of it is."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# What a step hands over: the trainer, the model, its batch, and what does the step itself: forward and backward.
Step = Callable[[Any, Any, Mapping[str, Any], Callable[[], "torch.Tensor"]], "torch.Tensor"]


# float16's scaler begins at 65,536 and comes down by skipping steps; a rehearsal has none to skip.
FIRST_SCALE = 256.0


def imported() -> None:
    """Axolotl, transformers and all that a run of them imports anyway.

    Modules are no garbage: Axolotl's packing collects it six times for each trainer, and went through all of them each
    time, which was 8 of the 11 s that a packed run took to load and to make its steps on a CPU.
    """
    gc.disable()
    import axolotl.cli.config
    import axolotl.common.datasets
    import axolotl.train
    import axolotl.utils.trainer  # noqa: F401

    gc.freeze()
    gc.enable()


def load(path: Path, flags: Mapping[str, Any]) -> Any:
    """The configuration as Axolotl validates and completes it. Raises what Axolotl raises."""
    from axolotl.cli.config import load_cfg

    cfg = load_cfg(str(path), **flags)
    # Its data is in memory already, and another process for it would import all of this again.
    cfg.dataset_num_proc = None
    cfg.dataset_processes = None
    return cfg


def refusal(path: str, flags: Mapping[str, Any]) -> Exception | None:
    """What Axolotl raises when it validates the user's own file; None where it takes it. Nothing is written."""
    from axolotl.cli import config

    class _Valid(Exception):
        pass

    validate = config.validate_config

    def validated(*arguments: Any, **more: Any) -> None:
        validate(*arguments, **more)
        raise _Valid

    config.validate_config = validated
    try:
        config.load_cfg(path, **flags)
    except _Valid:
        return None
    except Exception as error:  # noqa: BLE001  (whatever it is, the run meets it too)
        return error
    finally:
        config.validate_config = validate
    return None


def rows_of(cfg: Any, documents: Sequence[Mapping[str, list[int]]]) -> Any:
    """The documents as Axolotl's own data set: with position_ids and without mask, where it packs so."""
    from axolotl.utils.trainer import process_datasets_for_packing
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    columns = {name: [document[name] for document in documents] for name in documents[0]}
    train, _ = process_datasets_for_packing(cfg, Dataset.from_dict(columns), None)
    return train


def model_of(cfg: Any) -> tuple[Any, Any, Any]:
    """The model, the tokenizer and the adapter's configuration, with all of Axolotl's patches."""
    from axolotl.train import setup_model_and_tokenizer

    model, tokenizer, adapter, _ = setup_model_and_tokenizer(cfg)
    return model, tokenizer, adapter


def trainer_of(cfg: Any, rows: Any, model: Any, tokenizer: Any, adapter: Any) -> Any:
    """A new trainer for a model that may have had another one."""
    from axolotl.integrations.base import PluginManager
    from axolotl.utils.trainer import setup_trainer

    if hasattr(model, "_original_forward"):  # accelerate would wrap what it has wrapped once more
        model.forward = model.__dict__.pop("_original_forward")
    trainer = setup_trainer(
        cfg=cfg,
        train_dataset=rows,
        eval_dataset=None,
        model=model,
        tokenizer=tokenizer,
        processor=None,
        total_num_steps=cfg.max_steps,
        model_ref=None,
        peft_config=adapter,
    )
    PluginManager.get_instance().post_trainer_create(cfg, trainer)
    if (scaler := getattr(trainer.accelerator, "scaler", None)) is not None:
        scaler._init_scale = FIRST_SCALE
    return trainer


def train(trainer: Any, step: Step) -> None:
    """Axolotl's own loop, in which `step` stands in the place of training_step and may call it."""
    own = trainer.training_step

    def training_step(model: Any, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        return step(trainer, model, inputs, lambda: own(model, dict(inputs), num_items_in_batch))

    trainer.training_step = training_step
    try:
        trainer.train()
    finally:
        trainer.training_step = own
