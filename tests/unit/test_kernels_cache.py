"""Compiled kernels at a start: the image's are linked, and what a run adds can be told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrypoint.kept import seal
from entrypoint.kept.kernels_cache import DIRECTORY, IDENTITY, MARK, PREBUILT, TRITON, TRITON_PREBUILT, compiled, seed


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An image's directory with two kernels, as FA4 names them: version/use/key.o."""
    for use in ("fwd", "bwd"):
        (tmp_path / "home" / PREBUILT / "f00d" / use).mkdir(parents=True)
        (tmp_path / "home" / PREBUILT / "f00d" / use / "key.o").write_text(use)
    return tmp_path / "home"


def test_every_kernel_of_the_image_is_found_where_fa4_looks(home: Path, tmp_path: Path) -> None:
    """In a directory that need not exist, and again at the next start on the same volume."""
    environ = {DIRECTORY: str(tmp_path / "not" / "there")}
    for _ in range(2):
        assert seed(home, environ) is None
        assert (tmp_path / "not/there/f00d/fwd/key.o").read_text() == "fwd"
        assert (tmp_path / "not/there/f00d/bwd/key.o").read_text() == "bwd"
    assert compiled(environ) == set()


def test_only_what_was_compiled_here_counts(home: Path, tmp_path: Path) -> None:
    """FA4 writes a kernel that it compiled beside the links, or in place of one."""
    environ = {DIRECTORY: str(tmp_path)}
    seed(home, environ)
    new = tmp_path / "f00d/fwd/other.o"
    new.touch()
    assert compiled(environ) - {str(path) for path in home.rglob("*.o")} == {str(new)}


def test_a_kernel_that_was_compiled_before_stays(home: Path, tmp_path: Path) -> None:
    """On a volume of an earlier start: it may be this very GPU's own."""
    mine = tmp_path / "volume/f00d/fwd/key.o"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    seed(home, {DIRECTORY: str(tmp_path / "volume")})
    assert mine.read_text() == "mine"


def test_a_directory_that_cannot_be_written_is_said_and_stops_nothing(home: Path, tmp_path: Path) -> None:
    """A start goes on; FA4 then compiles, or says itself what it needs."""
    (tmp_path / "file").touch()
    said = seed(home, {DIRECTORY: str(tmp_path / "file" / "fa4")})
    assert (
        said == f"The image's compiled kernels are not used: {tmp_path}/file/fa4 cannot be written (Not a directory)."
    )


def test_without_fa4_nothing_happens(home: Path, tmp_path: Path) -> None:
    """An image of another backend has no kernels, and outside of an image there is no such directory."""
    assert seed(home, {}) is None
    assert seed(tmp_path, {DIRECTORY: str(tmp_path / "fa4")}) is None
    assert not (tmp_path / "fa4").exists()
    assert compiled({}) == set()


# ---- Triton's ----


def brought(home: Path, identity: str, *keys: str) -> Path:
    """An image's directory with entries of Triton, as its build leaves them."""
    for key in keys:
        (home / TRITON_PREBUILT / key).mkdir(parents=True)
        for name in ("__grp__kernel.json", "kernel.json", "kernel.cubin"):
            (home / TRITON_PREBUILT / key / name).write_text(f"{key} {name}")
    (home / TRITON_PREBUILT / IDENTITY).write_text(f"{identity}\n")
    return home


def test_every_entry_of_the_image_is_found_where_triton_looks(tmp_path: Path) -> None:
    """Its folder is no link, since Triton writes there where a file of it is missing."""
    home = brought(tmp_path / "home", "first", "KEY", "OTHER")
    assert seed(home, {TRITON: str(tmp_path / "triton")}) is None
    assert (tmp_path / "triton/KEY/kernel.cubin").read_text() == "KEY kernel.cubin"
    assert (tmp_path / "triton/OTHER/__grp__kernel.json").is_symlink()
    assert not (tmp_path / "triton/KEY").is_symlink()
    assert not (tmp_path / "triton" / IDENTITY).exists()


def test_a_directory_is_linked_once(tmp_path: Path) -> None:
    """A start that remembers its verdict has no time for it, and looks at the mark alone."""
    home, environ = brought(tmp_path / "home", "first", "KEY"), {TRITON: str(tmp_path / "triton")}
    seed(home, environ)
    (tmp_path / "triton/KEY/kernel.cubin").unlink()
    seed(home, environ)
    assert not (tmp_path / "triton/KEY/kernel.cubin").exists()
    (tmp_path / "triton" / f"{MARK}first").unlink()
    seed(home, environ)
    assert (tmp_path / "triton/KEY/kernel.cubin").exists()


def test_another_image_on_the_same_volume_brings_its_own(tmp_path: Path) -> None:
    """The first one's links lead nowhere there: what they stood for counts as missing, and is made in their place."""
    environ = {TRITON: str(tmp_path / "triton")}
    first = brought(tmp_path / "first", "first", "KEY", "OLD")
    seed(first, environ)
    first.rename(tmp_path / "gone")
    seed(brought(tmp_path / "second", "second", "KEY", "NEW"), environ)
    assert (tmp_path / "triton/NEW/kernel.cubin").read_text() == "NEW kernel.cubin"
    group = tmp_path / "triton/OLD/__grp__kernel.json"
    assert not group.exists()
    group.parent.mkdir(exist_ok=True)  # as Triton does
    (group.parent / "temporary").write_text("compiled")
    (group.parent / "temporary").replace(group)
    assert group.read_text() == "compiled"
    assert not group.is_symlink()


def test_an_image_s_entry_is_no_product_of_a_start(tmp_path: Path) -> None:
    """No seal holds it, and no folder counts as unproved for it: neither the links nor the mark."""
    seed(brought(tmp_path / "home", "first", "KEY"), {TRITON: str(tmp_path / "kept/triton")})
    assert [*seal.files(str(tmp_path / "kept"))] == []
    assert compiled({TRITON: str(tmp_path / "kept/triton")}) == set()
