"""What images take on disk: layers from the history, what is shared, and the bar for a family."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import pytest
from attn_matrix import ROOT
from attn_matrix.commands import sizes, terminal
from attn_matrix.commands.sizes import Family, Stack
from attn_matrix.errors import CommandFailed
from attn_matrix.host import engine
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.model import Image, Matrix, Size
from inside.facts import Usage

BASE, TORCH, OURS = "sha256:base", "sha256:torch", "sha256:ours"


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return read(ROOT / FILE)


def image(matrix: Matrix, name: str, gigabytes: float | None = None) -> Image:
    found = next(each for each in matrix.images if each.id == name)
    size = Size(gigabytes=gigabytes, measured=date(2026, 11, 22)) if gigabytes else None
    return replace(found, size=size)


def stack(**layers: int) -> Stack:
    names = tuple(layers)
    return Stack({names[: index + 1]: size for index, size in enumerate(layers.values())})


def test_each_layer_has_the_bytes_of_its_step() -> None:
    """Steps that only change the configuration have no layer; BuildKit's and the old builder's words for them."""
    steps = [
        (100, "# debian.sh --arch 'amd64' out/ 'bookworm'"),
        (0, 'CMD ["bash"]'),
        (0, "ARG LOCK=docker/locks/cpu.txt"),
        (70, "RUN |1 LOCK=docker/locks/cpu.txt /bin/sh -c install"),
        (0, "/bin/sh -c #(nop)  ENV A=b"),
        (5, "/bin/sh -c #(nop) COPY dir:1 in /opt"),
        (0, "WORKDIR /workspace"),
        (0, "USER 1000:0"),
    ]

    found = sizes.layers("tag", [BASE, TORCH, OURS, "sha256:empty"], steps)

    assert list(found.values()) == [100, 70, 5, 0]
    assert list(found)[1] == (BASE, TORCH)


def test_a_history_that_does_not_fit_is_no_measurement() -> None:
    """Rather an error than bytes of the wrong layer."""
    with pytest.raises(CommandFailed, match="tag has 2 layers, and its history 1 steps"):
        sizes.layers("tag", [BASE, TORCH], [(1, "COPY a b"), (0, "ENV A=b")])


def test_what_another_image_has_too_is_shared(matrix: Matrix) -> None:
    """The same content upon other layers is stored again."""
    images = [image(matrix, "sdpa-cu128"), image(matrix, "flex-cu128")]
    stacks = {"sdpa-cu128": stack(base=100, torch=700, a=5), "flex-cu128": stack(base=100, other=1, torch=700)}

    first, second = sizes.measure(images, stacks)

    assert (first.bytes, first.shared, first.unique) == (805, 100, 705)
    assert (second.bytes, second.shared, second.unique) == (801, 100, 701)


def test_a_family_counts_every_layer_once(matrix: Matrix) -> None:
    """Together 100 + 700 + 5 + 300; the largest is 1100."""
    images = [image(matrix, "sdpa-cu128"), image(matrix, "fa4-cu128")]
    stacks = {"sdpa-cu128": stack(base=100, torch=700, a=5), "fa4-cu128": stack(base=100, torch=700, b=300)}

    found = sizes.family("cu128", sizes.measure(images, stacks), stacks)

    assert found == Family(platform="cu128", images=2, largest=1100, together=1105, unique=305)
    assert found.ratio == pytest.approx(1105 / 1100)


def test_images_yaml_is_compared_within_two_percent(matrix: Matrix) -> None:
    """Nothing said is off too; and the line to paste has three digits."""
    stacks = {"sdpa-cpu": Stack({(BASE,): 1_446_198_355})}

    def measured(gigabytes: float | None) -> sizes.ImageSize:
        return sizes.measure([image(matrix, "sdpa-cpu", gigabytes)], stacks)[0]

    assert [measured(claim).off for claim in (1.45, 1.42, 1.41, 1.48, None)] == [False, False, True, True, True]
    assert measured(None).gigabytes == 1.45


def test_the_text_says_what_to_write_and_whether_the_bar_holds(matrix: Matrix) -> None:
    """A line for each image that images.yaml is wrong about."""
    images = [image(matrix, "sdpa-cpu", 1.0), image(matrix, "flex-cpu", 2.0)]
    stacks = {"sdpa-cpu": stack(base=1_446_000_000), "flex-cpu": stack(other=2_000_000_000)}
    measured = sizes.measure(images, stacks)
    found = sizes.family("cpu", measured, stacks)

    text = terminal.plain(*sizes.tables(measured, [found], {}))

    assert "  sdpa-cpu: {gigabytes: 1.45, measured: " in text
    assert "  flex-cpu: {" not in text
    assert re.search(r"^cpu +2 +2,000.0 +3,446.0 +1.72 +DOES NOT HOLD$", text, re.MULTILINE)


def test_what_is_inside_is_listed_by_size() -> None:
    """The largest first, in MB."""
    usage = Usage(distributions={"small": 10**6, "torch": 10**9}, directories={"/usr": 5 * 10**6}, kinds={"tests": 0})

    lines = terminal.plain(*sizes.tables([], [], {"sdpa-cpu": usage})).splitlines()

    assert [line.split()[-1] for line in lines[-6:] if line] == ["torch", "small", "/usr", "tests"]


def test_the_document_has_bytes(matrix: Matrix) -> None:
    """For a program that draws a graph."""
    stacks = {"sdpa-cpu": stack(base=123)}
    measured = sizes.measure([image(matrix, "sdpa-cpu")], stacks)

    document = json.loads(sizes.document(measured, [sizes.family("cpu", measured, stacks)], {}))

    assert document["images"][0]["bytes"] == 123
    assert (document["platforms"][0]["ratio"], document["platforms"][0]["holds"]) == (1.0, True)


def test_the_engine_is_asked_for_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its round numbers have three digits; its history starts with the newest step."""
    asked: list[Sequence[str]] = []

    def answer(command: Sequence[str], **_: object) -> str:
        asked.append(command)
        return json.dumps([BASE, TORCH]) if "inspect" in command else '7 "RUN /bin/sh -c x"\n0 "ENV A=b"\n100 ""'

    monkeypatch.setattr(engine, "capture", answer)
    monkeypatch.setattr(engine, "identity", lambda tag: None if tag == "absent" else "sha256:1")

    assert sizes.stack_of("absent") is None
    assert sizes.stack_of("tag") == Stack({(BASE,): 100, (BASE, TORCH): 7})
    assert "--human=false" in asked[1]
