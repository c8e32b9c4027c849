"""`nox -s plan [-- PATTERN... --json]`: the facts of every image, exclusion and cell, as tables and as JSON."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import TYPE_CHECKING

from attn_matrix.commands import terminal
from attn_matrix.commands.terminal import Part, Table
from attn_matrix.matrix import cells
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.model import Exclusion, Image, Matrix
from attn_matrix.matrix.select import pick_planned
from attn_matrix.rendered.bake import wheel_target

if TYPE_CHECKING:
    from argparse import _SubParsersAction

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Planned:
    """An image that would be built. `forward_only` names its backends that have no gradients on its platform.

    `lacking` are options of Axolotl's that ask for a backend which it does not hold, `mends` the names of its mends.
    `plain` is the id of the image that it is a variant of, `wheels` are the targets that are compiled for it,
    `prebuilt` are those that are downloaded, with their addresses, and `unlocked` is why it cannot be built yet, if so.
    """

    id: str
    plain: str
    tag: str
    platform: str
    backends: tuple[str, ...]
    axolotl: bool
    wheels: tuple[str, ...]
    prebuilt: dict[str, str]
    unlocked: str | None
    forward_only: tuple[str, ...]
    architectures: tuple[str, ...]
    packages: dict[str, str]
    lacking: tuple[str, ...]
    mends: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """A combination without an image, on one line and as the `ids` that its images would have.

    `architectures` is empty where it is all of them, and `place` is its place among the exclusions of images.yaml.
    """

    place: int
    combination: str
    ids: tuple[str, ...]
    backends: tuple[str, ...]
    platforms: tuple[str, ...]
    architectures: tuple[str, ...]
    status: str
    reason: str
    source: str
    review: str
    overdue: bool


@dataclass(frozen=True, kw_only=True)
class Stands:
    """One cell and what stands in it: an image or, by its place among the exclusions of images.yaml, an exclusion.

    `architecture` is None on a platform without any, such as a CPU.
    """

    backend: str
    platform: str
    architecture: str | None
    image: str | None
    exclusion: int | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    images: tuple[Planned, ...]
    exclusions: tuple[Excluded, ...]
    cells: tuple[Stands, ...] = ()


def plan(matrix: Matrix, patterns: Sequence[str], today: date) -> Plan:
    """The images and exclusions whose ids match `patterns`, or all. Raises UnknownImage."""
    images, exclusions = pick_planned(matrix, patterns)
    return Plan(
        images=tuple(_planned(matrix, image) for image in images),
        exclusions=tuple(_excluded(matrix, exclusion, today) for exclusion in exclusions),
        cells=tuple(_stands(matrix, images, exclusions)),
    )


def _stands(matrix: Matrix, images: Sequence[Image], exclusions: Sequence[Exclusion]) -> Iterator[Stands]:
    """The cells of what is planned. The images' are those of the plain ones, whichever variant was picked."""
    built, excluded = cells.images(matrix), cells.exclusions(matrix)
    picked = {image.plain for image in images}
    chosen = {id(exclusion) for exclusion in exclusions}
    places = {index for index, exclusion in enumerate(matrix.exclusions) if id(exclusion) in chosen}
    for cell in cells.every(matrix):
        image, place = built.get(cell), excluded.get(cell)
        if (image and image.plain in picked) or (image is None and place in places):
            yield Stands(**cell._asdict(), image=image.id if image else None, exclusion=place)


def _planned(matrix: Matrix, image: Image) -> Planned:
    return Planned(
        id=image.id,
        plain=image.plain,
        tag=matrix.tag(image),
        platform=image.platform,
        backends=image.backends,
        axolotl=image.axolotl,
        wheels=tuple(wheel_target(wheel, image) for wheel in matrix.compiled_wheels(image).values()),
        prebuilt={
            wheel_target(matrix.wheels[package], image): wheel.url
            for package, wheel in matrix.prebuilt_wheels(image).items()
        },
        unlocked=unlocked.reason if (unlocked := matrix.platforms[image.platform].unlocked) else None,
        forward_only=tuple(name for name in image.backends if not matrix.gradients(name, image.platform)),
        architectures=matrix.image_architectures(image),
        packages=matrix.pinned_packages(image),
        lacking=matrix.lacking(image),
        mends=tuple(matrix.image_mends(image)),
    )


