"""What runs inside an image: records, imports that crash, bytecode, and the walk over the files."""

from __future__ import annotations

import os
import py_compile
import signal
import stat
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest
from inside import compiled, facts, installed, loading, records, tree, usage


def install(site: Path, name: str, files: Mapping[str, str], hashes: str = "") -> metadata.Distribution:
    """Files of a distribution, recorded with their sizes and a hash that `hashes` and their text decide."""
    lines = []
    for key, text in files.items():
        path = site / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        lines.append(f"{key},sha256={hashes}{len(text)},{len(text)}")
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("\n".join([*lines, f"{info.name}/METADATA,,", f"{info.name}/RECORD,,"]) + "\n")
    return metadata.Distribution.at(info)


FLASH_ATTN_4 = {
    "flash_attn/cute/__init__.py": "",
    "flash_attn/cute/interface.py": "x = 1\n",
    "flash_attn/notes.txt": ".",
}


# ---- records ----


def test_modules_are_the_outermost_packages(tmp_path: Path) -> None:
    """A package in a namespace counts, one in a package does not; nor do data, or what no import can name."""
    files = {**FLASH_ATTN_4, "flash_attn/cute/ops/__init__.py": "", "interface.py": "", "a-b.py": "", "x/y.py": ""}

    assert records.modules(install(tmp_path, "flash_attn_4", files)) == ["flash_attn.cute", "interface"]


def test_libraries_are_found_by_their_names(tmp_path: Path) -> None:
    """With and without versions; a source or a text about one is none."""
    names = ["a.so", "lib/libb.so.12", "lib/c.so.12.8", "d.so.txt", "e.sock", "so.py"]
    found = records.libraries(install(tmp_path, "kernels", dict.fromkeys(names, "")))

    assert [str(file) for file in found] == ["a.so", "lib/libb.so.12", "lib/c.so.12.8"]


def test_a_library_that_is_none_is_a_row_and_not_the_end(tmp_path: Path) -> None:
    """The error goes along with the file's name."""
    path = tmp_path / "broken.so"
    path.write_bytes(b"\x7fELF\x02\x01" + bytes(70))

    found = compiled.library("kernels", "broken.so", path)

    assert (found.path, found.code) == ("broken.so", {})
    assert compiled.library("kernels", "gone.so", tmp_path / "gone.so").error.startswith("[Errno 2]")


# ---- what is installed ----


def test_a_file_that_is_missing_or_of_another_size_is_broken(tmp_path: Path) -> None:
    """A truncated library has the same name as a whole one."""
    found = install(tmp_path, "kernels", {"a.so": "12345", "b.py": "", "c.py": "x"})
    assert list(installed.broken(found)) == []
    (tmp_path / "a.so").write_text("123")
    (tmp_path / "c.py").unlink()

    assert list(installed.broken(found)) == ["a.so: 3 bytes, 5 were installed", "c.py: missing"]


def test_strays_are_what_nobody_recorded(tmp_path: Path) -> None:
    """Bytecode is nobody's, and no stray."""
    found = install(tmp_path, "kernels", {"kernels/__init__.py": ""})
    cache = tmp_path / "kernels/__pycache__"
    cache.mkdir()
    (cache / "__init__.cpython-311.pyc").write_bytes(b"")
    assert list(installed.unrecorded(tmp_path, [found])) == []
    (tmp_path / "kernels/patch.py").write_text("")

    assert list(installed.unrecorded(tmp_path, [found])) == ["kernels/patch.py"]


def test_a_file_of_two_distributions_is_contested_unless_both_have_the_same(tmp_path: Path) -> None:
    """FlashAttention 2's stub of flash_attn.cute over flash-attn-4's; an empty namespace file harms nobody."""
    same = {"nvidia/__init__.py": ""}
    first = install(tmp_path, "flash_attn", {"flash_attn/cute/__init__.py": "stub", **same})
    second = install(tmp_path, "flash_attn_4", {**FLASH_ATTN_4, **same})

    assert list(installed.contested([first, second])) == ["flash_attn/cute/__init__.py: flash-attn, flash-attn-4"]


def test_bytecode_fits_its_source(tmp_path: Path) -> None:
    """Missing, or of a source that was edited since; a source for another Python has none and needs none."""
    source, newer = tmp_path / "a.py", tmp_path / "newer.py"
    source.write_text("x = 1\n")
    newer.write_text("type X = = int\n")
    assert installed.uncompiled(source) == "no bytecode"
    py_compile.compile(str(source))
    assert installed.uncompiled(source) == ""
    source.write_text("x = 2 + 3\n")

    assert installed.uncompiled(source) == "bytecode of another source"
    assert installed.uncompiled(newer) == ""


# ---- imports ----


def test_what_an_attempt_raises_is_its_error() -> None:
    """As the type and the message: the linker's own words are in it."""

    def fail() -> None:
        raise OSError("_C.so: undefined symbol: _ZN3c105ErrorE")

    assert loading.attempt(fail) == "OSError: _C.so: undefined symbol: _ZN3c105ErrorE"
    assert loading.attempt(lambda: None) == ""


def test_a_crash_and_an_exit_are_errors_and_not_the_end() -> None:
    """A library whose constructor crashes or ends the process."""
    assert loading.attempt(lambda: os.kill(os.getpid(), signal.SIGKILL)) == "crashed: SIGKILL"
    assert loading.attempt(lambda: os._exit(3)) == "ended the process with code 3"
    assert loading.attempt(lambda: sys.exit(4)) == "SystemExit: 4"


