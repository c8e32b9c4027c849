"""Every generated file, from images.yaml: rendering is pure, and the same matrix gives the same bytes.

`nox -s render` writes the files; with `--check` it compares, so that a commit cannot hold a stale one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import unified_diff
from pathlib import Path
from typing import Any

from attn_matrix.errors import MatrixError, UsageError
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.model import Matrix, lock_path, platform_of, spec_path
from attn_matrix.rendered import requirements
from attn_matrix.rendered.bake import bake_file, bake_from_source
from attn_matrix.rendered.specs import image_specs
from attn_matrix.rendered.tables import BEGIN, END, insert
from entrypoint.spec import BANNER, to_json

BAKE = "docker/bake.json"
FROM_SOURCE = "docker/bake.from-source.json"
SCHEMA = "docker/images.schema.json"
SPECS = "docker/specs"
README = "README.md"


def render(matrix: Matrix, locks: Mapping[str, str], readme: str) -> dict[str, str]:
    """The text of every generated file, by its path from the repository root.

    `locks` are the texts of the locks that exist, by name. Raises MatrixError when one of them does not hold a
    version that images.yaml pins, and UsageError when `readme` has no place for the tables.
    """
    wrong = [line for name, lock in locks.items() for line in _against_lock(matrix, name, lock)]
    if wrong:
        raise MatrixError(*wrong)
    tables = insert(readme, matrix)
    if tables is None:
        raise UsageError(f"{README}: needs one line {BEGIN} and, below it, one line {END}")
    schema = {"$comment": BANNER, **Matrix.model_json_schema()}
    return {SCHEMA: _json(schema), README: tables, **build_files(matrix)}


def build_files(matrix: Matrix) -> dict[str, str]:
    """The generated files that a build reads: the bake files and the specs."""
    specs = {spec_path(name): to_json(spec) for name, spec in image_specs(matrix).items()}
    bake = {BAKE: bake_file(matrix), FROM_SOURCE: bake_from_source(matrix)}
    return {**{name: _json({"//": BANNER, **document}) for name, document in bake.items()}, **specs}


def _json(document: Any) -> str:
    return json.dumps(document, indent=2) + "\n"


def _against_lock(matrix: Matrix, name: str, lock: str) -> list[str]:
    """A line for each pin that the lock `name` does not hold."""
    held, platform = requirements.versions(lock), platform_of(name)
    return [
        f"{FILE}: platforms.{platform}.pins.{package}: {version} is pinned, but {lock_path(name)} has "
        f"{held.get(package, 'no version of it')}"
        for package, version in matrix.lock_pins(name).items()
        if held.get(package) != version
    ]


def rendered(root: Path) -> dict[str, str]:
    """What `render` makes of the repository at `root`. Raises AttnError."""
    matrix = read(root / FILE)
    paths = {name: root / lock_path(name) for platform in matrix.platforms for name in matrix.lock_names(platform)}
    locks = {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.exists()}
    readme = root / README
    return render(matrix, locks, readme.read_text(encoding="utf-8") if readme.exists() else "")


def write(root: Path, files: Mapping[str, str]) -> list[str]:
    """Write what differs and remove what no image owns in docker/specs; returns a line for each change."""
    changes = []
    for name, text in files.items():
        path = root / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changes.append(f"wrote {name}")
    for name in foreign(root, files):
        (root / name).unlink()
        changes.append(f"removed {name}")
    return changes


def foreign(root: Path, files: Mapping[str, str]) -> list[str]:
    """Files in docker/specs that render does not make."""
    names = (path.relative_to(root).as_posix() for path in (root / SPECS).glob("*"))
    return sorted(name for name in names if name not in files)


def differences(root: Path, files: Mapping[str, str]) -> dict[str, str]:
    """A unified diff from what is on disk to what would be written, for each file that is stale, absent or foreign."""
    result = {}
    for name, text in [*files.items(), *((name, "") for name in foreign(root, files))]:
        path = root / name
        now = path.read_text(encoding="utf-8") if path.exists() else ""
        if now != text:
            diff = unified_diff(now.splitlines(True), text.splitlines(True), name, f"{name} (rendered)")
            result[name] = "".join(diff)
    return result
