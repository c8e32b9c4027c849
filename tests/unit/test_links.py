"""What the pages point to is there: links between files, headings, and paths of this repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from attn_matrix import ROOT

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", ".github/**/*.md", "docker/**/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
)
# A path in backquotes, from the repository's root.
PATH = re.compile(r"`((?:docker|entrypoint|tests|\.github|\.ci)/[\w./-]*)`")


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def headings(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings of `page`."""
    titles = re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_pages_are_found() -> None:
    assert {
        "README.md",
        "docker/IMAGES.md",
        "docker/BUILDING.md",
        "docker/kubernetes/README.md",
        ".github/DECISIONS.md",
        ".github/CHANGELOG.md",
    } <= set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_link_to_a_file_leads_to_one(name: str) -> None:
    """Relative to the page that it stands on; with a `#`, to a heading of that file."""
    page = ROOT / name
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in headings(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", PAGES)
def test_a_path_in_backquotes_exists(name: str) -> None:
    """Where a page names a file of this repository, it is the one that is there now."""
    assert [path for path in PATH.findall(text(ROOT / name)) if not (ROOT / path).exists()] == []
