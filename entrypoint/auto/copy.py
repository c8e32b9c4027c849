"""The configuration that asks for the choice: a copy of the user's with attention's keys changed, and nothing else.

A copy and not flags: Axolotl drops flags silently where the file has `strict: true` and lacks their keys, and an old
boolean can only be unset by a flag of its own (cli/config.py, load_cfg). Paths in a configuration are relative to the
working directory, which stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from entrypoint.errors import ConfigError
from entrypoint.kept.cache import write_atomically
from entrypoint.preflight.judge import KEYS

FOLDER: Final = "attn/config"


def merged(file: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `file`, without the command line's flags, and attention's as `values` has them."""
    kept = {key: values.get(key, value) if key in KEYS else value for key, value in file.items()}
    gone = {key for key in kept if key in KEYS and key not in values}
    added = {key: values[key] for key in KEYS if key in values and key not in kept}
    return {**{key: value for key, value in kept.items() if key not in gone}, **added}


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Attention's keys that differ, as lines of a diff."""
    changed = [key for key in KEYS if (key in before, before.get(key)) != (key in after, after.get(key))]
    return [
        f"{sign} {key}: {_plain(values[key])}"
        for key in changed
        for sign, values in (("-", before), ("+", after))
        if key in values
    ]


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def write(text: str, environ: Mapping[str, str]) -> Path:
    """Keep the copy under a name of its content. Raises ConfigError where it cannot be written."""
    folder = Path(environ.get("TMPDIR") or "/tmp", FOLDER)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.yml"
    try:
        write_atomically(path, text)
    except OSError as error:
        raise ConfigError(
            f"ATTN_BACKEND=auto changes attention's keys in a copy of the configuration, and {path} cannot be written "
            f"({error.strerror}).",
            "Let /tmp be writable (docker run --tmpfs /tmp:exec), or name a backend.",
        ) from error
    return path
