"""What the rehearsal does around Axolotl's import; what it does with Axolotl, the images' tests see."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from entrypoint.rehearsal import training

AXOLOTL = ("axolotl", *(f"axolotl.{name}" for name in ("cli", "cli.config", "common", "common.datasets")))
AXOLOTL += tuple(f"axolotl.{name}" for name in ("train", "utils", "utils.trainer"))


@pytest.fixture
def fake_axolotl(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in AXOLOTL:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("fake_axolotl")
def test_what_is_imported_is_no_garbage_and_what_comes_later_is() -> None:
    """A collection passes over all that is there, and one still takes place."""
    before = gc.get_freeze_count()
    here = [[]]  # type: ignore[var-annotated]

    training.imported()

    assert gc.isenabled()
    assert gc.get_freeze_count() > before
    assert all(each is not here for each in gc.get_objects())
    later: list[object] = []
    later.append(later)
    assert any(each is later for each in gc.get_objects())
