"""The user's configuration, changed in what a rehearsal must replace and in nothing else. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from entrypoint.light import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import Any, Final

    from entrypoint.rehearsal.events import ChangedEvent

STEPS: Final = 3
# Longest rehearsed rows and the most positions of a batch, by the kind of device: plain attention takes time in
# proportion to the square of a row, and some attentions get all rows of a batch as one.
LENGTHS: Final = {"cuda": 2048, "cpu": 256}
POSITIONS: Final = {"cuda": 16384, "cpu": 1024}
SHORTEST: Final = 64
# Axolotl's own default (utils/schemas/config.py).
SEQUENCE_LEN: Final = 512

# What the rehearsal brings itself, or what would reach out of it.
_GONE: Final = frozenset(
    {
        "base_model_config", "cls_model_config", "revision_of_model", "tokenizer_config", "tokenizer_type",
        "tokenizer_use_fast", "tokenizer_legacy", "tokenizer_use_mistral_common", "tokenizer_save_jinja_files",
        "special_tokens", "tokens", "added_tokens_overrides", "chat_template", "chat_template_jinja", "eot_tokens",
        "default_system_message", "chat_template_kwargs", "fix_untrained_tokens", "model_quantization_config",
        "model_quantization_config_kwargs", "trust_remote_code",
        "test_datasets", "dataset_processes", "push_dataset_to_hub", "hf_use_auth_token", "shuffle_merged_datasets",
        "eval_steps", "evals_per_epoch", "eval_strategy", "evaluation_strategy", "eval_table_size",
        "eval_max_new_tokens", "eval_causal_lm_metrics", "do_causal_lm_eval", "do_bench_eval", "bench_dataset",
        "early_stopping_patience", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
        "generate_samples", "loss_watchdog_threshold", "loss_watchdog_patience",
        "hub_model_id", "hub_strategy", "hub_revision", "save_steps", "saves_per_epoch", "save_total_limit",
        "save_only_model", "resume_from_checkpoint", "auto_resume_from_checkpoints", "lora_model_dir",
        "use_wandb", "wandb_project", "wandb_entity", "wandb_name", "wandb_run_id", "wandb_watch", "wandb_log_model",
        "wandb_mode", "use_mlflow", "mlflow_tracking_uri", "mlflow_experiment_name", "mlflow_run_name",
        "hf_mlflow_log_artifacts", "use_comet", "comet_api_key", "comet_workspace", "comet_project_name",
        "comet_experiment_key", "comet_mode", "comet_online", "comet_experiment_config", "use_trackio",
        "trackio_project_name", "trackio_run_name", "trackio_space_id", "use_tensorboard", "profiler_steps",
        "profiler_steps_start", "use_otel_metrics", "use_ray", "ray_run_name", "ray_num_workers",
        "resources_per_worker", "dynamic_checkpoint", "output_dir", "dataset_prepared_path",
    }
)  # fmt: skip
# One process trains on one device, without a compiler: each is off here, and the report says so where it was on.
_OFF: Final = {
    "deepspeed": "deepspeed",
    "fsdp": "fsdp",
    "fsdp_config": "fsdp",
    "fsdp_version": "fsdp",
    "fsdp_final_state_dict_type": "fsdp",
    "tensor_parallel_size": "tensor_parallel_size",
    "dp_shard_size": "dp_shard_size",
    "dp_replicate_size": "dp_replicate_size",
    "expert_parallel_size": "expert_parallel_size",
    "torch_compile": "torch_compile",
    "torch_compile_backend": "torch_compile",
    "torch_compile_mode": "torch_compile",
    "auto_find_batch_size": "auto_find_batch_size",
    "relora": "relora",
    "lisa_step_interval": "lisa",
    "lisa_n_layers": "lisa",
    # They name layers by number.
    "lora_layers_to_transform": "lora_layers_to_transform",
    "peft_layers_to_transform": "peft_layers_to_transform",
    "unfrozen_parameters": "unfrozen_parameters",
    "loraplus_lr_embedding": "loraplus_lr_embedding",
}
# Sizes of the model that the small one has its own of, where model_config would set them again.
_SIZES: Final = ("num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size", "layer_types", "architectures")
_OVERRIDES: Final = ("model_config", "overrides_of_model_config")
_OTHER_DATA: Final = {
    "rl": "it learns from preferences or rewards (rl)",
    "reward_model": "it trains a reward model",
    "process_reward_model": "it trains a reward model",
    "pretraining_dataset": "its data is streamed (pretraining_dataset)",
    "streaming": "its data is streamed",
    "processor_type": "it is multimodal (processor_type)",
    "is_multimodal": "it is multimodal",
    "use_pose": "its positions skip (use_pose)",
    "diffusion": "it trains a diffusion model",
}


@dataclass(frozen=True, kw_only=True)
class Places:
    """The folders and files of a rehearsal."""

    model: str
    data: str
    prepared: str
    output: str


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """`values` are the configuration's file, and `flags` what the command line still adds; `event` tells the rest."""

    values: Mapping[str, Any]
    flags: tuple[tuple[str, Any], ...]
    event: ChangedEvent


