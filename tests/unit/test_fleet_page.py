"""The page of a fleet: one file, nothing from elsewhere, small whatever fails, and seen by a real browser."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from entrypoint.fleet.merge import Unread, merge
from entrypoint.fleet.page import render
from entrypoint.fleet.reports import NodeReport
from tests.patience import PATIENCE
from tests.unit.test_fleet import NO_GPU, failed, report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
)
# What a page could load something by.
LOADING = {"src", "href", "srcset", "data", "action", "poster", "background", "formaction", "xlink:href"}


class Seen(HTMLParser):
    """The elements of a page, what they could load, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.loads: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.loads += [name for name, _ in attrs if name in LOADING or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def nodes(count: int) -> list[NodeReport]:
    """So many nodes of 8 GPUs, which differ by a per cent; of 8 or more, one is slow and one fails."""
    first = report("n")
    made = []
    for place in range(count):
        speed = 0.6 if place == 5 else 1.0 + 0.01 * ((place * 7919) % 13 - 6) / 6
        measures = {what: replace(m, value=m.value * speed) for what, m in first.devices[0].measures.items()}
        eight = tuple(replace(first.devices[0], name=f"cuda:{gpu}", measures=measures) for gpu in range(8))
        made.append(replace(first, node=f"gpu-{place:04d}", devices=eight))
    if count >= 8:
        made[3] = replace(made[3], verdict="FAIL", number=94, code="GPU_FAULT", what="It crashed.", advice="Drain it.")
    return made


PAGES = {count: render(merge(nodes(count))) for count in (1, 8, 1000)}


@pytest.mark.parametrize("count", PAGES)
def test_a_page_loads_nothing_and_runs_nothing(count: int) -> None:
    """One file that can be mailed: no script, no link, no image, no font; a policy forbids them to the browser too."""
    seen = Seen(PAGES[count])
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & seen.elements.keys()
    assert seen.loads == []
    assert not re.search(r"url\(|@import|@font-face|https?:", PAGES[count])
    assert "default-src 'none'" in PAGES[count]
    assert seen.elements["svg"] == 6  # a strip for each of four calls, the matmul and the copy


def test_a_thousand_nodes_are_less_than_a_megabyte() -> None:
    """Of 8 GPUs each: everything is well on nearly all, or nothing is on any."""
    assert len(PAGES[1000].encode()) < 500_000
    long = [
        replace(
            each, verdict="FAIL", number=92, code="WRONG", what="w" * 900, advice=f"a{place}" * 99, also=("x" * 500,)
        )
        for place, each in enumerate(nodes(1000))
    ]
    page = render(merge(long, [Unread(f"/some/folder/report-{n}.json", "is damaged") for n in range(300)]))
    assert len(page.encode()) < 1_000_000
    assert all(f">gpu-{n:04d}<" in page for n in range(1000))


def test_every_node_is_on_the_page() -> None:
    """Those that passed too, and what was not read."""
    page = render(merge(nodes(50), [Unread("cut.json", "is no whole JSON")]))
    assert all(f">gpu-{n:04d}<" in page for n in range(50))
    assert "cut.json" in page
    assert "is no whole JSON" in page


def test_a_report_cannot_write_html() -> None:
    """A node's name and a kernel's exception are text."""
    evil = failed("<script>alert(1)</script>", 92, "WRONG", '"><img src=x onerror=1>')
    seen = Seen(render(merge([evil])))
    assert "script" not in seen.elements
    assert "img" not in seen.elements
    assert "<script>alert(1)</script>" in seen.text


def test_an_outlier_is_marked_and_named() -> None:
    """In its strip and in the list, with how far it is off and what held it back."""
    slow = nodes(8)
    hot = tuple(replace(device, held_back=("hw_slowdown",), temperature=91.0) for device in slow[5].devices)
    slow[5] = replace(slow[5], devices=hot)
    seen = Seen(render(merge(slow)))
    listed = seen.text.partition("Outliers")[2]
    assert "gpu-0005" in listed
    assert "-40 %" in listed
    assert listed.count("5 more calls") == 8  # once for each GPU
    assert "hw_slowdown" in listed
    assert 'class="off"' in render(merge(slow))
    assert 'class="off"' not in render(merge(nodes(5)))


def test_a_start_that_measured_nothing_has_a_page() -> None:
    """Its advice is what there is to see."""
    page = render(merge([report("a", NO_GPU)]))
    assert "<h2>Speed" not in page
    assert "NVIDIA Container Toolkit" in page


def test_a_page_is_the_same_every_time() -> None:
    """Two of them can be compared."""
    assert render(merge(nodes(8))) == render(merge(reversed(nodes(8))))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: the page was not seen by a browser")
@pytest.mark.parametrize("count", PAGES)
def test_a_browser_shows_the_page(count: int, tmp_path: Path) -> None:
    """It finds the rows and strips that were meant, has nothing to complain of, and paints something."""
    page, shot = tmp_path / "page.html", tmp_path / "shot.png"
    page.write_text(PAGES[count], encoding="utf-8")
    dom, said = browse(page, tmp_path, "--dump-dom")
    seen = Seen(dom)
    assert (seen.elements["svg"], seen.elements["h1"]) == (6, 1)
    assert all(f">gpu-{n:04d}<" in dom for n in range(count))
    assert [line for line in said.splitlines() if "CONSOLE" in line] == []
    browse(page, tmp_path, f"--screenshot={shot}", "--window-size=1320,900")
    image = shot.read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", image[16:24]) == (1320, 900)
    assert len(image) > 50_000  # an empty one has 5 KB


def browse(page: Path, folder: Path, *switches: str) -> tuple[str, str]:
    command = [BROWSER or "", *SWITCHES, f"--user-data-dir={folder / 'profile'}", *switches, page.as_uri()]
    done = subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE)
    return done.stdout.decode(), done.stderr.decode()