def test_a_hang_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while that no import takes."""
    monkeypatch.setattr(loading, "PATIENCE", 0.2)

    assert loading.attempt(signal.pause) == "did not end within 0.2 seconds"


def test_an_attempt_changes_nothing_here() -> None:
    """It runs in a fork: what it loads is gone with it."""
    assert loading.attempt(lambda: sys.modules.__setitem__("left_behind", sys)) == ""
    assert "left_behind" not in sys.modules


def test_without_a_driver_a_stand_in_is_tried_once_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only where the driver is all that is missing; what then fails is the library's own fault."""
    answers = iter(["OSError: libcuda.so.1: cannot open shared object file", "OSError: undefined symbol: other"])
    monkeypatch.setattr(loading, "attempt", lambda _: next(answers))
    loader = loading.Loader({})
    monkeypatch.setattr(loader, "stand_in", lambda: str(tmp_path))

    found = loader.load("kernels", "_C.so", lambda: None)

    assert (found.error, found.note) == ("OSError: undefined symbol: other", "with a stand-in for the GPU's driver")


# ---- the file system ----


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (stat.S_IFREG | 0o666, True),
        (stat.S_IFDIR | 0o777, True),
        (stat.S_IFDIR | stat.S_ISVTX | 0o777, False),
        (stat.S_IFLNK | 0o777, False),
        (stat.S_IFREG | 0o664, False),
    ],
)
def test_writable_by_everybody(mode: int, expected: bool) -> None:
    """Links always look so; /tmp is sticky."""
    assert tree.writable(mode) is expected


def test_the_walk_follows_no_link_and_sees_every_file(tmp_path: Path) -> None:
    """A link to a folder above would never end."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_text("")
    (tmp_path / "a/up").symlink_to(tmp_path)

    found = {Path(path).relative_to(tmp_path).as_posix() for path, _ in tree.entries(str(tmp_path))}

    assert found == {"a", "a/b", "a/b/file", "a/up"}


def looked_at(paths: Mapping[str, int], size: int = 1) -> facts.Files:
    """What `look` says of paths with these modes."""
    return tree.look([(path, os.stat_result((mode, 0, 0, 1, 0, 0, size, 0, 0, 0))) for path, mode in paths.items()])


def test_what_builds_leave_behind_is_found() -> None:
    """Caches, lists, logs and mount points; an empty lock file of apt's own is none."""
    regular = stat.S_IFREG | 0o644
    left = [
        "/root/.cache/pip/http/x",
        "/home/attn/.cache/uv/y",
        "/var/lib/apt/lists/deb_Packages",
        "/tmp/out.txt",
        "/run/strip",
    ]
    fine = ["/home/attn/.bashrc", "/var/lib/dpkg/status", "/opt/venv/lib/x.py"]

    assert looked_at(dict.fromkeys([*left, *fine], regular)).left == tuple(left)
    assert looked_at({"/var/lib/apt/lists/lock": regular}, size=0).left == ()


def test_settings_and_secrets_are_found_by_name() -> None:
    """An index's address, a mounted secret, somebody's key."""
    regular = stat.S_IFREG | 0o644
    found = looked_at(
        dict.fromkeys(["/etc/pip.conf", "/home/attn/.netrc", "/run/secrets/ca", "/root/.ssh/id_rsa"], regular)
    )

    assert found.settings == ("/etc/pip.conf", "/home/attn/.netrc")
    assert found.secrets[:2] == ("/run/secrets/ca", "/root/.ssh/id_rsa")


def test_certificates_and_keys_are_found_by_content(tmp_path: Path) -> None:
    """A certificate of a site, and a private key even where packages keep certificates of their own."""
    site = tmp_path / "site-packages/certifi"
    site.mkdir(parents=True)
    names = {
        "own.crt": b"-----BEGIN CERTIFICATE-----\n",
        "key.pem": b"-----BEGIN RSA PRIVATE KEY-----\n",
        "a.pem": b"x",
    }
    for name, text in names.items():
        (tmp_path / name).write_bytes(text)
        (site / name).write_bytes(text)

    def secret(path: Path) -> bool:
        return tree.secret(str(path), path.stat().st_size)

    assert [secret(tmp_path / name) for name in names] == [True, True, False]
    assert [secret(site / name) for name in names] == [False, True, False]


def test_bytes_are_counted_by_kind() -> None:
    """The first kind that fits; bytecode belongs to its source's distribution."""
    paths = ["/x/liba.a", "/x/include/a", "/x/tests/a.py", "/x/__pycache__/a.pyc", "/usr/share/doc/a", "/x/a.py"]
    kinds = ["static libraries", "headers", "tests", "bytecode", "manuals and translations", "everything else"]

    assert [usage.kind_of(path) for path in paths] == kinds
    assert usage.source_of("/x/__pycache__/a.b.cpython-311.pyc") == "/x/a.b.py"
    assert usage.directory_of("/usr/lib/gcc/x86_64/12/cc1") == "/usr/lib/gcc/x86_64"
    assert usage.directory_of("/usr/bin/gcc") == "/usr/bin"


def test_facts_survive_their_journey() -> None:
    """What a container prints is what the host reads."""
    load = facts.Load(distribution="torch", name="torch")
    loads = facts.Loads(loads=(load,), torch="2.10.0", architectures=("sm_80",))
    library = facts.Library(distribution="torch", path="a.so", code={"sm_80": 3})

    assert facts.loads(facts.to_json(loads)) == loads
    assert facts.libraries(facts.to_json([library])) == (library,)
