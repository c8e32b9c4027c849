"""A finding: one thing that the check found, and the exit code of the contract that it means for the start."""

from __future__ import annotations

from enum import Enum

from entrypoint.light import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import Final, Literal

    VerdictName = Literal["PASS", "DEGRADED", "FAIL", "NOT_CHECKED"]

VERDICTS: Final[tuple[VerdictName, ...]] = ("PASS", "DEGRADED", "FAIL", "NOT_CHECKED")


class Code(Enum):
    """The exit codes of the contract."""

    PASS = 0
    CONFIG = 90
    MISMATCH = 91
    WRONG = 92
    SLOW = 93
    GPU_FAULT = 94
    INTERNAL = 95


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is so, and what to do about it, each a sentence or two.

    `kind` is the same for the same trouble on several GPUs. `log` is the whole text of an exception of which `what`
    has the cause alone; the report keeps it.
    """

    verdict: VerdictName
    code: Code
    what: str
    advice: str = ""
    kind: str = ""
    log: str = ""

    @property
    def sentence(self) -> str:
        return f"{self.what} {self.advice}".strip()


TOO_SLOW: Final = "too slow"
# The worst finding decides. A fault of the GPU explains wrong numbers, so it comes before them.
_ORDER: Final = (Code.CONFIG, Code.MISMATCH, Code.GPU_FAULT, Code.WRONG, Code.INTERNAL, Code.SLOW, Code.PASS)


def rank(finding: Finding) -> tuple[int, int]:
    """Sort key: the most serious finding first. That time ran out says as little of attention as our own failure."""
    code = Code.INTERNAL if finding.kind == TOO_SLOW else finding.code
    return _ORDER.index(code), ("FAIL", "NOT_CHECKED", "DEGRADED", "PASS").index(finding.verdict)


def too_slow(what: str, advice: str) -> Finding:
    """A machine on which the check does not end in time; another one, or more time, would do."""
    return Finding(verdict="NOT_CHECKED", code=Code.MISMATCH, kind=TOO_SLOW, what=what, advice=advice)


def wrong(kind: str, what: str, advice: str = "", log: str = "") -> Finding:
    """A kernel that nobody may train with."""
    advice = advice or "Do not train with it: keep the report, and use another backend's image until it is understood."
    return Finding(verdict="FAIL", code=Code.WRONG, kind=kind, what=what, advice=advice, log=log)


def internal(what: str, kind: str = "internal", log: str = "") -> Finding:
    """The check's own failure, which says nothing about attention."""
    advice = "Report it with the log in the report; ATTN_CHECK=warn goes past it."
    return Finding(verdict="NOT_CHECKED", code=Code.INTERNAL, kind=kind, what=what, advice=advice, log=log)


def gpu_fault(kind: str, what: str, advice: str) -> Finding:
    """A GPU that no job should start on."""
    return Finding(verdict="FAIL", code=Code.GPU_FAULT, kind=kind, what=what, advice=advice)


def slow(kind: str, what: str, advice: str, *, fails: bool) -> Finding:
    """Right, but far under what it should reach; `fails` is ATTN_SLOW=fail."""
    if fails:
        return Finding(verdict="FAIL", code=Code.SLOW, kind=kind, what=what, advice=advice)
    return Finding(verdict="DEGRADED", code=Code.PASS, kind=kind, what=what, advice=advice)
