"""CONTRIBUTING.md's tables of what to touch are the files that name an existing backend, platform, case or variable."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from attn_matrix import ROOT

from tests.unit.test_readme import variables

TEXT = (ROOT / ".github/CONTRIBUTING.md").read_text(encoding="utf-8")
# What a person edits: no generated file, no lock, no recorded data, no page.
PRODUCT = (
    *("images.yaml", "noxfile.py", "entrypoint"),
    *("docker/Dockerfile", "docker/attn_matrix", "docker/inside", "docker/scripts"),
)


def listed(kind: str) -> set[str]:
    """The files in the table under `### Add a KIND`."""
    section = re.split(r"^##", TEXT.partition(f"### Add a {kind}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


def files() -> Iterator[str]:
    for name in PRODUCT:
        path = ROOT / name
        found = [path] if path.is_file() else path.rglob("*")
        yield from (
            file.relative_to(ROOT).as_posix() for file in found if file.is_file() and "__pycache__" not in file.parts
        )


def naming(*words: str) -> set[str]:
    """The product's files that hold one of `words` by itself, as `sage` is not by itself in `message`."""
    pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, words))})(?![\w-])")
    return {name for name in files() if pattern.search((ROOT / name).read_text(encoding="utf-8"))}


def of_product(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith(PRODUCT)}


def covered(name: str, rows: set[str]) -> set[str]:
    """The rows that `name` falls under: itself, or a folder that it lies in."""
    return {row for row in rows if name == row or name.startswith(f"{row}/")}


@pytest.mark.parametrize("kind", ["backend", "platform", "case", "variable"])
def test_every_listed_file_exists(kind: str) -> None:
    assert listed(kind)
    assert [name for name in listed(kind) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        # A backend that is compiled, by its name and by its package's.
        ("backend", ("sage", "sageattention")),
        ("platform", ("cu130",)),
        ("case", ("window-both-d64",)),
    ],
)
def test_the_listed_files_are_those_that_name_an_existing_one(kind: str, words: tuple[str, ...]) -> None:
    """No more, so that nobody looks for nothing, and no less, so that a new place has to be listed, or its folder."""
    rows = of_product(listed(kind))
    found = {name: covered(name, rows) for name in naming(*words)}
    assert [name for name, under in found.items() if not under] == []
    assert set().union(*found.values()) == rows


def test_the_listed_files_of_a_variable_are_those_that_name_each_of_them() -> None:
    """A file that names some of them acts on those."""
    everywhere = set.intersection(*(naming(name) for name in variables()))
    assert of_product(listed("variable")) == everywhere
    assert "README.md" in listed("variable")


@pytest.mark.parametrize(
    ("kind", "words"), [("backend", ("sage", "fake_sage", "SAGE_2")), ("case", ("window-both-d64",))]
)
def test_a_listed_test_names_an_existing_one(kind: str, words: tuple[str, ...]) -> None:
    """So a row of that kind is there to copy."""
    tests = [name for name in listed(kind) if name.startswith("tests/")]
    pattern = re.compile(rf"\b(?:{'|'.join(words)})")
    assert tests
    assert [name for name in tests if not pattern.search((ROOT / name).read_text(encoding="utf-8"))] == []
