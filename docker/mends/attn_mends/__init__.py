"""Mends of packages in this image: each a wrapper as small as the defect, put on when its module is imported.

Beside them choices: what makes a package prefer the kernel that ATTN_BACKEND names, at the same moment, and nothing
where that names another one.

A line in a `.pth` file imports this at each start of Python, so it does nothing but wait for those modules. The build
of an image writes `_table.py`, which says which they are; images.yaml says why, and which version each mend is for.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

from attn_mends._table import CHOICES, MENDS

# Not typing's: to import that would take ten times as long as all the rest.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType


class Finder:
    """Finds the modules to change where Python's own finder does, and changes each as soon as it has run."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in MENDS and not _chosen(name):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            # On this one loader, which stays of its own type: others look at that.
            spec.loader.exec_module = _then_change(spec.loader.exec_module)  # type: ignore[assignment, method-assign]
        return spec


def _then_change(run: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def exec_module(module: ModuleType) -> None:
        run(module)
        for name, package, version in MENDS.get(module.__name__, ()):
            _mend(module, name, package, version)
        for name in _chosen(module.__name__):
            _choose(module, name)

    return exec_module


def _chosen(module: str) -> list[str]:
    """The choices that ATTN_BACKEND asks for in a module, by the names of their files."""
    return [name for name, asked in CHOICES.get(module, ()) if os.environ.get("ATTN_BACKEND") == asked]


def _choose(module: ModuleType, name: str) -> None:
    """Make the choice and say so, on stderr: stdout is the command's own."""
    from importlib import import_module

    said = import_module(f"attn_mends.{name}").choose(module)
    print(f"axolotl-attn: ATTN_BACKEND={os.environ['ATTN_BACKEND']}: {said}", file=sys.stderr)


def _mend(module: ModuleType, name: str, package: str, version: str) -> None:
    """Put one mend on, or say why not: somebody has installed another version over the image's."""
    from importlib import import_module, metadata

    found = metadata.version(package)
    if found == version:
        import_module(f"attn_mends.{name}").mend(module)
        return
    text = f"axolotl-attn: {module.__name__} is not mended ({name}): that is for {package} {version}, not {found}"
    print(text, file=sys.stderr)


sys.meta_path.insert(0, Finder)
