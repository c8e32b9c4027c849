"""FlashAttention 4's compiled kernels: an image brings some (entrypoint/probe/fa4/prebuild.py), a start may add more.

FA4 looks a kernel up in one directory, `FLASH_ATTENTION_CUTE_DSL_CACHE_DIR`, and writes what it had to compile to the
same. The image's own directory is read-only, so each start fills the writable one with links to it. This is part of
every start, also of one whose verdict is remembered, so it must be quick.
"""

from __future__ import annotations

import os

from entrypoint.light import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

    from _typeshed import StrPath

DIRECTORY: Final = "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR"
# Beside this package in an image. In it, FA4 has a directory for each version of its sources and, there, for each use.
PREBUILT: Final = "fa4-cache"


def seed(home: StrPath, environ: Mapping[str, str]) -> str | None:
    """Link the kernels that the image under `home` brings into FA4's directory; a sentence when that is impossible.

    An entry that is there already stays. Nothing to do in an image without FA4, or outside of an image.
    """
    prebuilt, directory = os.path.join(home, PREBUILT), environ.get(DIRECTORY)
    if not directory:
        return None
    try:
        for folder, _, names in os.walk(prebuilt):
            _link(names, folder, os.path.join(directory, os.path.relpath(folder, prebuilt)))
    except OSError as error:
        return f"The image's compiled kernels are not used: {directory} cannot be written ({error.strerror})."
    return None


def compiled(environ: Mapping[str, str]) -> frozenset[str]:
    """The kernels in FA4's directory that did not come with an image.

    Those that a run adds to it are those that it had to compile, since no key of the image's fitted: another version
    of FA4, Python or CuTe DSL, or a variant that was not prebuilt.
    """
    from pathlib import Path  # not for a start that remembers

    directory = Path(environ.get(DIRECTORY) or os.devnull)
    return frozenset(str(kernel) for kernel in directory.glob("**/*.o") if not kernel.is_symlink())


def _link(names: Sequence[str], source: str, target: str) -> None:
    os.makedirs(target, exist_ok=True)
    for name in names:
        with suppress(FileExistsError):
            os.symlink(os.path.join(source, name), os.path.join(target, name))
