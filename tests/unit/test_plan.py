"""The plan: what would be built, and every exclusion, as text and as JSON."""

import json
from datetime import date
from pathlib import Path

import pytest
from attn_matrix import ROOT
from attn_matrix.cli import main
from attn_matrix.commands import terminal
from attn_matrix.commands.plan import Plan, plan, tables, to_json, warnings
from attn_matrix.errors import UnknownImage
from attn_matrix.matrix.load import FILE, read

DATA = Path(__file__).parents[1] / "data"
SMALL = read(DATA / "valid.yaml")
REVIEW = date(2027, 11, 22)
EARLY = date(2026, 11, 22)


def to_text(what: Plan, width: int) -> str:
    return terminal.fitted(*tables(what), width=width)


def test_the_facts_of_an_image() -> None:
    """Everything a person needs to choose it."""
    image = plan(SMALL, ["fa4-cu128"], EARLY).images[0]
    assert (image.id, image.tag, image.platform) == ("fa4-cu128", "small:fa4-cu128", "cu128")
    assert image.backends == ("fa4", "sdpa")
    assert image.architectures == ("hopper",)
    assert image.packages == {"torch": "2.10.0", "flash-attn-4": "4.0.0b36"}


def test_the_facts_of_an_exclusion() -> None:
    """Reason, source and review date, and the ids that its images would have."""
    exclusion = plan(SMALL, ["fa4-cu128-ampere"], EARLY).exclusions[0]
    assert exclusion.combination == "fa4 x cu128 (ampere)"
    assert exclusion.ids == ("fa4-cu128-ampere",)
    assert (exclusion.status, exclusion.reason) == ("unsupported", "no backward before Hopper")
    assert (exclusion.source, exclusion.review) == ("https://example.org/fa4", "2027-11-22")


def test_forward_only_is_said() -> None:
    """FlexAttention on a CPU cannot train."""
    matrix = read(ROOT / FILE)
    what = plan(matrix, ["flex-cpu"], EARLY)
    assert what.images[0].forward_only == ("flex",)
    assert "flex (forward only), sdpa" in to_text(what, 120)
    assert plan(matrix, ["flex-cu128"], EARLY).images[0].forward_only == ()


def test_an_exclusion_is_overdue_from_the_day_after_its_review() -> None:
    """On the day itself there is still time."""
    assert warnings(plan(SMALL, [], REVIEW)) == []
    (first, second) = warnings(plan(SMALL, [], date(2027, 11, 23)))
    assert first == "fa4 x cpu: to be looked at again since 2027-11-22: CUDA kernels only (https://example.org/fa4)"
    assert second.startswith("fa4 x cu128 (ampere): ")


def test_the_text_holds_every_image_and_every_exclusion() -> None:
    """Nothing is left out of the terminal's view."""
    matrix = read(ROOT / FILE)
    flat = " ".join(to_text(plan(matrix, [], EARLY), 400).split())
    for image in matrix.images:
        assert image.id in flat if image.id == image.plain else image.id.removeprefix(image.plain) in flat
    for exclusion in matrix.exclusions:
        assert f": {exclusion.status}: {exclusion.reason} {exclusion.source}" in flat


@pytest.mark.parametrize("width", [80, 120])
def test_the_text_is_aligned_and_fits_the_terminal(width: int) -> None:
    """Columns start where their heads do, and nothing is cut off."""
    lines = to_text(plan(read(ROOT / FILE), [], EARLY), width).splitlines()
    head = next(line for line in lines if line.startswith("REVIEW"))
    exclusions = lines[lines.index(head) + 1 :]
    row = next(line for line in exclusions if "fa2 x cpu" in line)
    assert row.index("2027-11-22") == head.index("REVIEW")
    assert row.index("fa2 x cpu: unsupported: ") == head.index("COMBINATION")
    assert [line for line in lines if len(line) > width] == []


