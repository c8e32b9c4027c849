"""What is sealed, and how a folder that is not as it was sealed is told."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from entrypoint.kept import seal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two kernels that were written a minute ago, sealed."""
    for name in ("inductor/ab/kernel.so", "triton/KEY/kernel.cubin"):
        settled(tmp_path / name, b"machine code")
    seal.write(str(tmp_path), {})
    return tmp_path


def settled(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (0, time.time() - 60))


def test_what_was_sealed_is_read_again(folder: Path) -> None:
    """Each file by its path in the folder, and it is as it was."""
    read = seal.read(str(folder))
    assert set(read) == {"inductor/ab/kernel.so", "triton/KEY/kernel.cubin"}
    assert seal.broken(str(folder), read, thorough=True) is None


def test_a_file_of_another_length_is_found_by_its_size(folder: Path) -> None:
    """Truncated, by a full disk or a machine that lost power."""
    (folder / "inductor/ab/kernel.so").write_bytes(b"machine")
    assert seal.broken(str(folder), seal.read(str(folder)), thorough=False) == "inductor/ab/kernel.so"


def test_other_bytes_of_the_same_length_are_found_by_their_digest(folder: Path) -> None:
    """And only by that: a remembered verdict costs no look into every file."""
    (folder / "triton/KEY/kernel.cubin").write_bytes(b"machine c0de")
    read = seal.read(str(folder))
    assert seal.broken(str(folder), read, thorough=False) is None
    assert seal.broken(str(folder), read, thorough=True) == "triton/KEY/kernel.cubin"


def test_a_folder_in_the_place_of_a_file_is_no_such_file(folder: Path) -> None:
    """It cannot be read, so it is not what was sealed."""
    (folder / "triton/KEY/kernel.cubin").unlink()
    (folder / "triton/KEY/kernel.cubin").mkdir()
    assert seal.broken(str(folder), seal.read(str(folder)), thorough=True) == "triton/KEY/kernel.cubin"


def test_a_file_that_is_gone_is_made_again(folder: Path) -> None:
    """A compiler that misses it compiles it; nobody loads it."""
    (folder / "inductor/ab/kernel.so").unlink()
    assert seal.broken(str(folder), seal.read(str(folder)), thorough=True) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", '{"schema": 1}', '{"schema": 1, "files": {"a": 1}}', "\0"),
        *("[" * 100_000, '{"schema": 1, "files": {"a": [1e999, ""]}}'),
    ],
    ids=lambda text: text[:40],
)
def test_a_seal_that_is_none_is_an_error(folder: Path, text: str) -> None:
    """Not an empty seal: the files may be anything."""
    (folder / seal.NAME).write_text(text)
    with pytest.raises(ValueError, match=r"."):
        seal.read(str(folder))


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    """In the place of a seal, or of an empty file that was sealed."""
    settled(folder / "triton/empty", b"")
    sealed = seal.write(str(folder), seal.read(str(folder)))
    for path in ("triton/empty", seal.NAME):
        (folder / path).unlink()
        os.mkfifo(folder / path)
    assert seal.broken(str(folder), sealed, thorough=True) == "triton/empty"
    with pytest.raises(ValueError, match="it is no file"):
        seal.read(str(folder))


def test_what_is_still_written_or_locked_is_not_sealed(tmp_path: Path) -> None:
    """A linker's half of a library; locks; a link to a kernel that the image brings."""
    for name in ("inductor/locks/a.lock", "fa4/v/a.lock", "triton/K/lock", "triton/K/.half", "fa4/a.o"):
        settled(tmp_path / name, b"1")
    (tmp_path / "inductor/new.so").write_bytes(b"1")
    (tmp_path / "fa4/link.o").symlink_to(tmp_path / "fa4/a.o")
    assert set(seal.write(str(tmp_path), {})) == {"fa4/a.o"}


def test_a_later_seal_adds_and_takes_nothing_back(folder: Path) -> None:
    """What was proved once keeps its digest: a file changed since then stays a broken one."""
    before = seal.read(str(folder))
    settled(folder / "inductor/cd/more.so", b"of a training")
    settled(folder / "inductor/ab/kernel.so", b"poison")
    after = seal.write(str(folder), before)
    assert set(after) - set(before) == {"inductor/cd/more.so"}
    assert after["inductor/ab/kernel.so"] == before["inductor/ab/kernel.so"]
    assert seal.read(str(folder)) == after


def test_a_copy_is_what_was_sealed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """And nothing else; with its seal."""
    settled(folder / "inductor/cd/unsealed.so", b"1")
    target = tmp_path_factory.mktemp("copy")
    assert seal.copy(str(folder), str(target)) == seal.read(str(target)) == seal.read(str(folder))
    assert not (target / "inductor/cd").exists()
    (folder / "inductor/ab/kernel.so").write_bytes(b"machine c0de")
    with pytest.raises(ValueError, match=r"kernel\.so is not as it was sealed"):
        seal.copy(str(folder), str(tmp_path_factory.mktemp("poisoned")))


def test_cudas_store_is_kept_and_not_compared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The driver rewrites its index with each kernel, and looks itself at what it finds."""
    settled(folder / "cuda/index", b"one kernel")
    before = seal.write(str(folder), seal.read(str(folder)))
    settled(folder / "cuda/index", b"two kernels")
    assert seal.broken(str(folder), before, thorough=True) is None
    assert seal.write(str(folder), before)["cuda/index"] != before["cuda/index"]
    target = tmp_path_factory.mktemp("copy")
    settled(folder / "cuda/index", b"three kernels")
    seal.copy(str(folder), str(target))
    assert (target / "cuda/index").read_bytes() == b"three kernels"
