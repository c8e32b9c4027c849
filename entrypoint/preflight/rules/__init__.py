"""Every rule, by topic; ids are the ones that ATTN_ALLOW takes."""

from __future__ import annotations

from entrypoint.light import TYPE_CHECKING
from entrypoint.preflight.rule import Rule
from entrypoint.preflight.rules import flash, gpu, image, keys, models, narrow, others, packing

if TYPE_CHECKING:
    from typing import Final

TOPICS: Final = (keys, image, flash, packing, models, narrow, others, gpu)
RULES: Final[tuple[Rule, ...]] = tuple(rule for topic in TOPICS for rule in topic.rules)
IDS: Final = tuple(rule.id for rule in RULES)
