"""What a rehearsal found: events in, one finding out. Pure.

A false alarm stops somebody's training, so what is not certain is no failure: then the run was not rehearsed, and the
reason says why.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from entrypoint.judge.budgets import FLOAT32, ROUNDOFF
from entrypoint.judge.cause import cause
from entrypoint.judge.finding import Code, Finding, gpu_fault, wrong
from entrypoint.rehearsal.events import Difference, RaisedEvent
from entrypoint.rehearsal.outcome import Rehearsal

if TYPE_CHECKING:
    from entrypoint.preflight.flight import Flight

# Every numeric tolerance of a rehearsal stands here.
#
# A loss or gradient of the whole model is off by what rounding in attention becomes on its way through all layers. How
# much that is, the baseline measures in the same model: plain attention in the run's own precision, in another order.
# So a budget is a multiple of the baseline's error, as FlashAttention's rule has it (judge/budgets.py), plus roundings.
MULTIPLE: Final = 4.0
ROUNDINGS: Final = 4.0
# One parameter's baseline can be small by luck: that of all parameters in the middle stands in for it.
# A gradient far smaller than the largest one is mostly rounding of what it is a part of: its budget has this share of
# a rounding at the scale of the largest.
SMALL: Final = 0.01
# Losses of later steps, over the reference's: the weights differ by then, by rounding alone, and Adam's first steps are
# of one size whatever the gradient's.
STEP: Final = 5.0e-3
# What one document may change in the losses of another: nothing. A rounding of it comes from another order of sums.
LEAK: Final = 1.0e-4
LEAK_MULTIPLE: Final = 4.0
# A gradient of less than this share of the reference's norm is cut, not wrong.
CUT: Final = 0.05
# What Axolotl, peft and transformers raise for a configuration that they do not take. Anything else may come from what
# was made small.
_REFUSALS: Final = frozenset(
    {"ValueError", "ImportError", "ModuleNotFoundError", "AssertionError", "NotImplementedError"}
)
HUBS: Final = ("huggingface.co", "hf.co", "modelscope.cn")
_LEAK_RULES: Final = ("P01", "P02", "P03", "P04", "P06", "P09", "P10")


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A loss or gradient against its budget, both as shares of the reference's."""

    what: str
    error: float
    budget: float
    kind: Literal["loss", "gradient", "step"]
    missing: bool = False

    @property
    def ratio(self) -> float:
        return self.error / self.budget

    @property
    def within(self) -> bool:
        return self.ratio <= 1.0  # NaN is not


def judge(flight: Flight, outcome: Rehearsal, limit: float) -> Finding:
    """The one finding that decides. `limit` is ATTN_TIMEOUT in seconds."""
    for found in (
        _asked(flight, outcome),
        _raised(flight, outcome),
        _fault(outcome, limit),
        _leaks(outcome),
        _numbers(outcome),
        _kernel(outcome),
        _ended(outcome, limit),  # what it measured before counts, where it is wrong
        _left(outcome),
    ):
        if found is not None:
            return _accepted(flight, _advised(flight, found))
    return Finding(verdict="PASS", code=Code.PASS, kind="rehearsed", what=_all_right(outcome))


def not_rehearsed(reason: str, kind: str = "not rehearsed") -> Finding:
    """Nothing is known, and the start goes on."""
    return Finding(verdict="NOT_CHECKED", code=Code.PASS, kind=kind, what=f"Not rehearsed: {reason}.")


def _all_right(outcome: Rehearsal) -> str:
    steps = len(outcome.steps["run"].losses) if "run" in outcome.steps else 0
    shrunk = outcome.shrunk
    model = f"{shrunk.type} with {shrunk.layers} layers" if shrunk else "the model"
    return f"Rehearsed {steps} steps of {model}: loss and gradients as plain attention's."


# --- what ended it ------------------------------------------------------------------------------------------------


