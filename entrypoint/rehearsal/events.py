"""The lines that the rehearsing child writes, by the rules of entrypoint.events. Standard library alone: the parent
reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from entrypoint.events import KernelsEvent, encode_as

Stage = Literal["import", "wait", "model", "data", "configuration", "load", "observe", "compare", "steps"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
# The run's attention is called in these: a crash or a hang there is what the run itself would meet.
RUNNING: Final = ("observe", "compare", "steps")
# Which attention was in the model: the run's own, the plain one of high precision, or the plain one of the run's.
Part = Literal["run", "reference", "baseline"]


@dataclass(frozen=True, kw_only=True)
class StageEvent:
    """What the child is about to do, with which attention where that matters."""

    name: Stage
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class ShrunkEvent:
    """The model that is rehearsed. `of_layers` is how many the user's has; `reduced` says in sentences what is less."""

    type: str
    layers: int
    of_layers: int
    kinds: tuple[str, ...]
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    reduced: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ChangedEvent:
    """What the configuration has less of while it is rehearsed, in sentences, and the keys of it that are off."""

    reduced: tuple[str, ...]
    off: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MemoryEvent:
    """The device's memory before the model is loaded, in bytes. `own` is what torch keeps for the rehearsal."""

    free: int
    total: int
    own: int


@dataclass(frozen=True, kw_only=True)
class BatchEvent:
    """The batch on which attentions are compared: its rows, their length, and how many documents they hold.

    `dropout`: the share of weights that the run's attention drops while it trains, though not while it is compared.
    """

    rows: int
    length: int
    documents: int
    attention: str
    dtype: str
    packed: bool
    dropout: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One parameter's gradient against the reference's, as L2 norms of differences over the reference's norm.

    `norm` is the reference's, `ratio` the run's norm over it. A number that is not finite is null. `missing`: the run
    has no gradient where the reference has one.
    """

    what: str
    error: float | None
    baseline: float | None
    norm: float | None
    ratio: float | None
    missing: bool = False


@dataclass(frozen=True, kw_only=True)
class ComparedEvent:
    """Losses of the same batch and weights under each attention, and every gradient of a trained parameter."""

    run: float | None
    reference: float | None
    baseline: float | None
    gradients: tuple[Difference, ...]


@dataclass(frozen=True, kw_only=True)
class LeakEvent:
    """How much the losses of later documents change when the first of their row does: the largest change, over the
    largest loss. `noise` is that of a second call on the same tokens."""

    documents: int
    run: float | None
    reference: float | None
    noise: float | None


@dataclass(frozen=True, kw_only=True)
class StepsEvent:
    """Losses of Axolotl's trainer, step by step, from the same weights and in the same order of rows."""

    part: Part
    losses: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class AskedEvent:
    """Something asked for a connection that leaves this machine, which was refused. `by` is where in whose code."""

    host: str
    by: str


@dataclass(frozen=True, kw_only=True)
class RaisedEvent:
    """An exception in `stage` with the attention `part` in the model. `own`: the rehearsal's own code raised it.

    `reason` is its type and message, `where` the file and line of the call that raised it.
    """

    stage: Stage
    part: Part
    kind: str
    reason: str
    where: str
    out_of_memory: bool


@dataclass(frozen=True, kw_only=True)
class LeftEvent:
    """The rehearsal ends here without a result, for this reason."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class EndEvent:
    """The child's last line. `peak` is the most memory of the device in use, in bytes; `written` counts the lines."""

    seconds: Mapping[str, float]
    peak: int | None
    written: Mapping[str, int]


RehearsalEvent = (
    StageEvent
    | ShrunkEvent
    | ChangedEvent
    | MemoryEvent
    | BatchEvent
    | ComparedEvent
    | LeakEvent
    | StepsEvent
    | KernelsEvent
    | AskedEvent
    | RaisedEvent
    | LeftEvent
    | EndEvent
)
NAMES: Final[Mapping[type[RehearsalEvent], str]] = {
    StageEvent: "stage",
    ShrunkEvent: "shrunk",
    ChangedEvent: "changed",
    MemoryEvent: "memory",
    BatchEvent: "batch",
    ComparedEvent: "compared",
    LeakEvent: "leak",
    StepsEvent: "steps",
    KernelsEvent: "kernels",
    AskedEvent: "asked",
    RaisedEvent: "raised",
    LeftEvent: "left",
    EndEvent: "end",
}
TYPES: Final[Mapping[str, type]] = {name: kind for kind, name in NAMES.items()}


def encode(event: RehearsalEvent) -> str:
    """The event as one line of JSON, without its end."""
    return encode_as(NAMES[type(event)], event)
