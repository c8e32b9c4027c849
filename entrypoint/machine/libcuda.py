"""Where the container runtime has put libcuda.so.1, the NVIDIA driver's library, for those that do not find it there.

The loader looks in LD_LIBRARY_PATH, in its cache, and in Debian's folders. Triton links against the library, and looks
for it in TRITON_LIBCUDA_PATH, else in what `ldconfig -p` lists, else in LD_LIBRARY_PATH (Triton 3.6's
backends/nvidia/driver.py). So a library that no cache lists, as on a read-only root or without the runtime's ldconfig
hook, is found by torch alone, or, in a folder of the driver's own, by nobody.
"""

from __future__ import annotations

import os
import re

from entrypoint.errors import MismatchError
from entrypoint.light import TYPE_CHECKING, dataclass, suppress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Final

    from _typeshed import StrPath

NAME: Final = "libcuda.so.1"
_UNNAMED: Final = "libcuda.so"
# Folders that the loader looks in by itself, on Debian, after its cache.
_MULTIARCH: Final = f"{os.uname().machine}-linux-gnu"
_DEFAULT: Final = (f"/usr/lib/{_MULTIARCH}", f"/lib/{_MULTIARCH}", "/usr/lib", "/lib")
# Where drivers are put beside those: by the distribution, Kubernetes (GKE, Talos), WSL, NixOS, and in the end the
# library of the CUDA toolkit for drivers older than itself.
_ELSEWHERE: Final = (
    *("/usr/lib64", "/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/local/glibc/usr/lib"),
    *("/usr/lib/wsl/lib", "/run/opengl-driver/lib", "/usr/local/cuda/compat"),
)
_CACHED: Final = rb"/[^\0]*/libcuda\.so\.1(?=\0)"
_ESCAPED: Final = r"\\([0-7]{3})"


@dataclass(frozen=True, kw_only=True)
class Library:
    """`folder` has libcuda.so.1; None: it is nowhere. `variables` make the loader and Triton find it there.

    `nameless` is a driver library of a version (libcuda.so.580.95.05) that is there without its name libcuda.so.1.
    """

    folder: str | None
    variables: dict[str, str]
    nameless: str | None = None


def find(environ: Mapping[str, str], root: StrPath = "/") -> Library:
    """Look for the library under `root`. What the user has set stays: Triton's variable, the front of the loader's."""
    cached = _cached(root)
    if cached is not None:
        return Library(folder=cached, variables={})
    listed = [folder for folder in environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if folder]
    mounted = list(_mounted(root))
    candidates = (*listed, *_DEFAULT, *mounted, *_ELSEWHERE)
    folder = next((each for each in candidates if os.path.exists(_at(root, each, NAME))), None)
    if folder is None:
        return Library(folder=None, variables={}, nameless=_nameless(root, mounted))
    variables = {} if environ.get("TRITON_LIBCUDA_PATH") else {"TRITON_LIBCUDA_PATH": folder}
    if folder not in (*listed, *_DEFAULT):
        variables["LD_LIBRARY_PATH"] = os.pathsep.join([*listed, folder])
    return Library(folder=folder, variables=variables)


def _cached(root: StrPath) -> str | None:
    """The folder of a library that the loader's cache lists; an old cache may list one that is not there."""
    try:
        with open(os.path.join(root, "etc/ld.so.cache"), "rb") as file:
            paths = re.findall(_CACHED, file.read())
    except OSError:
        return None
    folders = (os.path.dirname(os.fsdecode(path)) for path in paths)
    return next((folder for folder in folders if os.path.exists(_at(root, folder, NAME))), None)


def _mounted(root: StrPath) -> Iterator[str]:
    """The folders into which the driver's libraries were mounted, one by one (CDI) or as a folder of them."""
    try:
        with open(os.path.join(root, "proc/self/mountinfo")) as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        point = re.sub(_ESCAPED, lambda match: chr(int(match[1], 8)), line.split()[4])
        if point.startswith(("/proc", "/sys", "/dev")):
            continue
        if os.path.basename(point).startswith(_UNNAMED):
            yield os.path.dirname(point)
        else:
            yield from (point, os.path.join(point, "lib64"), os.path.join(point, "lib"))


def _nameless(root: StrPath, mounted: list[str]) -> str | None:
    for folder in (*_DEFAULT, *mounted):
        with suppress(OSError):
            names = sorted(name for name in os.listdir(_at(root, folder, "")) if name.startswith(f"{_UNNAMED}."))
            if names:
                return os.path.join(folder, names[0])
    return None


def _at(root: StrPath, folder: str, name: str) -> str:
    return os.path.join(root, folder.lstrip("/"), name)


def require(library: Library, environ: Mapping[str, str]) -> None:
    """Raise MismatchError, with the cause, for a container that has GPUs and not the driver's library."""
    if library.folder is not None:
        return
    capabilities = environ.get("NVIDIA_DRIVER_CAPABILITIES", "")
    what = f"There are NVIDIA GPUs here, but no {NAME}, the driver's library"
    if library.nameless:
        raise MismatchError(
            f"{what}: {library.nameless} is there without that name.",
            "The container runtime did not make its links: let it run its hooks (CDI: nvidia-ctk cdi generate, on the "
            "node), or mount the file as libcuda.so.1.",
        )
    if capabilities and not {"compute", "all"} & set(capabilities.split(",")):
        raise MismatchError(
            f"{what}: NVIDIA_DRIVER_CAPABILITIES={capabilities} leaves it out.",
            "Set NVIDIA_DRIVER_CAPABILITIES=compute,utility.",
        )
    raise MismatchError(
        f"{what}.",
        "Let the NVIDIA Container Toolkit mount it (--gpus all; CDI: nvidia-ctk cdi generate, on the node); if it is "
        "in a folder of your own, name that in LD_LIBRARY_PATH.",
    )