def _asked(flight: Flight, outcome: Rehearsal) -> Finding | None:
    """A hub's files would take part in the run unchecked. Another host is only named in the report; but what it keeps
    from running is not known."""
    hubs = [asked for asked in outcome.asked if _is_hub(asked.host, flight.facts.environ)]
    if hubs and flight.facts.environ.get("USE_HUB_KERNELS", "0") in {"0", ""}:
        what = f"The run asks {hubs[0].host} while it loads or trains ({hubs[0].by}): what comes would run unchecked."
        advice = "Take an image that holds what is asked for, or set HF_HUB_OFFLINE=1 if the run can do without it."
        return Finding(verdict="FAIL", code=Code.CONFIG, kind="hub", what=what, advice=advice)
    if outcome.asked and outcome.raised:
        return not_rehearsed(f"it needs {outcome.asked[0].host} ({outcome.asked[0].by})")
    return None


def _is_hub(host: str, environ: Mapping[str, str]) -> bool:
    endpoint = environ.get("HF_ENDPOINT", "").partition("://")[2].partition("/")[0].partition(":")[0]
    return any(host == name or host.endswith(f".{name}") for name in (*HUBS, *filter(None, [endpoint])))


def _raised(flight: Flight, outcome: Rehearsal) -> Finding | None:
    """With the run's own attention alone: attention's fault. With plain attention too: the configuration's, or ours."""
    if not outcome.raised:
        return None
    first, *later = outcome.raised
    said = cause(first.reason)
    if first.out_of_memory and first.part == "run":
        return _memory(flight, outcome, first)
    if first.part != "run":
        return not_rehearsed(f"plain attention does not run here ({said})")
    if first.stage == "configuration":
        return _refused(f"Axolotl refuses {flight.facts.config.path}: {said}", first)
    if not later and (first.stage == "load" or "reference" in outcome.steps):
        when = "while it loads the model" if first.stage == "load" else _when(outcome, first)
        return wrong("crash", f"The training would crash {when}, in attention: {said}", log=first.reason)
    certain = later and later[0].kind == first.kind in _REFUSALS and not outcome.off
    what = f"The training would not start, with whatever attention: {said}"
    return _refused(what, first) if certain else not_rehearsed(f"the small model does not train ({said})")


def _refused(what: str, raised: RaisedEvent) -> Finding:
    return Finding(verdict="FAIL", code=Code.CONFIG, kind="refused", what=what, log=raised.reason)


def _when(outcome: Rehearsal, raised: RaisedEvent) -> str:
    return "at a later step" if raised.stage == "steps" and outcome.compared is not None else "at its first step"


def _memory(flight: Flight, outcome: Rehearsal, raised: RaisedEvent) -> Finding:
    layers = f"{outcome.shrunk.layers} of {outcome.shrunk.of_layers} layers" if outcome.shrunk else "few layers"
    rows = f"micro_batch_size {flight.facts.rows}"
    what = f"The device's memory runs out at {rows} with {layers} alone: {cause(raised.reason)}"
    advice = "Write a smaller micro_batch_size or sequence_len, or end what else holds the device's memory."
    return Finding(verdict="FAIL", code=Code.CONFIG, kind="memory", what=what, advice=advice, log=raised.reason)


def _fault(outcome: Rehearsal, limit: float) -> Finding | None:
    """A crash or a hang while the run's own attention is called: the training would meet it too."""
    slow = outcome.overrun is not None and outcome.overrun.computing
    if not outcome.in_attention or slow or _no_memory(outcome) or outcome.ending not in {"killed", "timeout"}:
        return None
    what = f"The rehearsal {_how(outcome, limit)} in {outcome.phase} with the run's own attention on {outcome.device},"
    advice = "Start the job on another node; if it ends so there too, use another attention."
    return gpu_fault("ended", f"{what} as the training would.", advice)


