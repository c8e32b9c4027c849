"""The lines that the measuring child writes and the parent reads: one JSON object a line, each of one type below.

Measuring never judges: an event holds numbers, names and reasons, and no event says whether they are good enough.
The child flushes each line when it has written it, so what it measured before it crashed or hung is not lost.

`encode` writes a line and `decode` reads one. A line that lacks a field, has one too many, or has one of another type
is garbled as a whole: what comes out of `decode` can be used without another look. JSON has no NaN and no infinity, so
`encode` writes null for a number that is not finite; where that can happen, the field's type says so.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Phase = Literal["import", "machine", "compile", "correctness", "observe", "performance"]
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
# Kernels run on the device in these phases: a crash or a hang there is the device's or the kernel's.
KERNEL_PHASES: Final = ("compile", "correctness", "observe", "performance")
# What cannot be used, of an UnusableEvent.
Subject = Literal["torch", "device", "backend"]
# start: what decides whether this run can start, in seconds. deep: everything.
Depth = Literal["start", "deep"]
Direction = Literal["forward", "backward"]
DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)
Dtype = Literal["bfloat16", "float16", "float32"]
TensorName = Literal["out", "dq", "dk", "dv", "lse"]


class Garbled(ValueError):
    """A line is no event; the message says why."""


@dataclass(frozen=True, kw_only=True)
class PhaseEvent:
    """What the child is about to do; `detail` is such as a case's id. A phase may come more than once."""

    name: Phase
    detail: str


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """The device as torch and the driver report it. Memory is in bytes.

    `uuid` is as nvidia-smi writes it, `capability` such as "9.0", or AMD's "gfx942". A CPU has none of `uuid`,
    `capability` and `driver`.
    """

    index: int
    name: str
    uuid: str | None
    capability: str | None
    driver: str | None
    memory_total: int
    memory_free: int


@dataclass(frozen=True, kw_only=True)
class MachineEvent:
    """Versions of Python and torch, `packages` {distribution: installed version}, and the device."""

    python: str
    torch: str
    packages: Mapping[str, str]
    device: DeviceFacts


@dataclass(frozen=True, kw_only=True)
class UnusableEvent:
    """torch, the device or the backend cannot be used here at all, so no case follows.

    `reason` is the exception's type and message, of up to some thousand characters and many lines.
    """

    subject: Subject
    reason: str


@dataclass(frozen=True, kw_only=True)
class FirstCallEvent:
    """`seconds` of the first forward and backward of the kernel variant of case `id`, compilation included."""

    id: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TensorErrors:
    """How far one tensor is from the float64 reference, in the tensor's own unit; null is a number that is not finite.

    `error` and `baseline` are the largest absolute differences, of the backend and of plain torch in the same dtype;
    `relative` and `baseline_relative` are the same two as L2 norms divided by the reference's norm. `scale` is the
    reference's largest absolute value. `finite` says whether every value of the backend's tensor is.
    """

    error: float | None
    baseline: float | None
    relative: float | None
    baseline_relative: float | None
    scale: float | None
    finite: bool


@dataclass(frozen=True, kw_only=True)
class CaseEvent:
    """What one case measured. A case of a forced kernel has the kernel's name before its id: cudnn:causal-d64.

    `dtype` is torch's name of it, `inputs` the family of the inputs, `seconds` those of the whole case. `tensors` has
    out, dq, dk and dv, and lse where the backend offers the logsumexp; a gradient that does not exist is null, and then
    `no_gradient` is the reason. `mutated` names which of q, k, v and dout the backend wrote into. `repeatable` says
    whether the same call gave the same bits again, null where the backend does not claim to be deterministic.
    `relative_error` is the L2 error that the backend has by its design, null where that is its dtype's rounding.
    """

    id: str
    dtype: Dtype
    inputs: str
    seconds: float
    tensors: Mapping[TensorName, TensorErrors | None]
    no_gradient: str | None = None
    mutated: tuple[str, ...] = ()
    repeatable: bool | None = None
    relative_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class CaseErrorEvent:
    """A case, or a measurement of speed, that raised; `reason` is as in UnusableEvent."""

    id: str
    reason: str
    out_of_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class KernelsEvent:
    """Which kernels ran when `asked` was called: the backend, or one of its kernels, forced, such as sdpa-cudnn.

    `names` are the profiler's, long ones cut. `observed` is what they belong to, in the words of `asked`, null when no
    rule knows them. `recorded` counts all events that the profiler saw, of attention or not. `reason` says why the
    profiler failed.
    """

    asked: str
    names: tuple[str, ...]
    observed: str | None
    recorded: int
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class HealthEvent:
    """What NVML says of a GPU, null where it says nothing. It may come again; the last one counts.

    `temperature` is in degrees Celsius, power in watts, the clocks of the multiprocessors (sm) in MHz. `throttle` names
    what held the clocks back under load, an idle clock apart. `ecc_uncorrected` counts volatile memory errors. `xids`
    are the driver's error numbers since the check began, `other_processes` those that compute on this GPU beside the
    check. `reason` says why NVML could not be asked at all.
    """

    temperature: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    sm_megahertz: int | None = None
    sm_megahertz_max: int | None = None
    throttle: tuple[str, ...] | None = None
    ecc_uncorrected: int | None = None
    row_remap_pending: bool | None = None
    row_remap_failed: bool | None = None
    xids: tuple[int, ...] | None = None
    other_processes: int | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class CeilingEvent:
    """One square bf16 matrix product: median seconds, samples of `planned`, and 2 n^3 FLOPs over that median.

    A CPU has none, and no BandwidthEvent.
    """

    matmul_tflops: float
    seconds: float
    samples: tuple[float, ...]
    planned: int


