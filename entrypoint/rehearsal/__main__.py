"""The child's one run: import, model, data, configuration, load, observe, compare, steps; each stage an event."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, get_args

from entrypoint.events import KernelsEvent
from entrypoint.rehearsal import compare, configuration, hub, material, reference, training
from entrypoint.rehearsal.events import (
    NAMES,
    AskedEvent,
    BatchEvent,
    EndEvent,
    LeftEvent,
    Part,
    RaisedEvent,
    RehearsalEvent,
    ShrunkEvent,
    Stage,
    StageEvent,
    StepsEvent,
    encode,
)
from entrypoint.rehearsal.shrink import NotShrinkable, shrink

if TYPE_CHECKING:
    from torch import Tensor

PARTS: Final[tuple[Part, ...]] = get_args(Part)
LONGEST_REASON: Final = 4000
HERE: Final = str(Path(__file__).parent)


class Log:
    """The stream of events, and the seconds of each stage so far."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._written: Counter[str] = Counter()
        self._stage: Stage = "import"
        self._began = time.perf_counter()
        self.part: Part = "run"
        self.seconds: dict[str, float] = {}

    @classmethod
    def take(cls, descriptor: int) -> Log:
        """Write to `descriptor`; all else that this process prints on stdout goes to stderr."""
        private = os.dup(descriptor)
        os.dup2(2, 1)
        return cls(os.fdopen(private, "w", encoding="utf-8"))

    def emit(self, event: RehearsalEvent) -> None:
        self._stream.write(encode(event) + "\n")
        self._stream.flush()
        self._written[NAMES[type(event)]] += 1

    @property
    def stage(self) -> Stage:
        return self._stage

    def enter(self, name: Stage, part: Part = "run") -> None:
        """Say what is about to be done; the time since the last such word was the last stage's."""
        self._count()
        self._stage, self.part = name, part
        self.emit(StageEvent(name=name, detail=part))

    def end(self, peak: int | None) -> None:
        self._count()
        self.emit(EndEvent(seconds=self.seconds, peak=peak, written=dict(self._written)))

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._began
        self._began = now


class Left(Exception):
    """Nothing more can be rehearsed, for the reason in the message."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What Axolotl made of the configuration. `begin`: the weights from which each run of steps starts."""

    cfg: Any
    rows: Any
    model: Any
    tokenizer: Any
    adapter: Any
    begin: Mapping[str, Tensor]

    def trainer(self) -> Any:
        return training.trainer_of(self.cfg, self.rows, self.model, self.tokenizer, self.adapter)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 whenever the events tell the whole story."""
    options = parse(argv)
    log = Log.take(options.events)
    hub.refuse(lambda host, by: log.emit(AskedEvent(host=host, by=by)))
    peak = None
    with tempfile.TemporaryDirectory(prefix="attn-rehearsal-") as folder:
        try:
            rehearse(options, Path(folder), log)
            peak = _peak(options.device)
        except Left as reason:
            log.emit(LeftEvent(reason=str(reason)))
    log.end(peak)
    log_and_go()
    return 0


def log_and_go() -> None:
    """Leave without the goodbyes of threads and pools, which can take seconds."""
    sys.stderr.flush()
    os._exit(0)


def rehearse(options: argparse.Namespace, folder: Path, log: Log) -> None:
    """All stages in their order. Raises Left; every other exception of theirs is an event."""
    log.enter("import")
    training.imported()
    merged = json.loads(options.merged)
    flags = [(str(key), value) for key, value in json.loads(options.flags)]
    log.enter("model")
    with left_if_it_raises("the small model cannot be built"):
        write_small(options, merged, folder, log)
    log.enter("configuration")
    cfg = configured(options, merged, flags, folder, log)
    log.enter("data")
    packed = bool(cfg.sample_packing)
    with left_if_it_raises("Axolotl did not take the synthetic data"):
        count = (configuration.STEPS + 1) * max(1, int(cfg.micro_batch_size or 1))
        rows = training.rows_of(cfg, material.documents(count, cfg.sequence_len, packed=packed, seed=options.seed))
    loaded = load(options, cfg, rows, folder, log)
    if loaded is not None:
        run(options, loaded, log)


def write_small(options: argparse.Namespace, merged: Mapping[str, Any], folder: Path, log: Log) -> None:
    """The small model and its tokenizer in `folder`, in a folder that is named as the user's model is: Axolotl takes
    some decisions by that name."""
    from transformers import AutoConfig

    full = AutoConfig.from_pretrained(options.model)
    values = {**full.to_dict(), **(merged.get("model_config") or merged.get("overrides_of_model_config") or {})}
    length = configuration.length_of(merged, options.device)
    try:
        small = shrink(values, free_head_dim=takes_head_dim(full), length=length)
    except NotShrinkable as error:
        raise Left(f"its model cannot be made small: {error}") from error
    place = model_folder(folder, merged)
    place.mkdir(parents=True)
    material.write_tokenizer(place)
    material.write_model(place, full.model_type, small.values)
    log.emit(
        ShrunkEvent(
            type=full.model_type,
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
    )


def takes_head_dim(config: Any) -> bool:
    """Whether the model's code reads head_dim where its configuration has one."""
    import inspect

    from transformers import AutoModelForCausalLM

    classes = AutoModelForCausalLM._model_mapping
    if type(config) not in classes:
        raise Left(f"transformers has no causal language model of the type {config.model_type}")
    module = inspect.getmodule(classes[type(config)])
    text = inspect.getsource(module) if module else ""
    return "config.head_dim" in text or '"head_dim"' in text