def why_not(values: Mapping[str, Any]) -> str | None:
    """Why a merged configuration is of a kind that is not rehearsed; None where it is."""
    for key, why in _OTHER_DATA.items():
        if values.get(key):
            return why
    for key in ("context_parallel_size", "sequence_parallel_degree"):
        size = values.get(key)
        if isinstance(size, int) and size > 1:
            return f"one row is spread over {size} GPUs ({key})"
    return None


def length_of(values: Mapping[str, Any], device: str) -> int:
    """The length of rehearsed rows, in positions."""
    wanted = values.get("sequence_len")
    wanted = wanted if isinstance(wanted, int) and wanted > 0 else SEQUENCE_LEN
    rows = values.get("micro_batch_size")
    rows = rows if isinstance(rows, int) and rows > 0 else 1
    kind = device.partition(":")[0]
    return min(wanted, LENGTHS[kind], max(SHORTEST, POSITIONS[kind] // rows))


def rehearsed(
    file: Mapping[str, Any],
    merged: Mapping[str, Any],
    flags: Iterable[tuple[str, Any]],
    places: Places,
    device: str,
) -> Rehearsed:
    """The configuration to rehearse: `file` is the user's, `merged` the same under `flags`, as Axolotl merges them.

    What is replaced is written into the file, so that a `strict` configuration takes it, and the flags that would set
    it again are gone.
    """
    from entrypoint.rehearsal.events import ChangedEvent  # only for the child

    length = length_of(merged, device)
    changes = _changes(places, length)
    changes |= {key: _without_sizes(merged[key]) for key in _OVERRIDES if isinstance(merged.get(key), Mapping)}
    dropped = _GONE | _OFF.keys() | changes.keys()
    kept = {key: value for key, value in file.items() if key not in dropped}
    return Rehearsed(
        values={**kept, **{key: value for key, value in changes.items() if value is not None}},
        flags=tuple((key, value) for key, value in flags if key.partition("__")[0] not in dropped),
        event=ChangedEvent(reduced=tuple(_said(merged, length)), off=tuple(_off(merged))),
    )


def _changes(places: Places, length: int) -> dict[str, Any]:
    return {
        "base_model": places.model,
        "datasets": [{"path": places.data, "ds_type": "json", "type": None}],
        "dataset_prepared_path": places.prepared,
        "output_dir": places.output,
        "dataset_num_proc": 1,
        "val_set_size": 0,
        "sequence_len": length,
        "gradient_accumulation_steps": 1,
        "batch_size": None,
        "max_steps": STEPS,
        "num_epochs": 1,
        "warmup_steps": None,
        "warmup_ratio": None,
        "logging_steps": 1,
        "save_strategy": "no",
        "save_first_step": False,
        "dataloader_num_workers": 0,
        "dataloader_prefetch_factor": None,
        "dataloader_persistent_workers": None,
        "seed": 42,
    }


def _said(merged: Mapping[str, Any], length: int) -> Iterable[str]:
    wanted = merged.get("sequence_len")
    if isinstance(wanted, int) and wanted > length:
        yield f"rows of {length} instead of {wanted} positions"
    steps = merged.get("gradient_accumulation_steps")
    if isinstance(steps, int) and steps > 1:
        yield f"a step after each batch instead of after {steps}"
    yield from (f"{name} is off" for name in _off(merged))


def _off(merged: Mapping[str, Any]) -> Iterable[str]:
    return dict.fromkeys(name for key, name in _OFF.items() if merged.get(key))


def _without_sizes(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in overrides.items() if key not in _SIZES}
