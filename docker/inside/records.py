"""What distributions recorded when they were installed: files, modules, libraries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import PurePosixPath

LIBRARY = re.compile(r"\.so(\.[0-9]+)*$")


def normalised(name: str) -> str:
    """As https://packaging.python.org/en/latest/specifications/name-normalization/ has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def files(distribution: metadata.Distribution) -> Iterator[metadata.PackagePath]:
    """The recorded files, bytecode left out: that is not in every record."""
    return (file for file in distribution.files or () if file.suffix != ".pyc")


def libraries(distribution: metadata.Distribution) -> list[metadata.PackagePath]:
    return [file for file in files(distribution) if LIBRARY.search(file.name)]


def modules(distribution: metadata.Distribution) -> list[str]:
    """What is imported by a name of its own: packages that are not inside of another one, and single modules.

    A namespace counts with the packages in it: flash-attn-4 has `flash_attn.cute`.
    """
    recorded = [PurePosixPath(file) for file in files(distribution)]
    packages = {path.parent for path in recorded if path.name == "__init__.py"}
    top = [package for package in packages if not any(parent in packages for parent in package.parents)]
    single = [path.with_suffix("") for path in recorded if path.suffix == ".py" and len(path.parts) == 1]
    names = [".".join(path.parts) for path in (*top, *single)]
    return sorted(name for name in names if all(part.isidentifier() for part in name.split(".")))