def model_folder(folder: Path, merged: Mapping[str, Any]) -> Path:
    name = str(merged.get("base_model") or "model").strip("/").replace("..", "_")
    return folder / "models" / name


def configured(
    options: argparse.Namespace, merged: dict[str, Any], flags: list[tuple[str, Any]], folder: Path, log: Log
) -> Any:
    """The configuration as Axolotl completes it. Raises Left after an exception that the user's own file raises, too,
    which is an event, and after one of the rehearsal's own."""
    import yaml

    places = configuration.Places(
        model=str(model_folder(folder, merged)),
        data=str(folder / "data.jsonl"),
        prepared=str(folder / "prepared"),
        output=str(folder / "out"),
    )
    file = yaml.safe_load(Path(options.config).read_text(encoding="utf-8"))
    made = configuration.rehearsed(file, merged, flags, places, options.device)
    path = folder / "config.yml"
    path.write_text(json.dumps(made.values, default=str), encoding="utf-8")
    try:
        return training.load(path, dict(made.flags))
    except Exception as error:
        if training.refusal(options.config, dict(flags)) is None:
            raise Left(f"Axolotl does not take what the rehearsal replaced: {last_line(error)}") from error
        log.emit(raised(error, log))
        raise Left("Axolotl refuses the configuration") from error


def load(options: argparse.Namespace, cfg: Any, rows: Any, folder: Path, log: Log) -> Loaded | None:
    """The model and a first trainer. An exception is an event, and so is the same with plain attention, if it comes."""
    log.enter("load")
    try:
        return loaded(cfg, rows)
    except Exception as error:  # noqa: BLE001  (whatever it is, the run meets it too)
        log.emit(raised(error, log))
    log.enter("load", "reference")
    plain = cfg.__class__(cfg)
    for key in ("flash_attention", "flex_attention", "sdp_attention", "xformers_attention", "sage_attention"):
        plain[key] = None
    plain.attn_implementation = "eager"
    try:
        loaded(plain, rows)
    except Exception as error:  # noqa: BLE001  (the same, or another one)
        log.emit(raised(error, log))
    return None


def loaded(cfg: Any, rows: Any) -> Loaded:
    model, tokenizer, adapter = training.model_of(cfg)
    reference.register()
    compare.wake(model)
    whole = Loaded(cfg=cfg, rows=rows, model=model, tokenizer=tokenizer, adapter=adapter, begin=compare.weights(model))
    training.trainer_of(cfg, rows, model, tokenizer, adapter)
    return whole


def run(options: argparse.Namespace, loaded: Loaded, log: Log) -> None:
    """Compare on the first batch, then make the steps with each attention. What the run's attention raises is an event,
    and so is what plain attention raises after it."""
    for part in PARTS:
        losses: list[float | None] = []
        compare.restore(loaded.model, loaded.begin)
        first = (lambda *step: compare_all(options, loaded, log, *step)) if part == "run" else None
        try:
            with_steps(loaded, part, losses, first, log)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is the outcome)
            log.emit(raised(error, log))
            if part == "run" and log.part == "run":
                log.enter("steps", "reference")
                plainly(loaded, log)
            return
        log.emit(StepsEvent(part=part, losses=tuple(losses)))


def plainly(loaded: Loaded, log: Log) -> None:
    """Whether the steps that the run's attention could not make go through with plain attention."""
    compare.restore(loaded.model, loaded.begin)
    losses: list[float | None] = []
    try:
        with_steps(loaded, "reference", losses, None, log)
    except Exception as error:  # noqa: BLE001  (the same, or another one)
        log.emit(raised(error, log))
        return
    log.emit(StepsEvent(part="reference", losses=tuple(losses)))


First = Callable[[Any, Any, Mapping[str, Any], Callable[[], "Tensor"]], None]


def with_steps(loaded: Loaded, part: Part, losses: list[float | None], first: First | None, log: Log) -> None:
    """Axolotl's trainer makes its steps with the attention `part`; `first` is called with the first one before it."""
    pending = [first] if first else []

    def step(trainer: Any, model: Any, batch: Mapping[str, Any], own: Callable[[], Tensor]) -> Tensor:
        if pending:
            pending.pop()(trainer, model, batch, own)  # type: ignore[misc]  # `first` was checked
        if log.stage != "steps" or log.part != part:
            log.enter("steps", part)
        reference.tell(batch)
        loss = own()
        losses.append(float(loss.detach().float()))
        return loss

    compare.seed()
    trainer = loaded.trainer()
    with reference.attention(loaded.model, compare.NAMES[part]):
        training.train(trainer, step)


