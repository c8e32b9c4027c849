"""What the entries of images.yaml say of each other: names that exist, ids that fit, and no cell left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping

from attn_matrix import cells
from attn_matrix.cells import Cell
from attn_matrix.hints import did_you_mean
from attn_matrix.model import TORCH, Image, Platform, Tables
from attn_matrix.source import Location, Mistake

# The names that each section of the file declares.
Names = Mapping[str, Collection[str]]

_SINGULAR = {"bases": "base", "architectures": "architecture", "platforms": "platform", "backends": "backend"}


def check(tables: Tables, names: Names, broken: Collection[str | int]) -> list[Mistake]:
    """Every mistake between the entries of `tables`.

    `names` also holds the names of entries that are not in `tables` because they have mistakes of their own, and
    `broken` the sections in which there are such entries. Whether a cell is left out can only be said of a matrix that
    is otherwise right.
    """
    mistakes = [
        *_architectures(tables),
        *_platforms(tables, names),
        *_backends(tables, names),
        *_images(tables, names),
        *_exclusions(tables, names),
        *_gpus(tables, names),
        *_baselines(tables, names),
    ]
    touched = {*broken, *(mistake.location[0] for mistake in mistakes)}
    if touched.isdisjoint(("architectures", "platforms", "backends", "images", "exclusions")):
        mistakes += _cells(tables)
    return mistakes


def _unknown(names: Names, section: str, used: Iterable[str], location: Location) -> Iterator[Mistake]:
    """A mistake for each of the `used` names that `section` does not declare."""
    known = names.get(section, ())
    for name in used:
        if name not in known:
            yield Mistake(location, f"unknown {_SINGULAR[section]} {name!r}" + did_you_mean(name, known))


def _twice(used: Iterable[str], location: Location) -> Iterator[Mistake]:
    seen: set[str] = set()
    for name in used:
        if name in seen:
            yield Mistake(location, f"names {name!r} twice")
        seen.add(name)


def _architectures(tables: Tables) -> Iterator[Mistake]:
    owner: dict[str, str] = {}
    for name, architecture in tables.architectures.items():
        for capability in architecture.capabilities:
            first = owner.setdefault(capability, name)
            if first != name:
                location = ("architectures", name, "capabilities")
                yield Mistake(location, f"{capability!r} belongs to architecture {first!r} already")


def _platforms(tables: Tables, names: Names) -> Iterator[Mistake]:
    for name, platform in tables.platforms.items():
        here: Location = ("platforms", name)
        yield from _unknown(names, "bases", (platform.base,), (*here, "base"))
        yield from _unknown(names, "architectures", platform.architectures, (*here, "architectures"))
        yield from _twice(platform.architectures, (*here, "architectures"))
        if (platform.device == "cpu") == bool(platform.architectures):
            text = "a CPU has no GPU architectures" if platform.device == "cpu" else "names no GPU architecture"
            yield Mistake((*here, "architectures"), text)


def _backends(tables: Tables, names: Names) -> Iterator[Mistake]:
    for name, backend in tables.backends.items():
        here: Location = ("backends", name)
        yield from _unknown(names, "architectures", backend.architectures, (*here, "architectures"))
        yield from _twice(backend.architectures, (*here, "architectures"))
        if backend.forward_only:
            where = (*here, "forward_only", "platforms")
            yield from _unknown(names, "platforms", backend.forward_only.platforms, where)


def _images(tables: Tables, names: Names) -> Iterator[Mistake]:
    first: dict[str, int] = {}
    for index, image in enumerate(tables.images):
        here: Location = ("images", index)
        yield from _unknown(names, "platforms", (image.platform,), (*here, "platform"))
        yield from _unknown(names, "backends", image.backends, (*here, "backends"))
        yield from _twice(image.backends, (*here, "backends"))
        if first.setdefault(image.id, index) != index:
            yield Mistake((*here, "id"), f"{image.id!r} is the id of images[{first[image.id]}] already")
        if image.platform in names.get("platforms", ()) and image.default in names.get("backends", ()):
            yield from _identity(image, here)
        platform = tables.platforms.get(image.platform)
        if platform is not None:
            yield from _image_on(tables, image, platform, here)


def _identity(image: Image, here: Location) -> Iterator[Mistake]:
    """An id says what the image is: `<combination>-<platform>[-<arch>][-base]`."""
    expected = "-".join(filter(None, (image.default, image.platform, image.architecture)))
    if image.id.removesuffix("-base") != expected:
        facts = f"default backend {image.default!r}, platform {image.platform!r}"
        facts += f", architecture {image.architecture!r}" if image.architecture else ""
        yield Mistake((*here, "id"), f"{image.id!r} does not fit its {facts}: expected {expected!r}")


def _image_on(tables: Tables, image: Image, platform: Platform, here: Location) -> Iterator[Mistake]:
    """What an image asks of a platform that exists: its architecture, a torch, its backends' packages."""
    if image.architecture and image.architecture not in platform.architectures:
        text = f"no GPU of platform {image.platform!r} has architecture {image.architecture!r}"
        yield Mistake((*here, "architecture"), text + did_you_mean(image.architecture, platform.architectures))
    if TORCH not in platform.pins:
        yield Mistake((*here, "platform"), f"platform {image.platform!r} pins no version of torch")
    for name in image.backends:
        backend = tables.backends.get(name)
        if backend is None:
            continue
        for package in backend.packages:
            if package not in platform.pins:
                text = f"backend {name!r} needs the package {package!r}, which platform {image.platform!r} does not pin"
                yield Mistake((*here, "backends"), text + did_you_mean(package, platform.pins))
        named = {*platform.architectures, *backend.architectures}
        if platform.architectures and named <= tables.architectures.keys() and not tables.runs_on(name, image.platform):
            yield Mistake((*here, "backends"), f"backend {name!r} runs on no GPU of platform {image.platform!r}")


