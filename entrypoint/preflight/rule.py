"""A rule: one fact about Axolotl, transformers or a kernel, as a pure function with its source beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from entrypoint.light import TYPE_CHECKING, dataclass
from entrypoint.preflight.facts import ALL, Facts, Stage
from entrypoint.preflight.kernel import Run

if TYPE_CHECKING:
    from typing import Final, Literal

    Level = Literal["refuse", "warn", "note"]

LEVELS: Final = ("refuse", "warn", "note")


@dataclass(frozen=True, kw_only=True)
class Hit:
    """What a rule says of a run. `key`: the line that it is about. `instead`: what to write; None leaves that to
    judge.advise. `level` where it is not the rule's own."""

    why: str
    key: str = ""
    instead: str | None = None
    level: Level | None = None


Check = Callable[[Facts, Run], Hit | None]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """`versions`: the Axolotls it was read in; `stage`: commands that go as far are judged by it; `source`: where.

    In sources, A16 and A19 are src/axolotl/ of Axolotl 0.16.1 and 0.19.0, T55 and T516 transformers 5.5.0 and 5.16.1.
    """

    id: str
    level: Level
    versions: tuple[str, ...]
    stage: Stage
    source: str
    check: Check


class Rules:
    """The rules of one topic, in their order."""

    def __init__(self) -> None:
        self.all: list[Rule] = []

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.all)

    def add(
        self, name: str, level: Level, source: str, versions: tuple[str, ...] = ALL, stage: Stage = Stage.LOADS
    ) -> Callable[[Check], Check]:
        """A decorator for the function that is the rule's condition and its words."""

        def register(check: Check) -> Check:
            self.all.append(Rule(id=name, level=level, versions=versions, stage=stage, source=source, check=check))
            return check

        return register