def compare_all(
    options: argparse.Namespace,
    loaded: Loaded,
    log: Log,
    trainer: Any,
    model: Any,
    batch: Mapping[str, Any],
    own: Callable[[], Tensor],
) -> None:
    """Everything about the first batch: which kernels run, how loss and gradients differ, what leaks."""
    batch = trainer._prepare_inputs(dict(batch))
    log.emit(batch_event(loaded, batch))
    log.enter("observe")
    observe(options, trainer, model, batch, own, log)
    passes: dict[Part, compare.Pass] = {}
    for part in PARTS:
        log.enter("compare", part)
        before = reference.calls()
        passes[part] = compare.one_pass(trainer, model, batch, part, own)
        if part != "run" and reference.calls() == before:
            raise Left("the model does not call attention by transformers' table, so no other can be put into it")
    log.emit(compare.compared(passes["run"], passes["reference"], passes["baseline"]))
    log.enter("compare", "run")
    leak = compare.leak(model, batch)
    if leak is not None:
        log.emit(leak)


def batch_event(loaded: Loaded, batch: Mapping[str, Any]) -> BatchEvent:
    rows, length = batch["input_ids"].shape
    positions = batch.get("position_ids")
    starts = int((positions == 0).sum()) if positions is not None and positions.ndim == 2 else rows
    config = loaded.model.config
    return BatchEvent(
        rows=rows,
        length=length,
        documents=starts,
        attention=str(config._attn_implementation),
        dtype=str(loaded.cfg.torch_dtype or config.dtype).removeprefix("torch."),
        packed=bool(loaded.cfg.sample_packing),
    )


def observe(
    options: argparse.Namespace, trainer: Any, model: Any, batch: Mapping[str, Any], own: Callable[[], Tensor], log: Log
) -> None:
    """Which kernels one forward and backward of the run launches; a profiler that fails is no fault of theirs."""
    import torch

    from entrypoint.probe import observe as profiler

    where = torch.device(options.device)
    compare.one_pass(trainer, model, batch, "run", own)  # compiles; and if it raises, it is the run that does
    try:
        seen = profiler.recorded(where, lambda: compare.one_pass(trainer, model, batch, "run", own))
    except Exception as error:  # noqa: BLE001  (profilers raise RuntimeError and more)
        log.emit(KernelsEvent(asked=options.backend, names=(), observed=None, recorded=0, reason=last_line(error)))
        return
    names = tuple(name for name in profiler.presentable(seen.names) if profiler.owners(name))
    observed = profiler.attribute(names, options.backend) if names and options.backend else None
    log.emit(KernelsEvent(asked=options.backend, names=names, observed=observed, recorded=seen.recorded))


@contextmanager
def left_if_it_raises(what: str) -> Iterator[None]:
    """An exception of the rehearsal's own making says nothing about the run."""
    try:
        yield
    except Left:
        raise
    except Exception as error:
        raise Left(f"{what}: {last_line(error)}") from error


def raised(error: BaseException, log: Log) -> RaisedEvent:
    """The event of an exception; its whole traceback goes to the child's output."""
    import torch

    traceback.print_exception(error)
    frames = traceback.extract_tb(error.__traceback__)
    text = f"{type(error).__name__}: {error}"
    return RaisedEvent(
        stage=log.stage,
        part=log.part,
        kind=type(error).__name__,
        reason=text[:LONGEST_REASON],
        where=f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "",
        out_of_memory=isinstance(error, torch.OutOfMemoryError),
    )


def last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]


def _peak(device: str) -> int | None:
    import torch

    return int(torch.cuda.max_memory_allocated()) if device.startswith("cuda") else None


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -P -m entrypoint.rehearsal",
        description="Run an Axolotl configuration on a shrunk model, with its own attention and with plain attention, "
        "and write what was measured as JSON lines (see entrypoint/rehearsal/events.py). It never judges.",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the user's configuration")
    parser.add_argument("--flags", default="[]", metavar="JSON", help="the command line's: [[key, value], …]")
    parser.add_argument("--merged", required=True, metavar="JSON", help="the configuration under its flags")
    parser.add_argument("--model", required=True, metavar="DIR", help="the folder of the model's config.json")
    parser.add_argument("--device", required=True, help="torch's name for the device: cuda:0, cpu")
    parser.add_argument("--backend", default="", help="the backend that is expected to run")
    parser.add_argument("--seed", default=material.SEED, type=int, help="of the synthetic documents")
    parser.add_argument("--events", default=1, type=int, metavar="FD", help="file descriptor of the lines (default: 1)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
