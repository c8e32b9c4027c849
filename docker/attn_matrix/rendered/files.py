"""Every generated file, made from images.yaml. The same matrix gives the same bytes.

`nox -s render` writes the files. With `--check` it only compares them, and `nox -s lint` runs that.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import unified_diff
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from attn_matrix.errors import MatrixError
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.model import Matrix, axolotl_lock, lock_path, platform_of, spec_path
from attn_matrix.rendered import requirements
from attn_matrix.rendered.bake import bake_file, bake_from_source
from attn_matrix.rendered.kubernetes import kubernetes_files
from attn_matrix.rendered.specs import image_specs
from attn_matrix.rendered.tables import page
from entrypoint.spec import BANNER, document

BAKE_FILE = "docker/bake.json"
FROM_SOURCE = "docker/bake.from-source.json"
SCHEMA_FILE = "docker/images.schema.json"
SPECS = "docker/specs"
IMAGES = "docker/IMAGES.md"


def render(matrix: Matrix, locks: Mapping[str, str]) -> dict[str, str]:
    """The text of every generated file, by its path from the repository root.

    `locks` are the texts of the locks that exist, by name. Raises MatrixError when one of them does not hold a
    version that images.yaml pins.
    """
    wrong = [line for name, lock in locks.items() for line in _against_lock(matrix, name, lock)]
    wrong += [line for name, lock in locks.items() for line in _unmended(matrix, name, lock)]
    if wrong:
        raise MatrixError(*wrong)
    schema = {"$comment": BANNER, **Matrix.model_json_schema()}
    return {SCHEMA_FILE: _json(schema), IMAGES: page(matrix), **kubernetes_files(matrix), **build_files(matrix)}


def build_files(matrix: Matrix) -> dict[str, str]:
    """The generated files that a build reads: the bake files and the specs."""
    specs = {spec_path(name): _json(document(spec)) for name, spec in image_specs(matrix).items()}
    bake = {BAKE_FILE: bake_file(matrix), FROM_SOURCE: bake_from_source(matrix)}
    return {**{name: _json({"//": BANNER, **content}) for name, content in bake.items()}, **specs}


def _json(content: Any) -> str:
    """As json.dumps(content, indent=2), which takes 18 times as long: indented, Python's encoder is not in C."""
    return to_json(content, indent=2, ensure_ascii=True).decode() + "\n"


def _against_lock(matrix: Matrix, name: str, lock: str) -> list[str]:
    """A line for each pin that the lock `name` does not hold."""
    held, platform = requirements.versions(lock), platform_of(name)
    return [
        f"{FILE}: platforms.{platform}.pins.{package}: {version} is pinned, but {lock_path(name)} has "
        f"{held.get(package, 'no version of it')}"
        for package, version in matrix.lock_pins(name).items()
        if held.get(package) != version
    ]


def _unmended(matrix: Matrix, name: str, lock: str) -> list[str]:
    """A line for each mend of a package that only comes with Axolotl, and not in the version that the mend is for."""
    held, platform = requirements.versions(lock), platform_of(name)
    pins = matrix.platforms[platform].pins
    return [
        f"{FILE}: mends.{mend_name}.versions.{platform}: is for {mend.package} {mend.versions[platform]}, but "
        f"{lock_path(name)} has "
        f"{held.get(mend.package, 'no version of it')}"
        for mend_name, mend in matrix.mends.items()
        if name == axolotl_lock(platform) and platform in mend.versions and mend.package not in pins
        if held.get(mend.package) != mend.versions[platform]
    ]


def rendered(root: Path) -> dict[str, str]:
    """What `render` makes of the repository at `root`. Raises AttnError."""
    matrix = read(root / FILE)
    paths = {name: root / lock_path(name) for platform in matrix.platforms for name in matrix.lock_names(platform)}
    locks = {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.exists()}
    return render(matrix, locks)


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
