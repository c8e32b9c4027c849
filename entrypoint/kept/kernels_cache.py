"""Compiled kernels that an image brings: FlashAttention 4's (entrypoint/probe/fa4/prebuild.py), and those that Triton
compiles in a start's check of FlexAttention (entrypoint/probe/triton/prebuild.py). A start may add more.

Each compiler looks a kernel up in one directory and writes what it had to compile to the same. The image's own
directories are read-only, so a start fills the writable ones with links to them. This is part of every start, also of
one whose verdict is remembered, so it must be quick: Triton's entries, of which there are hundreds, are linked into a
directory once, and a mark in it says of which image.

On a volume an image may find the links of another one, which lead nowhere. They are as good as files that are missing:
the compiler makes the kernel again, and puts it in the link's place. (A link that stood for a whole folder would be in
the way: Triton could not make the folder.)
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
TRITON: Final = "TRITON_CACHE_DIR"
# In it, Triton has a directory for each key.
TRITON_PREBUILT: Final = "triton-cache"
BROUGHT: Final = {DIRECTORY: PREBUILT, TRITON: TRITON_PREBUILT}
# A file in an image's directory that names all that is in it. Without it, a directory is linked at every start.
IDENTITY: Final = ".identity"
MARK: Final = ".image-"  # and that name: the image's kernels are linked here


def seed(home: StrPath, environ: Mapping[str, str]) -> str | None:
    """Link the kernels that the image under `home` brings into their compilers' directories; a sentence when that is
    impossible.

    An entry that is there already stays. Nothing to do in an image without any, or outside of an image.
    """
    for variable, folder in BROUGHT.items():
        if directory := environ.get(variable):
            try:
                _fill(directory, os.path.join(home, folder))
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


def _fill(directory: str, prebuilt: str) -> None:
    """Link all that is in `prebuilt` into `directory`, unless its mark says that this was done. Raises OSError."""
    mark = _mark(directory, prebuilt)
    if mark and os.path.exists(mark):
        return
    for folder, _, names in os.walk(prebuilt):
        _link(names, folder, os.path.join(directory, os.path.relpath(folder, prebuilt)))
    if mark:
        with open(mark, "w"):
            pass


def _mark(directory: str, prebuilt: str) -> str | None:
    """The path of the mark in `directory`; None where `prebuilt` has no name, or is not there."""
    try:
        with open(os.path.join(prebuilt, IDENTITY), encoding="utf-8") as file:
            return os.path.join(directory, f"{MARK}{file.read().strip()}")
    except FileNotFoundError:
        return None


def _link(names: Sequence[str], source: str, target: str) -> None:
    os.makedirs(target, exist_ok=True)
    for name in names:
        if name != IDENTITY:
            with suppress(FileExistsError):
                os.symlink(os.path.join(source, name), os.path.join(target, name))