def test_every_cell_is_an_image_or_an_exclusion() -> None:
    """Each backend x platform x architecture once, GPUs that a platform does not run on included."""
    matrix = read(ROOT / FILE)
    what = plan(matrix, [], EARLY)
    places = [(cell.backend, cell.platform, cell.architecture) for cell in what.cells]
    expected = [
        (backend, platform, name)
        for platform, facts in matrix.platforms.items()
        for backend in matrix.backends
        for name in (*facts.architectures, *facts.beyond) or (None,)
    ]
    assert sorted(map(str, places)) == sorted(map(str, expected))
    assert [cell for cell in what.cells if (cell.image is None) == (cell.exclusion is None)] == []
    ids = {image.id for image in what.images}
    assert {cell.image for cell in what.cells if cell.image} <= ids


@pytest.mark.parametrize(
    ("cell", "answer"),
    [
        (("fa2", "cu128", "hopper"), "fa2-cu128"),
        (("fa3", "cu128", "blackwell"), "wgmma"),
        (("sage", "cu128", "blackwell"), "B200"),
        (("fa2", "cu128", "turing"), "starts at Ampere"),
        (("fa3", "rocm", "gfx942"), "Hopper only"),
        (("sdpa", "cu128", "blackwellultra"), "CUDA 12.8 cannot compile"),
        (("fa4", "cu130", "blackwellultra"), "fa4-cu130"),
        (("fa2", "rocm", "gfx942"), "fa2-rocm"),
        (("fa2", "rocm", "gfx1100"), "fa2-rocm-gfx1100"),
    ],
)
def test_cells_that_people_ask_for(cell: tuple[str, str, str], answer: str) -> None:
    """An image, or the reason why there is none."""
    matrix = read(ROOT / FILE)
    what = plan(matrix, [], EARLY)
    (found,) = (each for each in what.cells if (each.backend, each.platform, each.architecture) == cell)
    if found.exclusion is None:
        assert found.image == answer
    else:
        assert answer in matrix.exclusions[found.exclusion].reason


def test_a_variant_without_axolotl_says_what_it_is() -> None:
    """Its name says `-base`, which a newcomer takes for a base image."""
    text = to_text(plan(read(ROOT / FILE), ["fa4-cu128", "fa4-cu128-*"], EARLY), 120)
    assert "variants: -base (without Axolotl), -hopper, -hopper-base" in text


def test_what_cannot_be_built_yet_says_so() -> None:
    """A platform without a lock is planned, and its reason is in the text and in the JSON."""
    what = plan(read(ROOT / FILE), ["sdpa-rocm"], EARLY)
    assert what.images[0].unlocked
    assert "cannot be built yet: its torch is on PyTorch's index" in " ".join(to_text(what, 400).split())


def test_json_has_the_same_facts() -> None:
    """A program reads what a person reads."""
    document = json.loads(to_json(plan(SMALL, [], date(2027, 12, 1))))
    assert document["schema"] == 1
    assert [image["id"] for image in document["images"]] == ["sdpa-cpu", "sdpa-cu128", "fa4-cu128"]
    assert [exclusion["overdue"] for exclusion in document["exclusions"]] == [True, True]
    assert document["exclusions"][0]["ids"] == ["fa4-cpu"]


def test_a_pattern_also_finds_what_is_excluded() -> None:
    """Asking for an image that is not built answers why."""
    what = plan(SMALL, ["fa4-*"], EARLY)
    assert [image.id for image in what.images] == ["fa4-cu128"]
    assert [exclusion.combination for exclusion in what.exclusions] == ["fa4 x cpu", "fa4 x cu128 (ampere)"]


def test_an_unknown_pattern_names_the_closest() -> None:
    """It is neither built nor excluded."""
    with pytest.raises(UnknownImage, match=r"^no image 'spda-cpu'; did you mean 'sdpa-cpu'\?$"):
        plan(SMALL, ["sdpa-*", "spda-cpu"], EARLY)


def test_warnings_stay_out_of_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`plan --json` can be piped, overdue or not."""
    text = (DATA / "valid.yaml").read_text(encoding="utf-8").replace("2027-11-22", "2020-01-01")
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    assert main(["--root", str(tmp_path), "plan", "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)["images"]) == 3
    assert err.splitlines()[0].startswith("warning: fa4 x cpu: to be looked at again since 2020-01-01")
