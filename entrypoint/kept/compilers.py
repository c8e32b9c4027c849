"""Where compilers keep what they made: a folder in ATTN_CACHE, for the check and for the command after it.

There is one folder for each software and hardware, so that no compiler meets what was made for another. Inductor, for
one, loads a kernel that it compiled under another instruction set, and the kernel computes wrong numbers: with torch
2.13.0, FlexAttention of AVX-512 had relative errors of 0.8 under AVX2.

A folder is used if it is this user's or root's, can be written, has room, and holds what was sealed as it was sealed
(entrypoint/kept/seal.py). Else the report has a note, and the compilers get a folder of the container's own. They put
absolute paths into their files (Triton 3.6), so they always get the path in LOCAL: a link to the folder in ATTN_CACHE.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import sys

from entrypoint.kept import digest, seal
from entrypoint.light import TYPE_CHECKING, dataclass, field, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Final

    from entrypoint.machine.devices import Devices

    Note = Callable[[str], None]

# The folder of each compiler, by its variable. An image's own ENV has LOCAL/<folder>, which counts as not chosen.
FOLDERS: Final = {
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
    "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": "fa4",
    "CUTE_DSL_CACHE_DIR": "cute",
}
LOCAL: Final = "/tmp/attn"
# The folder of folders in ATTN_CACHE and in LOCAL; and, beside this package, in an image that brings some.
COMPILED: Final = "compiled"
LINKS: Final = "kept"  # in LOCAL
UNKNOWN: Final = "unknown"
# Variables that make another device of the same hardware: the instruction set of ATen and of oneDNN, by its older and
# its newer name, and the architecture that an AMD GPU passes for.
LIMITS: Final = ("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA", "HSA_OVERRIDE_GFX_VERSION")
ROOM: Final = 64 << 20  # bytes that must be free


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The folder of the compilers at `path`, the `variables` that tell them so, and what an earlier check sealed in it.

    `path` is None when they keep what the user gave them.
    """

    path: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    sealed: seal.Seal = field(default_factory=dict)


NONE: Final = Kept()


def identity(devices: Devices, cpu: str | None, environ: Mapping[str, str]) -> str | None:
    """The name of the folder for this image's software on these devices; None when they are not known.

    `cpu` is the processor's model and flags, in an image for CPUs.
    """
    names = sorted({gpu.name for gpu in devices.usable})
    if cpu is None and not (names and devices.driver):
        return None
    hardware = [cpu] if cpu is not None else [devices.driver, *names]
    decides = [sys.version, software(), hardware, [environ.get(name) for name in LIMITS]]
    return digest.of_value(decides)


@functools.cache  # a start asks for its compilers' folder, and for its verdict
def software() -> tuple[str, ...]:
    """The names of what is installed, which carry the versions; `site` is not loaded here (`-S`)."""
    lib = os.path.join(os.path.dirname(os.path.dirname(sys.executable)), "lib")
    found: list[str] = []
    for python in sorted(name for name in _listed(lib) if name.startswith("python3")):
        folder = os.path.join(lib, python, "site-packages")
        found += sorted(name for name in _listed(folder) if name.endswith((".dist-info", ".egg-link", ".pth")))
    return tuple(found)


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def prepare(cache: str | None, home: str, name: str | None, environ: Mapping[str, str], note: Note) -> Kept:
    """The folder of this start: in `cache`, or else in LOCAL; a new one gets what the image at `home` brings.

    What is wrong with a folder that is there is passed to `note` in a sentence.
    """
    ours = [variable for variable, folder in FOLDERS.items() if environ.get(variable) in (None, f"{LOCAL}/{folder}")]
    if not ours:
        return NONE
    link = os.path.join(LOCAL, LINKS, name or UNKNOWN)
    local = os.path.join(LOCAL, COMPILED, name or UNKNOWN)
    seeds = [os.path.join(home, COMPILED, name)] if name else []
    if cache and name:
        path = os.path.join(cache, COMPILED, name)
        try:
            sealed = _opened(path, seeds, ROOM)
            return _kept(path, _linked(link, path), ours, sealed)
        except OSError as error:
            note(f"What compilers make is not kept in {path} ({error.strerror}).")
            seeds.insert(0, path)  # it may be there to be read only
        except ValueError as problem:
            note(f"What compilers kept in {path} was ignored: {problem}. Remove it, and it is made again.")
    try:
        sealed = _opened(local, seeds)
        return _kept(local, _linked(link, local), ours, sealed)
    except (OSError, ValueError):
        return fresh(ours, note)


def fresh(ours: Iterable[str], note: Note) -> Kept:
    """A new folder in /tmp for the compilers of these variables; they keep what they have where there can be none."""
    path = f"{LOCAL}-{os.urandom(6).hex()}"
    try:
        return _kept(path, path, ours, _opened(path))
    except OSError as error:
        note(f"The compilers have no folder: {path} cannot be made ({error.strerror}).")
        return NONE


def problem(kept: Kept) -> str | None:
    """Why a folder must not be used after all, once the content of its sealed files is compared too."""
    path = kept.path and seal.broken(kept.path, kept.sealed, thorough=True)
    return f"What compilers kept in {kept.path} was ignored: {path} is not as it was kept." if path else None


def unproved(kept: Kept) -> bool:
    """Whether the folder has files that no passing check has sealed, such as those of a training."""
    return bool(kept.path) and any(path not in kept.sealed for path, _ in seal.files(str(kept.path)))


def _kept(path: str, shown: str, ours: Iterable[str], sealed: seal.Seal) -> Kept:
    variables = {variable: f"{shown}/{FOLDERS[variable]}" for variable in ours}
    return Kept(path=path, variables=variables, sealed=sealed)


def _opened(path: str, seeds: Sequence[str] = (), room: int = 0) -> seal.Seal:
    """The seal of the folder at `path`, which is made where there is none, from the first of `seeds` that is one.

    Raises OSError when it cannot be written or has less than `room` bytes, ValueError when it must not be used.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise ValueError("it is no folder")
    if found.st_uid not in (os.geteuid(), 0):
        raise ValueError(f"it belongs to user {found.st_uid}, not to {os.geteuid()}")
    sealed = seal.read(path)
    if other := seal.broken(path, sealed, thorough=False):
        raise ValueError(f"{other} is not as it was kept")
    seal.replace(os.path.join(path, ".writable"), b"1")
    space = os.statvfs(path)
    if space.f_bavail * space.f_frsize < room:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for seed in () if sealed else seeds:
        with suppress(OSError, ValueError):
            if sealed := seal.copy(seed, path):
                break
    return sealed


def _linked(link: str, path: str) -> str:
    """`link`, once it leads to `path`; `path` itself where it leads elsewhere, and another start may be at work."""
    with suppress(OSError):
        os.makedirs(os.path.dirname(link), exist_ok=True)
        if not os.path.exists(link):
            with suppress(FileNotFoundError):
                os.unlink(link)  # it leads to what is gone
            os.symlink(path, link)
    with suppress(OSError):
        if os.lstat(link).st_uid == os.geteuid() and os.readlink(link) == path:
            return link
    return path