def _excluded(matrix: Matrix, exclusion: Exclusion, today: date) -> Excluded:
    return Excluded(
        place=matrix.exclusions.index(exclusion),
        combination=cells.combination(exclusion),
        ids=tuple(cells.ids(exclusion)),
        backends=exclusion.backends,
        platforms=exclusion.platforms,
        architectures=exclusion.architectures,
        status=exclusion.status,
        reason=exclusion.reason,
        source=exclusion.source,
        review=exclusion.review.isoformat(),
        overdue=exclusion.review < today,
    )


def to_json(what: Plan) -> str:
    return json.dumps({"schema": SCHEMA, **asdict(what)}, indent=2) + "\n"


def tables(what: Plan) -> list[Part]:
    """Three tables, each under a line that counts its rows."""
    families: dict[str, list[Planned]] = {}
    for image in what.images:
        families.setdefault(image.plain, []).append(image)
    images = [(family[0].id, "\n".join(filter(None, _lines(family)))) for family in families.values()]
    exclusions = [
        (item.review, f"{item.combination}: {item.status}: {item.reason}\n{item.source}") for item in what.exclusions
    ]
    counted = [
        (f"{len(what.images)} images would be built", ("IMAGE", "BACKENDS; RUNS ON; WITH"), images),
        (f"{len(what.cells)} cells, and what stands in each", ("IMAGE OR EXCLUSION", "CELLS"), _cells(what)),
        (f"{len(exclusions)} exclusions: no image, for a reason", ("REVIEW", "COMBINATION AND REASON"), exclusions),
    ]
    return [part for title, head, rows in counted for part in (title, "", *_under(head, rows))]


def _under(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Part]:
    return [Table(rows, head), ""] if rows else []


def _cells(what: Plan) -> list[tuple[str, str]]:
    """The cells by what stands in them: an image's id, or an exclusion's status and review date."""
    due = {item.place: f"no: {item.status}, review {item.review}" for item in what.exclusions}
    lines: dict[tuple[str, str], list[str]] = {}
    for cell in what.cells:
        answer = cell.image or due.get(cell.exclusion or 0, "")
        lines.setdefault((answer, f"{cell.backend} x {cell.platform}"), []).append(cell.architecture or "CPU")
    return [(answer, f"{place}: {', '.join(names)}") for (answer, place), names in lines.items()]


def warnings(what: Plan) -> list[str]:
    """A line for each exclusion whose review date has passed."""
    return [
        f"{item.combination}: to be looked at again since {item.review}: {item.reason} ({item.source})"
        for item in what.exclusions
        if item.overdue
    ]


def _backends(image: Planned) -> str:
    names = (f"{name} (forward only)" if name in image.forward_only else name for name in image.backends)
    return ", ".join(names)


def _lines(family: Sequence[Planned]) -> tuple[str, ...]:
    """What a person picks an image by; of its variants only how they are called."""
    first, *others = family
    variants = ", ".join(other.id.removeprefix(first.id) for other in others)
    variants = variants.replace("-base", "-base (without Axolotl)", 1)
    return (
        _backends(first),
        ", ".join(first.architectures) or "CPU",
        _versions(first),
        f"variants: {variants}" if variants else "",
        f"prebuilt: {', '.join(first.prebuilt)}" if first.prebuilt else "",
        f"compiled from source: {', '.join(first.wheels)}" if first.wheels else "",
        f"mended: {', '.join(first.mends)}" if first.mends else "",
        f"not with Axolotl's {', '.join(first.lacking)}" if first.lacking else "",
        f"compiled in {', '.join(slow)}" if (slow := _compiled_variants(first, others)) else "",
        f"cannot be built yet: {first.unlocked}" if first.unlocked else "",
    )


def _compiled_variants(first: Planned, others: Sequence[Planned]) -> list[str]:
    """How the variants are called that compile what the image itself takes prebuilt."""
    return [other.id.removeprefix(first.id) for other in others if first.prebuilt and other.wheels and not first.wheels]


def _versions(image: Planned) -> str:
    return ", ".join(f"{package} {version}" for package, version in image.packages.items())


def add_parser(commands: _SubParsersAction[ArgumentParser]) -> None:
    parser = commands.add_parser("plan")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="image ids or excluded ones, with * and ?")
    parser.add_argument("--json", action="store_true", help="the same facts as JSON")
    parser.set_defaults(handler=_handle)


def _handle(arguments: Namespace) -> int:
    what = plan(read(arguments.root / FILE), arguments.patterns, date.today())
    if arguments.json:
        print(to_json(what), end="")
    else:
        terminal.show(*tables(what))
    for line in warnings(what):
        print(f"warning: {line}", file=sys.stderr)
    return 0
