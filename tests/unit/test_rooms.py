"""The rooms of the house: which folder may import which, so that data takes one way and no circle comes back."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from attn_matrix import ROOT

# Each room, and all that it may import beside its own modules and the package's top (errors, hints).
HOST = {
    "matrix": set[str](),
    "rendered": {"matrix"},
    "host": {"matrix", "rendered"},
    "commands": {"matrix", "rendered", "host"},
}
# What the judge and the children may know of the container's side. Neither knows the other.
LEFT = {"children.outcome", "children.ranks"}
JUDGE = {"choice", "collective", "events", "light", "preflight", "rehearsal", "settings", "spec"} | LEFT
REHEARSAL = {"children.outcome", "events", "light", "lines", "probe"}
PROBE = {"events", "machine.devices", "lines", "shape", "spec", "spelling"}
PREFLIGHT = {"errors", "events", "light", "machine.devices", "shape", "spec"}
RACE = {"events", "probe", "shape"}
COLLECTIVE = {"events", "lines"}
# What is made from a report: the picture of many, which the host makes too, and the forms that orchestrators read.
FLEET = {"judge"}
WRITERS = {"judge", "kept.cache", "report.text"}
# The parent's own: what the container was given, and what is kept from start to start.
MACHINE = {"errors", "light"}
KEPT = {"errors", "light", "machine.devices", "settings", "spec"}
# Rooms of which another knows single modules.
SHARED = {"children", "kept", "machine", "report"}


def imported(path: Path) -> Iterator[str]:
    """The dotted names that a module imports, those within functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts(folder: Path, package: str) -> set[str]:
    """The modules and rooms of `package` that the modules in `folder` import; of a shared room, its modules."""
    names = {name for path in folder.rglob("*.py") for name in imported(path)}
    split = [name.split(".") for name in names if name.startswith(f"{package}.")]
    return {".".join(part[1:3]) if part[1] in SHARED - {folder.name} else part[1] for part in split}


@pytest.mark.parametrize("room", HOST)
def test_a_room_of_the_host_imports_only_those_before_it(room: str) -> None:
    used = parts(ROOT / "docker/attn_matrix" / room, "attn_matrix") & HOST.keys()
    assert used - {room} <= HOST[room]


ROOMS = {
    "judge": JUDGE,
    "probe": PROBE,
    "preflight": PREFLIGHT,
    "rehearsal": REHEARSAL,
    "race": RACE,
    "collective": COLLECTIVE,
    "fleet": FLEET,
    "machine": MACHINE,
    "kept": KEPT,
    "writers": WRITERS,
}


@pytest.mark.parametrize(("room", "known"), ROOMS.items())
def test_judging_and_measuring_do_not_know_each_other(room: str, known: set[str]) -> None:
    assert parts(ROOT / "entrypoint" / room, "entrypoint") - {room} <= known


def test_the_judge_knows_of_a_rehearsal_its_events_alone() -> None:
    names = {name for path in (ROOT / "entrypoint/judge").glob("*.py") for name in imported(path)}
    of_it = {name for name in names if name.startswith("entrypoint.rehearsal")}
    assert {name.split(".")[2] for name in of_it} <= {"events", "outcome"}


def test_no_module_stands_outside_of_a_room() -> None:
    """But the package's own face and what every room needs."""
    top = {path.stem for path in (ROOT / "docker/attn_matrix").glob("*.py")}
    assert top == {"__init__", "__main__", "cli", "errors", "hints"}


def test_the_rules_read_no_file_and_start_nothing() -> None:
    """Facts in, findings out: of the preflight only what reads a configuration, a model or a folder knows paths."""
    folder = ROOT / "entrypoint/preflight"
    pure = [
        *folder.glob("rules/*.py"),
        *(folder / f"{n}.py" for n in ("kernel", "judge", "facts", "rule", "commandline")),
    ]
    for path in pure:
        assert {name.split(".")[0] for name in imported(path)} & {"subprocess", "pathlib", "sys", "time"} == set(), path


def test_no_two_classes_of_the_container_have_one_name() -> None:
    """A name that stands for two things is read as the wrong one."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "entrypoint").rglob("*.py")]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    names = Counter(node.name for node in classes)
    assert len(names) > 40
    assert [name for name, count in names.items() if count > 1] == []
