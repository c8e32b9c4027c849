"""The rehearsed run itself: Axolotl's trainer makes its steps, with its own attention and with plain attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, get_args

from entrypoint.events import KernelsEvent
from entrypoint.rehearsal import compare, reference, training
from entrypoint.rehearsal.compare import Call
from entrypoint.rehearsal.eventlog import Left, Stages, last_line
from entrypoint.rehearsal.events import BatchEvent, MemoryEvent, Part, StepsEvent
from entrypoint.rehearsal.prepare import Task

if TYPE_CHECKING:
    from torch import Tensor

PARTS: Final[tuple[Part, ...]] = get_args(Part)
_BOOLEANS: Final = ("flash_attention", "flex_attention", "sdp_attention", "xformers_attention", "sage_attention")


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
        """A new one, with the weights of the beginning."""
        compare.restore(self.model, self.begin)
        compare.seed()
        return training.trainer_of(self.cfg, self.rows, self.model, self.tokenizer, self.adapter)


def load(task: Task, cfg: Any, rows: Any, log: Stages) -> Loaded | None:
    """The model, after a first trainer was made of it. An exception is an event, and so is the one that comes with
    plain attention, too; then there is nothing to run."""
    log.enter("load")
    try:
        if (memory := memory_of(task.device)) is not None:
            log.emit(memory)
        return _loaded(cfg, rows)
    except Exception as error:  # noqa: BLE001  (whatever it is, the run meets it too)
        log.raised(error)
    log.enter("load", "reference")
    plain = type(cfg)(cfg)
    for key in _BOOLEANS:
        plain[key] = None
    plain.attn_implementation = "eager"
    try:
        _loaded(plain, rows)
    except Exception as error:  # noqa: BLE001  (the same, or another one)
        log.raised(error)
    return None


def memory_of(device: str) -> MemoryEvent | None:
    """What the device has left; None for a CPU."""
    import torch

    if not device.startswith("cuda"):
        return None
    free, total = torch.cuda.mem_get_info(device)
    return MemoryEvent(free=free, total=total, own=torch.cuda.memory_reserved(device))


def _loaded(cfg: Any, rows: Any) -> Loaded:
    model, tokenizer, adapter = training.model_of(cfg)
    reference.register()
    compare.wake(model)
    found = Loaded(cfg=cfg, rows=rows, model=model, tokenizer=tokenizer, adapter=adapter, begin=compare.weights(model))
    found.trainer()
    return found


def run(task: Task, loaded: Loaded, log: Stages) -> None:
    """Compare on the first batch, then make the steps with each attention. What the run's attention raises is an event,
    and so is what plain attention raises after it. Raises Left."""
    for part in PARTS:
        try:
            steps = _steps(loaded, part, log, _first(task, loaded, log) if part == "run" else None)
        except Left:
            raise
        except Exception as error:  # noqa: BLE001  (whatever it is, it is the outcome)
            log.raised(error)
            if log.part == "run":
                _plainly(loaded, log)
            return
        log.emit(StepsEvent(part=part, losses=tuple(steps)))


def _plainly(loaded: Loaded, log: Stages) -> None:
    """Whether the steps that the run's attention could not make go through with plain attention."""
    log.enter("steps", "reference")
    try:
        steps = _steps(loaded, "reference", log, None)
    except Exception as error:  # noqa: BLE001  (the same, or another one)
        log.raised(error)
        return
    log.emit(StepsEvent(part="reference", losses=tuple(steps)))


def _steps(loaded: Loaded, part: Part, log: Stages, first: Callable[[Call], None] | None) -> list[float | None]:
    """The losses of the trainer's steps with the attention `part`; `first` is called with the first, before it."""
    losses: list[float | None] = []

    def step(call: Call) -> Tensor:
        if not losses and first is not None:
            first(call)
        if log.stage != "steps" or log.part != part:
            log.enter("steps", part)
        reference.tell(call.batch)
        compare.seed(len(losses))
        loss = call.own()
        losses.append(float(loss.detach().float()))
        return loss

    def called(trainer: Any, model: Any, batch: Mapping[str, Any], own: Callable[[], Tensor]) -> Tensor:
        return step(Call(trainer=trainer, model=model, batch=batch, own=own))

    trainer = loaded.trainer()
    with reference.attention(loaded.model, compare.NAMES[part]):
        training.train(trainer, called)
    return losses


def _first(task: Task, loaded: Loaded, log: Stages) -> Callable[[Call], None]:
    """Everything about the first batch: which kernels run, how loss and gradients differ, what leaks."""

    def first(call: Call) -> None:
        log.emit(_batch(loaded, call.batch))
        log.enter("compare")  # and compile: the profiler shall see the kernels alone
        passes: dict[Part, compare.Pass] = {"run": compare.one_pass(call, "run")}
        log.peak = _peak(task.device)
        log.enter("observe")
        log.emit(_observed(task, call))
        for part in PARTS[1:]:
            log.enter("compare", part)
            before = reference.calls()
            passes[part] = compare.one_pass(call, part)
            if reference.calls() == before:
                raise Left("the model does not call attention by transformers' table, so no other can be put into it")
        log.emit(compare.compared(passes["run"], passes["reference"], passes["baseline"]))
        log.enter("compare")
        if (leak := compare.leak(call.model, call.trainer._prepare_inputs(dict(call.batch)))) is not None:
            log.emit(leak)

    return first


def _batch(loaded: Loaded, batch: Mapping[str, Any]) -> BatchEvent:
    rows, length = batch["input_ids"].shape
    documents = reference.layout_of(batch).documents
    config = loaded.model.config
    return BatchEvent(
        rows=rows,
        length=length,
        documents=rows if documents is None else int(documents[:, -1].sum()),
        attention=str(config._attn_implementation),
        dtype=str(loaded.cfg.torch_dtype or config.dtype).removeprefix("torch."),
        packed=bool(loaded.cfg.sample_packing),
        dropout=compare.attention_dropout(loaded.model),
    )


def _peak(device: str) -> int | None:
    """The most memory of the device that torch held so far, in bytes; None on a CPU."""
    import torch

    return int(torch.cuda.max_memory_allocated()) if device.startswith("cuda") else None


def _observed(task: Task, call: Call) -> KernelsEvent:
    """Which kernels one forward and backward of the run launches; a profiler that fails is no fault of theirs."""
    import torch

    from entrypoint.probe import observe

    def once() -> object:
        return compare.one_pass(call, "run")

    try:
        with _counted(torch.nn.functional, "scaled_dot_product_attention") as sdpa:
            seen = observe.recorded(torch.device(task.device), once)
    except Exception as error:  # noqa: BLE001  (profilers raise RuntimeError and more)
        return KernelsEvent(asked=task.backend, names=(), observed=None, recorded=0, reason=last_line(error))
    names = tuple(name for name in observe.presentable(seen.names) if observe.owners(name))
    observed = observe.attribute(names, task.backend) if task.backend else None
    # A model has products and softmaxes beside attention, so only the absence of all else tells that it is taken apart.
    if task.backend and not names and seen.recorded and not (task.backend == "sdpa" and sdpa):
        observed = f"{task.backend}-unfused"
    return KernelsEvent(asked=task.backend, names=names, observed=observed, recorded=seen.recorded)


@contextmanager
def _counted(module: Any, name: str) -> Iterator[list[str]]:
    """A list that grows by one with each call of a function."""
    calls: list[str] = []
    real = getattr(module, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        return real(*arguments, **options)

    setattr(module, name, counted)
    try:
        yield calls
    finally:
        setattr(module, name, real)