def _exclusions(tables: Tables, names: Names) -> Iterator[Mistake]:
    for index, exclusion in enumerate(tables.exclusions):
        here: Location = ("exclusions", index)
        yield from _unknown(names, "backends", exclusion.backends, (*here, "backends"))
        yield from _unknown(names, "platforms", exclusion.platforms, (*here, "platforms"))
        for name in exclusion.platforms:
            platform = tables.platforms.get(name)
            for architecture in exclusion.architectures if platform else ():
                if platform and architecture not in platform.architectures:
                    text = f"no GPU of platform {name!r} has architecture {architecture!r}"
                    hint = did_you_mean(architecture, platform.architectures)
                    yield Mistake((*here, "architectures"), text + hint)


def _gpus(tables: Tables, names: Names) -> Iterator[Mistake]:
    for name, gpu in tables.gpus.items():
        yield from _unknown(names, "architectures", (gpu.architecture,), ("gpus", name, "architecture"))


def _baselines(tables: Tables, names: Names) -> Iterator[Mistake]:
    seen: set[tuple[str, str, str]] = set()
    for index, baseline in enumerate(tables.baselines):
        yield from _unknown(names, "backends", (baseline.backend,), ("baselines", index, "backend"))
        if (baseline.gpu, baseline.backend, baseline.case) in seen:
            text = f"a second one for {baseline.backend!r} in {baseline.case!r} on {baseline.gpu!r}"
            yield Mistake(("baselines", index), text)
        seen.add((baseline.gpu, baseline.backend, baseline.case))


def _cells(tables: Tables) -> Iterator[Mistake]:
    """Every cell is an image or an exclusion, and never both."""
    images = {cell: image.id for image in tables.images for cell in cells.of_image(tables, image)}
    excluded: dict[Cell, int] = {}
    clashes: dict[tuple[Location, str], list[Cell]] = defaultdict(list)
    for index, exclusion in enumerate(tables.exclusions):
        for cell in cells.of_exclusion(tables, exclusion):
            if cell in images:
                clashes[("exclusions", index), f"image {images[cell]!r}"].append(cell)
            elif excluded.setdefault(cell, index) != index:
                clashes[("exclusions", index), f"exclusions[{excluded[cell]}]"].append(cell)
    for (location, other), both in clashes.items():
        yield Mistake(location, f"{_spoken(tables, both)} is in {other} already")
    missing: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells.every(tables):
        if cell not in images and cell not in excluded:
            missing[cell[:2]].append(cell)
    for gaps in missing.values():
        yield Mistake(("exclusions",), f"{_spoken(tables, gaps)} is neither an image nor an exclusion")


def _spoken(tables: Tables, some: list[Cell]) -> str:
    """Cells of one backend and platform, with the architectures when they are not all of the platform's."""
    backend, platform, _ = some[0]
    architectures = [cell.architecture for cell in some if cell.architecture]
    whole = len(architectures) == len(tables.platforms[platform].architectures)
    return f"cell {backend} x {platform}" + ("" if whole else f" ({', '.join(architectures)})")