def _ended(outcome: Rehearsal, limit: float) -> Finding | None:
    """A child without a last word, or with words that were lost."""
    if outcome.ending == "done":
        return not_rehearsed("what it measured did not all arrive") if outcome.lost else None
    if _no_memory(outcome):
        return not_rehearsed(f"the container's memory ran out in {outcome.phase}")
    if outcome.overrun and outcome.overrun.computing:
        lasted = f"{outcome.overrun.lasted:.0f} s so far"
        where = f"in {outcome.phase}, for {lasted}"
        return not_rehearsed(f"no time: after {limit:g} s (ATTN_TIMEOUT) it was computing {where}")
    return not_rehearsed(f"the rehearsal {_how(outcome, limit)} in {outcome.phase}")


def _no_memory(outcome: Rehearsal) -> bool:
    return outcome.out_of_memory or outcome.ending == "killed" and outcome.number == signal.SIGKILL


def _how(outcome: Rehearsal, limit: float) -> str:
    match outcome.ending:
        case "killed":
            return f"crashed with {_signal(outcome.number)}"
        case "timeout":
            return f"was not done after {limit:g} s (ATTN_TIMEOUT) and hung or waited"
        case _:
            return f"ended with code {outcome.number} and no result ({cause(outcome.log) or 'no output'})"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _left(outcome: Rehearsal) -> Finding | None:
    if outcome.left is not None:
        return not_rehearsed(outcome.left.reason)
    return not_rehearsed("it ended without comparing anything") if outcome.compared is None else None


# --- what it measured ---------------------------------------------------------------------------------------------


def _leaks(outcome: Rehearsal) -> Finding | None:
    leak = outcome.leak
    if leak is None or leak.reference is None:
        return None
    change = math.inf if leak.run is None else leak.run
    if change <= leak_budget(outcome):
        return None
    much = "and is not finite" if math.isinf(change) else f"by up to {change:.2%} of the largest loss"
    what = f"packed documents see each other: the loss of document 2 changes when document 1 does, {much}."
    return wrong("leak", what, "Write sample_packing: false, or an attention that keeps packed documents apart.")


def leak_budget(outcome: Rehearsal) -> float:
    """What one document may change in another's loss; more where plain attention's own documents do, so that it is
    another layer than attention."""
    leak = outcome.leak
    own = max(leak.noise or 0.0, leak.reference or 0.0) if leak else 0.0
    return LEAK_MULTIPLE * own + max(LEAK, ROUNDINGS * roundoff(outcome))


def _numbers(outcome: Rehearsal) -> Finding | None:
    over = [weight for weight in weights(outcome) if not weight.within]
    if not over:
        return None
    shown = max(over, key=_order)
    more = f" ({len(over)} of {len(weights(outcome))} numbers are wrong)" if len(over) > 1 else ""
    return wrong("numbers", f"{_words(outcome, over, shown)}{more}.")


def _order(weight: Weight) -> tuple[bool, bool, float]:
    """A loss that is wrong says more than a gradient, and both more than a later step."""
    return weight.kind == "loss", weight.kind == "gradient", weight.ratio if weight.ratio == weight.ratio else math.inf


def _words(outcome: Rehearsal, over: Sequence[Weight], shown: Weight) -> str:
    attention = f"attention ({outcome.batch.attention})" if outcome.batch else "attention"
    how = "is not finite" if math.isinf(shown.error) else f"is {_share(shown.error)} off plain attention's"
    how += "" if math.isinf(shown.error) else f", where rounding explains {_share(shown.budget)}"
    if shown.kind == "loss":
        return f"{attention} computes something else than the model defines: the loss {how}"
    if shown.kind == "step":
        return f"{attention} computes something else once the weights have changed: the loss of {shown.what} {how}"
    cut = [weight.what for weight in over if weight.kind == "gradient" and weight.missing]
    if cut:
        return f"{attention} cuts the gradient: {cut[0]} learns nothing"
    return f"{attention} computes a wrong gradient: that of {shown.what} {how}"


def _share(number: float) -> str:
    return f"{number:.2%}" if number >= 1e-4 else f"{number:.1e}"


def weights(outcome: Rehearsal) -> tuple[Weight, ...]:
    """Every number of the comparison against its budget."""
    return (*_losses(outcome), *_gradients(outcome), *_steps(outcome))


