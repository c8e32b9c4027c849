"""What a rehearsal found: events in, one finding out. Pure.

A false alarm stops somebody's training, so what is not certain is no failure: then the run was not rehearsed, and the
reason says why.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from entrypoint.children.outcome import signal_name
from entrypoint.choice import vendor_of
from entrypoint.judge.cause import cause
from entrypoint.judge.finding import Code, Finding, gpu_fault, internal, wrong
from entrypoint.judge.rehearsal_budgets import Weight, leak_budget, weights
from entrypoint.rehearsal.events import RaisedEvent
from entrypoint.rehearsal.outcome import Rehearsal

if TYPE_CHECKING:
    from entrypoint.preflight.flight import Flight
    from entrypoint.preflight.judge import Found

# What Axolotl, peft and transformers raise for a configuration that they do not take. Anything else may come from what
# was made small.
_REFUSALS: Final = frozenset(
    {"ValueError", "ImportError", "ModuleNotFoundError", "AssertionError", "NotImplementedError"}
)
# Of the device's memory, what others may hold before it is theirs that ran out. A context of our own, half a GiB that
# torch does not count, is less.
OTHERS: Final = 0.1
HUBS: Final = ("huggingface.co", "hf.co", "modelscope.cn")
# Rules of the preflight, by the beginnings of their ids, that explain what a rehearsal finds.
_EXPLAINS: Final = {
    "leak": ("P01", "P02", "P03", "P04", "P06", "P09", "P10", "M08"),
    "numbers": ("M05", "M06", "M07", "M08", "M18", "P06", "P10", "F05", "F07", "F18", "E01", "S", "T03", "X02"),
    "crash": ("F", "I0", "M", "X", "S", "T", "E02", "E04", "G02"),
    "hub": ("I01", "I02", "I10", "M04"),
    "kernel": ("F", "K", "M", "X02", "E01", "T03"),
}


def judge(flight: Flight, outcome: Rehearsal, limit: float) -> Finding:
    """The one finding that decides. `limit` is ATTN_TIMEOUT in seconds."""
    for found in (
        _asked(flight, outcome),
        _raised(flight, outcome),
        _fault(flight, outcome, limit),
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
    """The configuration's fault only on a device that the rehearsal had to itself."""
    if (held := _held(outcome)) is not None:
        return _others(flight, held, raised)
    layers = f"{outcome.shrunk.layers} of {outcome.shrunk.of_layers} layers" if outcome.shrunk else "few layers"
    rows = f"micro_batch_size {flight.facts.rows}"
    what = f"The device's memory runs out at {rows} with {layers} alone: {cause(raised.reason)}"
    advice = "Write a smaller micro_batch_size or sequence_len, or end what else holds the device's memory."
    return Finding(verdict="FAIL", code=Code.CONFIG, kind="memory", what=what, advice=advice, log=raised.reason)


def _held(outcome: Rehearsal) -> str | None:
    """How much of the device others hold, where that is a considerable share."""
    memory = outcome.memory
    others = memory.total - memory.free - memory.own if memory else 0
    if memory is None or others <= OTHERS * memory.total:
        return None
    return f"{others / 2**30:.3g} of {memory.total / 2**30:.3g} GiB of {outcome.device}"


def _others(flight: Flight, held: str, raised: RaisedEvent) -> Finding:
    """As the check says of a full device: it says nothing of the run."""
    what = f"Other processes hold {held}; the rehearsal needs it to itself: {cause(raised.reason)}"
    advice = f"End them (see {vendor_of(flight.facts.spec).tool}), or start the job on another node."
    return Finding(
        verdict="NOT_CHECKED", code=Code.INTERNAL, kind="memory", what=what, advice=advice, log=raised.reason
    )


def _fault(flight: Flight, outcome: Rehearsal, limit: float) -> Finding | None:
    """A crash or a hang while the run's own attention is called: the training would meet it too. As in the check, on a
    GPU that is the GPU's matter, and on a CPU nobody knows whose."""
    slow = outcome.overrun is not None and outcome.overrun.computing
    if not outcome.in_attention or slow or _no_memory(outcome) or outcome.ending not in {"killed", "timeout"}:
        return None
    what = f"The rehearsal {_how(outcome, limit)} in {outcome.phase} with the run's own attention on {outcome.device},"
    what += " as the training would."
    if flight.facts.spec.device == "cpu":
        return internal(what, kind="ended")
    return gpu_fault("ended", what, "Start the job on another node; if it ends so there too, use another attention.")


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
            return f"crashed with {signal_name(outcome.number)}"
        case "timeout":
            return f"was not done after {limit:g} s (ATTN_TIMEOUT) and hung or waited"
        case _:
            return f"ended with code {outcome.number} and no result ({cause(outcome.log) or 'no output'})"


def _left(outcome: Rehearsal) -> Finding | None:
    """What was not compared, and why."""
    if outcome.left is not None:
        return not_rehearsed(outcome.left.reason)
    if outcome.compared is None or "run" not in outcome.steps:
        return not_rehearsed("it ended without comparing anything")
    if outcome.compared.reference is None:
        return not_rehearsed("with plain attention the small model's loss is not finite")
    compared = any(weight.kind == "gradient" for weight in weights(outcome))
    return None if compared else not_rehearsed("no gradient of the small model could be compared")


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


def _kernel(outcome: Rehearsal) -> Finding | None:
    """Another backend's kernel than the one that the configuration runs. What no rule knows proves nothing."""
    kernels = outcome.kernels
    if kernels is None or not outcome.backend or kernels.observed in {None, outcome.backend}:
        return None
    names = ", ".join(name[:60] for name in kernels.names[:2])
    seen = f" ({names})" if names else ""
    what = f"The configuration asks for attention by {outcome.backend}, and {kernels.observed} runs{seen}."
    return wrong("kernel", what)


# --- the rules' word ----------------------------------------------------------------------------------------------


def _explaining(flight: Flight, found: Finding) -> list[Found]:
    """What the rules had to say of this, refusals that the user accepted among it."""
    return [item for item in flight.findings if item.id.startswith(_EXPLAINS.get(found.kind, ("none",)))]


def _advised(flight: Flight, found: Finding) -> Finding:
    """With what to write instead, where a rule has it."""
    rules = [item for item in _explaining(flight, found) if item.instead and item.level in {"refuse", "warn"}]
    return replace(found, advice=f"Write {rules[0].instead} [{rules[0].id}].") if rules else found


def _accepted(flight: Flight, found: Finding) -> Finding:
    """A refusal of the rules that the user has accepted is not held against the run a second time."""
    refused = {item.id for item in _explaining(flight, found) if item.level == "refuse"}
    allowed = sorted(refused & flight.allowed)
    if found.code is not Code.WRONG or not allowed:
        return found
    what = f"{found.what} (accepted by ATTN_ALLOW={','.join(allowed)})"
    return replace(found, verdict="DEGRADED", code=Code.PASS, what=what, advice="")
