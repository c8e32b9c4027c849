"""The variables that a stage of docker/Dockerfile sets, for where there is no image to set them."""

from __future__ import annotations

import re
import shlex
from typing import Final

from attn_matrix.errors import UsageError

COMMENT: Final = re.compile(r"^\s*#.*\n", re.MULTILINE)
CONTINUED: Final = re.compile(r"\\\n")
STAGE: Final = re.compile(r"^FROM \S+ AS (\S+)$", re.MULTILINE)
ENV: Final = re.compile(r"^ENV (.+)$", re.MULTILINE)


def of_stage(text: str, stage: str) -> dict[str, str]:
    """The variables of the ENV instructions of `stage` itself, not of those that it starts from.

    Values are as they are written, so one may hold `$NAME` of a build argument or of an earlier variable. Raises
    UsageError when the Dockerfile has no such stage.
    """
    lines = CONTINUED.sub(" ", COMMENT.sub("", text))
    _, *parts = STAGE.split(lines)
    stages = dict(zip(parts[::2], parts[1::2], strict=True))
    if stage not in stages:
        raise UsageError(f"docker/Dockerfile has no stage {stage!r}; its stages: {', '.join(stages)}")
    pairs = (word.partition("=") for found in ENV.findall(stages[stage]) for word in shlex.split(found))
    return {name: value for name, _, value in pairs}