def roundoff(outcome: Rehearsal) -> float:
    """Of the run's own precision."""
    return ROUNDOFF.get(outcome.batch.dtype, FLOAT32) if outcome.batch else FLOAT32


def _losses(outcome: Rehearsal) -> Iterable[Weight]:
    compared = outcome.compared
    if compared is None or not compared.reference:
        return
    error, own = (_apart(loss, compared.reference) for loss in (compared.run, compared.baseline))
    budget = MULTIPLE * (own if math.isfinite(own) else 0.0) + ROUNDINGS * roundoff(outcome)
    yield Weight(what="loss", error=error, budget=budget, kind="loss")


def _gradients(outcome: Rehearsal) -> Iterable[Weight]:
    compared = outcome.compared
    known = [row for row in compared.gradients if row.norm and row.baseline is not None] if compared else []
    if not known:
        return
    usual = sorted(row.baseline or 0.0 for row in known)[len(known) // 2]
    largest = max(row.norm or 0.0 for row in known)
    for row in known:
        yield _gradient(row, usual, largest, roundoff(outcome))


def _gradient(row: Difference, usual: float, largest: float, unit: float) -> Weight:
    scale = 1.0 + SMALL * largest / (row.norm or largest)
    cut = row.missing or row.ratio is not None and row.ratio < CUT
    return Weight(
        what=row.what,
        error=math.inf if row.error is None and not row.missing else 1.0 if row.missing else row.error or 0.0,
        budget=MULTIPLE * max(row.baseline or 0.0, usual) + ROUNDINGS * unit * scale,
        kind="gradient",
        missing=cut,
    )


def _steps(outcome: Rehearsal) -> Iterable[Weight]:
    parts = [outcome.steps.get(part) for part in ("run", "reference", "baseline")]
    if any(part is None for part in parts):
        return
    for number, (run, plain, base) in enumerate(zip(*(part.losses for part in parts if part), strict=False), start=1):
        if plain:
            own = _apart(base, plain)
            budget = MULTIPLE * (own if math.isfinite(own) else 0.0) + STEP
            if outcome.batch and outcome.batch.dropout and run is not None:
                continue  # plain attention drops nothing, so all that can be asked is a finite loss
            yield Weight(what=f"step {number}", error=_apart(run, plain), budget=budget, kind="step")


def _apart(loss: float | None, plain: float) -> float:
    return math.inf if loss is None else abs(loss - plain) / abs(plain)


def _kernel(outcome: Rehearsal) -> Finding | None:
    """Another backend's kernel than the one that the configuration runs. What no rule knows proves nothing."""
    kernels = outcome.kernels
    if kernels is None or not outcome.backend or kernels.observed in {None, outcome.backend}:
        return None
    names = ", ".join(name[:60] for name in kernels.names[:2])
    what = f"The configuration asks for attention by {outcome.backend}, and {kernels.observed} runs: {names}."
    return wrong("kernel", what)


# --- the rules' word ----------------------------------------------------------------------------------------------


def _advised(flight: Flight, found: Finding) -> Finding:
    """What to write instead, where a rule of the preflight has it."""
    rules = [item for item in flight.findings if item.instead and item.level in {"refuse", "warn"}]
    if found.kind == "leak":
        rules = [item for item in rules if item.id in _LEAK_RULES] or rules
    if found.code is Code.PASS or not rules:
        return found
    return replace(found, advice=f"Write {rules[0].instead} [{rules[0].id}].")


def _accepted(flight: Flight, found: Finding) -> Finding:
    """A refusal of the rules that the user has accepted is not held against the run a second time."""
    refused = {item.id for item in flight.findings if item.level == "refuse"}
    allowed = sorted(refused & flight.allowed)
    if found.code is not Code.WRONG or not allowed:
        return found
    what = f"{found.what} (accepted by ATTN_ALLOW={','.join(allowed)})"
    return replace(found, verdict="DEGRADED", code=Code.PASS, what=what, advice="")
