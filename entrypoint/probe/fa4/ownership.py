"""Whether an imported package is what its distribution installed: every file recorded, and every file unchanged.

FlashAttention 2 has shipped a stub of `flash_attn/cute`, the folder that flash-attn-4 owns. Installed over each other,
the import works and something else answers. pip writes each file's hash into the distribution's RECORD
(https://packaging.python.org/en/latest/specifications/recording-installed-packages/); this compares them.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path


def problems(module: str, distribution: str) -> list[str]:
    """Sentences on what is wrong with the package `module`; empty when it is whole and `distribution`'s own.

    The module is found, not imported (its parents are). Takes a few milliseconds for flash-attn-4's 60 files.
    """
    try:
        installed = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return [f"{distribution} is not installed"]
    recorded = dict(_recorded(installed, module.replace(".", "/") + "/"))
    if not recorded:
        return [f"{distribution} {installed.version} records no file of {module}"]
    found = _origin(module)
    if found is None:
        return [f"{module} cannot be found"]
    if found.resolve() not in recorded:
        return [f"{module} is {found}, which {distribution} {installed.version} did not install"]
    return [*_unrecorded(found.parent, recorded), *_changed(recorded)]


def _recorded(installed: metadata.Distribution, prefix: str) -> Iterator[tuple[Path, str]]:
    """The files of RECORD under a folder, each with its hash as RECORD writes it (urlsafe base64 without padding)."""
    for file in installed.files or ():
        if str(file).startswith(prefix) and file.hash is not None and file.hash.mode == "sha256":
            yield Path(str(installed.locate_file(file))).resolve(), file.hash.value


def _origin(module: str) -> Path | None:
    """The file that an import of the module would run; None also for a folder without `__init__.py`."""
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin)


def _unrecorded(folder: Path, recorded: dict[Path, str]) -> Iterator[str]:
    """Files that somebody else put there; what Python compiled on the way is nobody's."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.resolve() not in recorded:
            yield f"{path} belongs to no recorded file"


def _changed(recorded: dict[Path, str]) -> Iterator[str]:
    for path, expected in recorded.items():
        if not path.is_file():
            yield f"{path} is missing"
        elif _sha256(path) != expected:
            yield f"{path} is not the file that was installed"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
