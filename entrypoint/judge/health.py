"""What a GPU's own sensors and counters say of it (events: `health`). Pure; what could not be read says nothing."""

from __future__ import annotations

from entrypoint.judge.finding import Code, Finding, gpu_fault
from entrypoint.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

    from entrypoint.children.outcome import Outcome
    from entrypoint.events import HealthEvent

# NVIDIA's Xid catalogue: these are the hardware's or the driver's, whatever program ran. Others, such as 13 and 31
# (illegal access by a kernel), are as likely a program's, and are only named beside the crash that they belong to.
HARDWARE_XIDS: Final = {
    48: "double-bit memory error",
    62: "microcontroller halt",
    64: "memory row remapping failed",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    94: "contained memory error",
    95: "uncontained memory error",
    119: "GPU system processor timed out",
    120: "GPU system processor error",
}
_DRAIN: Final = "Start the job on another node, and drain this one: its GPU needs a reset or a replacement"


def judge_health(outcome: Outcome) -> list[Finding]:
    """A GPU whose memory or bus has failed is no place to train, even when every case came out right."""
    facts, name = outcome.health, outcome.name
    if facts is None:
        return []
    found = []
    if errors := facts.ecc_uncorrected:
        text = f"{name} has had uncorrected memory errors (ECC) since it was started: {errors}."
        found.append(gpu_fault("ecc", text, f"{_DRAIN} (nvidia-smi -q -d ECC,ROW_REMAPPER)."))
    if facts.row_remap_failed:
        text = f"{name} has a memory row that could not be remapped."
        found.append(gpu_fault("remap", text, f"{_DRAIN} (nvidia-smi -q -d ROW_REMAPPER)."))
    elif facts.row_remap_pending:
        text = f"{name} waits for a reset that maps a bad memory row out."
        advice = "It computes as before; reset it when no job runs on it (nvidia-smi -r)."
        found.append(Finding(verdict="DEGRADED", code=Code.PASS, kind="remap", what=text, advice=advice))
    for xid in dict.fromkeys(facts.xids or ()):
        if xid in HARDWARE_XIDS:
            text = f"{name} reported Xid {xid} ({HARDWARE_XIDS[xid]}) during the check."
            found.append(gpu_fault("xid", text, f"{_DRAIN} (dmesg | grep Xid)."))
    return found


def state(facts: HealthEvent | None) -> str:
    """Temperature, power and clocks under load, in a few words: "68 °C, at its power limit"."""
    if facts is None:
        return "sensors not readable"
    parts = []
    if facts.temperature is not None:
        parts.append(f"{facts.temperature} °C")
    if facts.power_watts is not None and facts.power_limit_watts:
        parts.append(f"{facts.power_watts:.0f} of {facts.power_limit_watts:.0f} W")
    if facts.sm_megahertz is not None and facts.sm_megahertz_max:
        parts.append(f"{facts.sm_megahertz} of {facts.sm_megahertz_max} MHz")
    if how := held_back(facts):
        parts.append(how)
    if others := facts.other_processes:
        parts.append(f"{others} other process{'es' if others > 1 else ''} on it")
    if parts or not facts.reason:
        return ", ".join(parts) or "sensors not readable"
    from entrypoint.judge.cause import cause  # its patterns are compiled for who has a reason

    return f"sensors not readable: {cause(facts.reason)}"


def held_back(facts: HealthEvent) -> str:
    """What held the clocks back; a power limit does so on every GPU at full load. Empty when nothing, or unknown."""
    reasons = [reason for reason in facts.throttle or () if reason != "sw_power_cap"]
    if reasons:
        return f"clocks held back by {', '.join(reasons)}"
    return "at its power limit" if facts.throttle else ""
