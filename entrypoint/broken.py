"""The end of a start that is broken itself, because files of the image are missing or nobody foresaw an error.

It needs few of these files. No start loads it that goes well.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence

from entrypoint import launch
from entrypoint.console import say
from entrypoint.errors import BrokenImageError, LaunchError


def go_past(error: Exception, argv: Sequence[str]) -> int:
    """95 with the reason; a command that need not be checked, under ATTN_CHECK=warn or off, begins all the same."""
    if not isinstance(error, BrokenImageError):
        say("".join(traceback.format_exception(error)).rstrip())
        error = BrokenImageError(f"The start itself failed: {type(error).__name__}: {error}", "Report it.")
    say(f"FAIL (95 INTERNAL): {error.what}")
    say(f"  what to do: {error.advice}")
    mode = os.environ.get("ATTN_CHECK", "").strip()
    if mode not in {"warn", "off"} or not argv or argv[0] == "check":
        return 95
    say(f"ATTN_CHECK={mode}: the command runs all the same.")
    try:
        launch.become(launch.resolve(argv, os.environ), argv, os.environ)
    except LaunchError as refused:
        say(str(refused))
        return refused.code
