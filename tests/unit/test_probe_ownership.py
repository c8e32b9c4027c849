"""A package is its distribution's own only when every file is recorded and unchanged."""

from __future__ import annotations

import base64
import hashlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from entrypoint.probe.fa4 import ownership

MODULE, DISTRIBUTION = "flash_attn.cute", "flash-attn-4"
FILES = {"__init__.py": "flash_attn_func = 1\n", "interface.py": "flash_attn_varlen_func = 2\n"}


def install(site: Path, files: dict[str, str], *, distribution: str = DISTRIBUTION) -> Path:
    """Files of flash_attn/cute as pip leaves them, with their RECORD; the folder that holds them."""
    folder = site / "flash_attn/cute"
    folder.mkdir(parents=True, exist_ok=True)
    metadata = site / f"{distribution.replace('-', '_')}-4.0.0b36.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {distribution}\nVersion: 4.0.0b36\n")
    lines = [f"{metadata.name}/RECORD,,", f"{metadata.name}/METADATA,,"]
    for name, text in files.items():
        (folder / name).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"flash_attn/cute/{name},sha256={digest},{len(text)}")
    (metadata / "RECORD").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty site-packages, first on the path, with no flash_attn imported from elsewhere."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "flash_attn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "flash_attn"]:
        del sys.modules[name]
    importlib.invalidate_caches()


def test_what_pip_installed_has_no_problems(site: Path) -> None:
    """Compiled files beside it are Python's own."""
    folder = install(site, FILES)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "interface.cpython-311.pyc").write_bytes(b"compiled")
    assert ownership.problems(MODULE, DISTRIBUTION) == []


def test_it_is_found_without_being_imported(site: Path) -> None:
    """Importing FA4 takes seconds; looking at it does not."""
    install(site, {"__init__.py": "raise AssertionError\n"})
    assert ownership.problems(MODULE, DISTRIBUTION) == []


def test_nothing_installed(site: Path) -> None:
    """A folder alone, such as FlashAttention 2's stub, is nobody's."""
    (site / "flash_attn/cute").mkdir(parents=True)
    (site / "flash_attn/cute/__init__.py").write_text("")
    assert ownership.problems(MODULE, DISTRIBUTION) == ["flash-attn-4 is not installed"]


def test_a_stub_over_it_is_named(site: Path) -> None:
    """FlashAttention 2 installed after FA4 leaves its own `__init__.py` there, and files that FA4 does not know."""
    folder = install(site, FILES)
    (folder / "__init__.py").write_text("# FlashAttention 2's\n")
    (folder / "flash_fwd_old.py").write_text("")
    assert ownership.problems(MODULE, DISTRIBUTION) == [
        f"{folder / 'flash_fwd_old.py'} belongs to no recorded file",
        f"{folder / '__init__.py'} is not the file that was installed",
    ]


def test_a_changed_and_a_missing_file_are_named(site: Path) -> None:
    """Half an upgrade, or a hand that helped."""
    folder = install(site, {**FILES, "mask.py": "x = 1\n"})
    (folder / "interface.py").write_text(FILES["interface.py"] + "#")
    (folder / "mask.py").unlink()
    assert ownership.problems(MODULE, DISTRIBUTION) == [
        f"{folder / 'interface.py'} is not the file that was installed",
        f"{folder / 'mask.py'} is missing",
    ]


def test_a_package_earlier_on_the_path_is_named(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FA4 is whole, and something else is imported."""
    install(site / "packages", FILES)
    monkeypatch.syspath_prepend(str(site / "packages"))
    shadow = site / "shadow/flash_attn/cute"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("")
    (shadow.parent / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(site / "shadow"))
    assert ownership.problems(MODULE, DISTRIBUTION) == [
        f"{MODULE} is {shadow / '__init__.py'}, which flash-attn-4 4.0.0b36 did not install"
    ]


def test_a_distribution_without_the_package_is_named(site: Path) -> None:
    """An editable install, or another package of that name."""
    install(site, {})
    assert ownership.problems(MODULE, DISTRIBUTION) == ["flash-attn-4 4.0.0b36 records no file of flash_attn.cute"]
