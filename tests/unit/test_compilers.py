"""The compilers' folder of a start: which it is, when it is used, and what is said when it is not."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from attn_matrix import ROOT
from attn_matrix.host.dockerfile import of_stage

from entrypoint.kept import compilers, seal
from entrypoint.kept.compilers import COMPILED, FOLDERS, LIMITS, LINKS, Kept
from entrypoint.machine.devices import Devices, Gpu

H100 = Gpu(minor=0, name="NVIDIA H100 80GB HBM3", uuid="GPU-1")
NOBODY = Devices(driver=None, listed=(), count=0, usable=())


@pytest.fixture(autouse=True)
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /tmp/attn of each test's own."""
    monkeypatch.setattr(compilers, "LOCAL", str(tmp_path / "tmp/attn"))
    return tmp_path / "tmp/attn"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def prepare(cache: Path | None, home: Path = Path(os.devnull), **environ: str) -> tuple[Kept, list[str]]:
    notes: list[str] = []
    kept = compilers.prepare(str(cache) if cache else None, str(home), "key", environ, notes.append)
    return kept, notes


def filled(folder: Path) -> Path:
    """A folder with one sealed kernel; the kernel."""
    kernel = folder / "triton/KEY/kernel.cubin"
    kernel.parent.mkdir(parents=True)
    kernel.write_bytes(b"machine code")
    os.utime(kernel, (0, 0))
    seal.write(str(folder), {})
    return kernel


def on(*gpus: Gpu, driver: str = "580.1", **environ: str) -> str | None:
    return compilers.identity(Devices(driver=driver, listed=gpus, count=len(gpus), usable=gpus), None, environ)


def on_cpu(cpu: str, **environ: str) -> str | None:
    return compilers.identity(NOBODY, cpu, environ)


# ---- which folder ----


def test_each_device_has_a_folder_of_its_own() -> None:
    """Another model, driver or instruction set is another one; another GPU of the same model is not."""
    other = Gpu(minor=1, name="NVIDIA A100-SXM4-80GB", uuid="GPU-2")
    assert re.fullmatch(r"[0-9a-f]{32}", str(on(H100)))
    assert on(H100) == on(H100, Gpu(minor=7, name=H100.name, uuid="GPU-8"))
    assert len({on(H100), on(other), on(H100, other), on(H100, driver="575.1"), on_cpu("avx512"), on_cpu("avx2")}) == 6


def test_a_limit_of_the_instruction_set_makes_another_device() -> None:
    """Each variable, and each value of it."""
    values = [{name: value} for name in LIMITS for value in ("AVX2", "DEFAULT")]
    assert len({on_cpu("fast"), *(on_cpu("fast", **limit) for limit in values)}) == 1 + len(values)


def test_unknown_gpus_have_no_folder_that_is_kept(cache: Path, local: Path) -> None:
    """Without a listing of the driver's nobody knows whose kernels those would be."""
    assert compilers.identity(NOBODY, None, {}) is None
    kept = compilers.prepare(str(cache), os.devnull, None, {}, pytest.fail)
    assert kept.path == str(local / COMPILED / "unknown")
    assert not cache.exists()


def test_other_software_has_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of the distributions carry their versions."""
    before = on(H100)
    monkeypatch.setattr(compilers, "software", lambda: ["torch-9.9.9.dist-info"])
    assert on(H100) != before


# ---- whose variables ----


def test_every_compiler_gets_its_part(cache: Path, local: Path) -> None:
    """By the path in LOCAL, which is a link: compilers write absolute paths into their files."""
    kept, notes = prepare(cache)
    assert kept.path == str(cache / COMPILED / "key")
    assert kept.variables == {name: f"{local}/{LINKS}/key/{folder}" for name, folder in FOLDERS.items()}
    assert str((local / LINKS / "key").readlink()) == kept.path
    assert notes == []


def test_an_images_own_value_is_nobodys_choice(cache: Path, local: Path) -> None:
    """A user's is, an empty one too."""
    kept, _ = prepare(cache, TRITON_CACHE_DIR=f"{local}/triton", CUDA_CACHE_PATH="/mine", CUTE_DSL_CACHE_DIR="")
    assert set(kept.variables) == FOLDERS.keys() - {"CUDA_CACHE_PATH", "CUTE_DSL_CACHE_DIR"}
    chosen = dict.fromkeys(FOLDERS, "/mine")
    assert compilers.prepare(str(cache), os.devnull, "key", chosen, pytest.fail) == compilers.NONE


def test_the_images_own_values_are_the_dockerfiles() -> None:
    """Else no start would notice that nobody chose another."""
    image = of_stage((ROOT / "docker/Dockerfile").read_text(encoding="utf-8"), "image")
    own = {name: value for name, value in image.items() if name in FOLDERS}
    assert own == {name: f"/tmp/attn/{FOLDERS[name]}" for name in own}
    assert len(own) >= 4


def test_without_a_directory_all_ends_with_the_container(local: Path) -> None:
    """ATTN_CACHE= keeps nothing: the folder is the container's own."""
    kept, notes = prepare(None)
    assert kept.path == str(local / COMPILED / "key")
    assert not Path(kept.path).is_symlink()
    assert notes == []


# ---- a folder that is not used ----


def test_a_sealed_folder_is_used_again(cache: Path) -> None:
    filled(cache / COMPILED / "key")
    kept, notes = prepare(cache)
    assert (kept.path, list(kept.sealed), notes) == (str(cache / COMPILED / "key"), ["triton/KEY/kernel.cubin"], [])
    assert compilers.problem(kept) is None
    assert not compilers.unproved(kept)


