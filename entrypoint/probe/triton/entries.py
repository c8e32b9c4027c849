"""Entries of Triton's cache: a folder for each key, of which a start needs the machine code and what describes it.

Triton 3.6 looks for `__grp__<kernel>.json`, which names the files of an entry by their absolute paths, and loads those
that exist; it needs the .json and the .cubin (triton/compiler/compiler.py, CompiledKernel; TRITON_STORE_BINARY_ONLY
leaves the same). Inductor's static launcher looks for the .cubin beside it (StaticTritonCompileResult), and so has to
find it in the start's own folder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

GROUP: Final = "__grp__"


class Incomplete(ValueError):
    """An entry without one of the files that a start needs."""


def copy(source: Path, target: Path) -> int:
    """Copy what a start needs of every entry in `source`, into `target`, where they stay; the bytes of it.

    Raises Incomplete, and OSError.
    """
    return sum(_copied(group, target / group.parent.name) for group in groups(source))


def groups(cache: Path) -> list[Path]:
    """The file in each entry of a cache that names its others; an entry without one was not finished."""
    return sorted(cache.glob(f"*/{GROUP}*.json"))


def _copied(group: Path, target: Path) -> int:
    kernel = group.name.removeprefix(GROUP).removesuffix(".json")
    files = [group.with_name(f"{kernel}{suffix}") for suffix in (".json", ".cubin")]
    if missing := [file.name for file in files if not file.is_file()]:
        raise Incomplete(f"Triton's entry {group.parent.name} is without {' and '.join(missing)}")
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, target / file.name)
    named = {file.name: str(target.absolute() / file.name) for file in files}
    (target / group.name).write_text(json.dumps({"child_paths": named}), encoding="utf-8")
    return sum(file.stat().st_size for file in files)
