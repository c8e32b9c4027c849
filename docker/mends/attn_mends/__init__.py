"""Mends of packages in this image: each a wrapper as small as the defect, put on when its module is imported.

A line in a `.pth` file imports this at each start of Python, so it does nothing but wait for those modules. The build
of an image writes `_table.py`, which says which they are; images.yaml says why, and which version each mend is for.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder

from attn_mends._table import MENDS

# Not typing's: to import that would take ten times as long as all the rest.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType


class Finder:
    """Finds the modules to mend where Python's own finder does, and mends each as soon as it has run."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in MENDS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            # On this one loader, which stays of its own type: others look at that.
            spec.loader.exec_module = _then_mend(spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _then_mend(run: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def exec_module(module: ModuleType) -> None:
        run(module)
        for name, package, version in MENDS[module.__name__]:
            _mend(module, name, package, version)

    return exec_module


def _mend(module: ModuleType, name: str, package: str, version: str) -> None:
    """Put one mend on, or say why not: somebody has installed another version over the image's."""
    from importlib import import_module, metadata

    found = metadata.version(package)
    if found == version:
        import_module(f"attn_mends.{name}").mend(module)
        return
    text = f"axolotl-attn: {module.__name__} is not mended ({name}): that is for {package} {version}, not {found}"
    print(text, file=sys.stderr)


sys.meta_path.insert(0, Finder)  # type: ignore[arg-type]
