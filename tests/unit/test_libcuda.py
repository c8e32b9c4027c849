"""Where the driver's library is found, and what Triton and the loader are told of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from entrypoint.errors import MismatchError
from entrypoint.machine import libcuda

DEBIAN = f"/usr/lib/{os.uname().machine}-linux-gnu"
BOTH = ("TRITON_LIBCUDA_PATH", "LD_LIBRARY_PATH")


def put(root: Path, folder: str, name: str = "libcuda.so.1") -> None:
    (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
    (root / folder.lstrip("/") / name).touch()


def cache(root: Path, *paths: str) -> None:
    """A loader's cache that lists these: a header, and then names and paths, each ended by a zero byte."""
    (root / "etc").mkdir()
    strings = b"".join(Path(path).name.encode() + b"\0" + path.encode() + b"\0" for path in paths)
    (root / "etc/ld.so.cache").write_bytes(b"glibc-ld.so.cache1.1\x02\0\0\0" + strings)


def mount(root: Path, point: str) -> None:
    """A line of mountinfo as the kernel writes it: blanks in a path are octal."""
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    with (root / "proc/self/mountinfo").open("a") as file:
        file.write(f"36 35 98:0 /x {point.replace(' ', chr(92) + '040')} ro,nosuid master:1 - ext4 /dev/root rw\n")


def test_a_library_in_the_cache_needs_nothing(tmp_path: Path) -> None:
    put(tmp_path, DEBIAN)
    cache(tmp_path, "/usr/lib/libother.so.1", f"{DEBIAN}/libcuda.so.1")

    assert libcuda.find({}, tmp_path) == libcuda.Library(folder=DEBIAN, variables={})


@pytest.mark.parametrize("listed", [(), ("/usr/lib/libcuda.so.12",), ("/gone/libcuda.so.1",)])
def test_debians_folder_without_the_cache_is_told_to_triton_alone(tmp_path: Path, listed: tuple[str, ...]) -> None:
    """The loader looks there anyway. No cache, one with a like name, and one that is older than the driver."""
    put(tmp_path, DEBIAN)
    cache(tmp_path, *listed)

    found = libcuda.find({"LD_LIBRARY_PATH": "/mine"}, tmp_path)

    assert found == libcuda.Library(folder=DEBIAN, variables={"TRITON_LIBCUDA_PATH": DEBIAN})


@pytest.mark.parametrize(
    "folder", ["/usr/lib64", "/usr/local/nvidia/lib64", "/usr/lib/wsl/lib", "/usr/local/cuda/compat"]
)
def test_other_folders_are_told_to_the_loader_too(tmp_path: Path, folder: str) -> None:
    put(tmp_path, folder)

    assert libcuda.find({}, tmp_path).variables == dict.fromkeys(BOTH, folder)


@pytest.mark.parametrize(
    "point", ["/opt/my driver/libcuda.so.1", "/opt/my driver/libcuda.so.580.95.05", "/opt/my driver"]
)
def test_any_folder_that_something_was_mounted_into(tmp_path: Path, point: str) -> None:
    """The library itself, its file with the version beside the link, or the folder; the name may hold a blank."""
    put(tmp_path, "/opt/my driver")
    mount(tmp_path, "/")
    mount(tmp_path, "/proc")
    mount(tmp_path, point)

    assert libcuda.find({}, tmp_path).variables == dict.fromkeys(BOTH, "/opt/my driver")


def test_what_the_user_set_stays(tmp_path: Path) -> None:
    """Their folders go first, and Triton's own variable is theirs."""
    put(tmp_path, "/usr/lib64")
    environ = {"LD_LIBRARY_PATH": "/mine:/yours", "TRITON_LIBCUDA_PATH": "/stubs"}

    assert libcuda.find(environ, tmp_path).variables == {"LD_LIBRARY_PATH": "/mine:/yours:/usr/lib64"}


def test_a_folder_that_the_user_named_is_told_to_triton(tmp_path: Path) -> None:
    """It goes before Debian's, as for the loader."""
    put(tmp_path, "/mine")
    put(tmp_path, DEBIAN)

    assert libcuda.find({"LD_LIBRARY_PATH": "/mine"}, tmp_path).variables == {"TRITON_LIBCUDA_PATH": "/mine"}


def test_the_real_driver_goes_before_the_toolkits_own(tmp_path: Path) -> None:
    """cuda-compat is for drivers that are older, and refuses others."""
    put(tmp_path, "/usr/local/cuda/compat")
    put(tmp_path, "/usr/lib64")

    assert libcuda.find({}, tmp_path).folder == "/usr/lib64"


def refusal(root: Path, **environ: str) -> MismatchError:
    with pytest.raises(MismatchError) as caught:
        libcuda.require(libcuda.find(environ, root), environ)
    return caught.value


def test_no_library_is_a_mismatch(tmp_path: Path) -> None:
    """Of the node or of the options: never of the image's packages."""
    error = refusal(tmp_path, NVIDIA_DRIVER_CAPABILITIES="compute,utility")

    assert error.what == "There are NVIDIA GPUs here, but no libcuda.so.1, the driver's library."
    assert "nvidia-ctk cdi generate" in error.advice


def test_capabilities_without_compute_are_the_cause(tmp_path: Path) -> None:
    error = refusal(tmp_path, NVIDIA_DRIVER_CAPABILITIES="utility")

    assert error.what.endswith("NVIDIA_DRIVER_CAPABILITIES=utility leaves it out.")


def test_a_library_without_its_name_is_the_cause(tmp_path: Path) -> None:
    """The runtime mounts the file of the driver's version; the name is a link that its hook makes."""
    put(tmp_path, DEBIAN, "libcuda.so.580.95.05")

    assert f"{DEBIAN}/libcuda.so.580.95.05 is there without that name" in refusal(tmp_path).what


def test_a_library_that_is_there_is_no_mismatch(tmp_path: Path) -> None:
    put(tmp_path, "/usr/lib64")

    libcuda.require(libcuda.find({}, tmp_path), {})