@dataclass(frozen=True, kw_only=True)
class BandwidthEvent:
    """One copy within the device's memory: median seconds, samples of `planned`, and GB/s (10^9) over that median.

    A byte counts twice: it is read, and it is written.
    """

    gigabytes_per_second: float
    seconds: float
    samples: tuple[float, ...]
    planned: int


@dataclass(frozen=True, kw_only=True)
class SpeedEvent:
    """One direction of one attention call: median seconds, all samples, and the convention's FLOPs over that median.

    `call` is its shape in words. `planned` is how many samples there were to be: slow calls get fewer.
    """

    id: str
    direction: Direction
    call: str
    tflops: float
    seconds: float
    samples: tuple[float, ...]
    planned: int


@dataclass(frozen=True, kw_only=True)
class ComparisonEvent:
    """Least seconds of one direction of the call of `id`, the backend and torch's other kernels taking turns.

    `others` {name: seconds}: flash and efficient are SDPA's kernels, forced; plain is attention written out, its time
    scaled up where it got a part of the heads.
    """

    id: str
    direction: Direction
    own: float
    others: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class DoneEvent:
    """The child's last line. `seconds` {phase: seconds spent in it}.

    `left_out` are the ids of all cases that were not run, for want of time. `written` {event: how many lines of it
    came before this one} tells the reader what got lost. `deeper` are the ids of what only a deeper check runs.
    """

    seconds: Mapping[str, float]
    left_out: tuple[str, ...]
    written: Mapping[str, int]
    deeper: tuple[str, ...] = ()


Event = (
    PhaseEvent
    | MachineEvent
    | UnusableEvent
    | FirstCallEvent
    | CaseEvent
    | CaseErrorEvent
    | KernelsEvent
    | HealthEvent
    | CeilingEvent
    | BandwidthEvent
    | SpeedEvent
    | ComparisonEvent
    | DoneEvent
)
NAMES: Final[Mapping[type[Event], str]] = {
    PhaseEvent: "phase",
    MachineEvent: "machine",
    UnusableEvent: "unusable",
    FirstCallEvent: "first_call",
    CaseEvent: "case",
    CaseErrorEvent: "case_error",
    KernelsEvent: "kernels",
    HealthEvent: "health",
    CeilingEvent: "ceiling",
    BandwidthEvent: "bandwidth",
    SpeedEvent: "speed",
    ComparisonEvent: "comparison",
    DoneEvent: "done",
}
TYPES: Final = {name: kind for kind, name in NAMES.items()}


def encode(event: Event) -> str:
    """The event as one line of JSON, without its end."""
    return encode_as(NAMES[type(event)], event)


def encode_as(name: str, event: DataclassInstance) -> str:
    """An event of another child under its name, by the same rules."""
    return json.dumps({"event": name, **_plain(asdict(event))}, allow_nan=False)


def decode(line: bytes) -> Event:
    """The event in a line. Raises Garbled."""
    event: Event = decode_as(line, TYPES)
    return event


def decode_as(line: bytes, types: Mapping[str, type]) -> Any:
    """The event in a line of another child, whose events by name are `types`. Raises Garbled."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Garbled(f"no JSON: {error}") from error
    kind = types.get(str(document.pop("event", None))) if isinstance(document, dict) else None
    if kind is None:
        raise Garbled("no event that is known")
    return _object(kind, document)


def _plain(value: object) -> Any:
    """JSON has no NaN or infinity: a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _object(kind: Any, document: dict[str, Any]) -> Any:
    """The dataclass `kind` with the fields of `document`; each must be there, those with a default too."""
    names = [field.name for field in fields(kind)]
    if document.keys() != set(names):
        raise Garbled(f"{kind.__name__} has the fields {', '.join(names)}, not {', '.join(document)}")
    return kind(**{name: _value(_hints(kind)[name], document[name], name) for name in names})


def _value(kind: Any, value: object, name: str) -> Any:
    """`value`, as JSON gave it, in the type of the field `name`. Raises Garbled."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:  # X | None
        return None if value is None and NoneType in arguments else _value(arguments[0], value, name)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], item, name) for item in value)
    if origin is Mapping and isinstance(value, dict):
        return {_value(arguments[0], key, name): _value(arguments[1], item, name) for key, item in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        return _object(kind, value)
    if kind is float and type(value) in (int, float) and math.isfinite(number := float(str(value))):
        return number
    if kind is not float and type(value) is kind or origin is Literal and value in arguments:
        return value
    raise Garbled(f"{name} is {str(value)[:80]!r}, and should be {kind}")