@pytest.mark.parametrize("what", ["truncated", "no seal"])
def test_a_poisoned_folder_is_ignored(cache: Path, local: Path, what: str) -> None:
    """With a note, and never loaded: the compilers get a folder of the container's own."""
    kernel = filled(cache / COMPILED / "key")
    (kernel if what == "truncated" else cache / COMPILED / "key" / seal.NAME).write_bytes(b"\0")
    kept, notes = prepare(cache)
    assert kept.path == str(local / COMPILED / "key")
    assert not any(Path(kept.path).glob("triton/*"))
    assert len(notes) == 1
    assert f"What compilers kept in {cache}/compiled/key was ignored" in notes[0]


def test_other_bytes_are_found_before_a_check(cache: Path) -> None:
    """By the digest of each file; a start that remembers its verdict looks at sizes alone."""
    filled(cache / COMPILED / "key").write_bytes(b"machine c0de")
    kept, _ = prepare(cache)
    assert "triton/KEY/kernel.cubin is not as it was kept" in str(compilers.problem(kept))


def test_another_users_folder_is_ignored(cache: Path, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in it runs as this user, so whoever could write it could do what this user may."""
    filled(cache / COMPILED / "key")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    mine = os.getuid()
    if mine == 0:
        os.chown(cache / COMPILED / "key", 12345, 0)
        mine = 12345
    kept, notes = prepare(cache)
    assert kept.path != str(cache / COMPILED / "key")
    assert f"it belongs to user {mine}, not to" in notes[0]


def test_a_link_in_its_place_is_ignored(cache: Path, tmp_path: Path) -> None:
    """It may lead anywhere."""
    filled(tmp_path / "elsewhere")
    (cache / COMPILED).mkdir(parents=True)
    (cache / COMPILED / "key").symlink_to(tmp_path / "elsewhere")
    kept, notes = prepare(cache)
    assert "it is no folder" in notes[0]
    assert kept.sealed == {}


def test_a_full_disk_is_said(cache: Path, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a compiler meets it, whose error would be the kernel's."""
    monkeypatch.setattr(compilers, "ROOM", 1 << 62)
    kept, notes = prepare(cache)
    assert kept.path == str(local / COMPILED / "key")
    assert notes == [f"What compilers make is not kept in {cache}/compiled/key (No space left on device)."]


def test_a_directory_that_cannot_be_written_is_read_at_least(
    cache: Path, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only volume of recorded kernels: they are copied, and what is compiled beside them is not kept."""
    filled(cache / COMPILED / "key")
    monkeypatch.setattr(compilers, "ROOM", 1 << 62)
    kept, notes = prepare(cache)
    assert (local / COMPILED / "key/triton/KEY/kernel.cubin").read_bytes() == b"machine code"
    assert list(kept.sealed) == ["triton/KEY/kernel.cubin"]
    assert len(notes) == 1


def test_where_nothing_can_be_written_the_start_goes_on(cache: Path, tmp_path: Path) -> None:
    """The compilers keep the folders that the image gives them, and say themselves what they need."""
    (tmp_path / "tmp").write_text("a file")
    cache.write_text("a file")
    kept, notes = prepare(cache)
    assert kept == compilers.NONE
    assert [note.partition(" /")[0] for note in notes] == [
        "What compilers make is not kept in",
        "The compilers have no folder:",
    ]


# ---- what an image brings, and other starts ----


def test_what_the_image_brings_is_copied_once(cache: Path, tmp_path: Path) -> None:
    """Into a new folder; one that has a seal has its own."""
    filled(tmp_path / "home" / COMPILED / "key")
    kept, _ = prepare(cache, tmp_path / "home")
    assert (cache / COMPILED / "key/triton/KEY/kernel.cubin").read_bytes() == b"machine code"
    (cache / COMPILED / "key/triton/KEY/kernel.cubin").unlink()
    again, _ = prepare(cache, tmp_path / "home")
    assert kept.sealed == again.sealed != {}
    assert not (cache / COMPILED / "key/triton/KEY/kernel.cubin").exists()


def test_what_an_image_brings_for_another_gpu_is_not(cache: Path, tmp_path: Path) -> None:
    filled(tmp_path / "home" / COMPILED / "another")
    kept, _ = prepare(cache, tmp_path / "home")
    assert kept.sealed == {}


def test_the_link_of_a_start_that_may_still_run_stays(cache: Path, local: Path, tmp_path: Path) -> None:
    """Its compilers must not meet another folder. One that leads to what is gone is made again."""
    first, _ = prepare(cache)
    second, _ = prepare(tmp_path / "other")
    assert str((local / LINKS / "key").readlink()) == first.path
    assert second.variables["TRITON_CACHE_DIR"] == f"{tmp_path}/other/{COMPILED}/key/triton"
    shutil.rmtree(cache)
    third, _ = prepare(None)
    assert str((local / LINKS / "key").readlink()) == third.path == str(local / COMPILED / "key")


def test_unsealed_files_are_known(cache: Path) -> None:
    """Those of a training, which no check has proved."""
    kept, _ = prepare(cache)
    assert not compilers.unproved(kept)
    (cache / COMPILED / "key/inductor").mkdir()
    (cache / COMPILED / "key/inductor/kernel.so").write_bytes(b"1")
    assert compilers.unproved(kept)
