"""What the child is asked to time, one contestant a backend: data for its command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """`backend` as ATTN_BACKEND names it, `attention` as transformers does. `one_row`: packing makes one row of a
    batch for it, else it keeps the rows. `varlen`: Axolotl puts its own sdpa for packed rows in the place."""

    backend: str
    attention: str
    one_row: bool = False
    varlen: bool = False

    @property
    def prefers_cudnn(self) -> bool:
        return self.backend == "sdpa-cudnn"


def to_json(contestants: Iterable[Contestant]) -> str:
    return json.dumps([asdict(contestant) for contestant in contestants])


def from_json(text: str) -> tuple[Contestant, ...]:
    """The inverse of to_json."""
    return tuple(Contestant(**item) for item in json.loads(text))
