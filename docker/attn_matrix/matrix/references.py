"""What the entries of images.yaml say of each other: names that exist, ids that fit, and no cell left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator

from attn_matrix.hints import did_you_mean
from attn_matrix.matrix import cells, mends, rows
from attn_matrix.matrix import wheels as compiled
from attn_matrix.matrix.cells import Cell
from attn_matrix.matrix.model import Tables
from attn_matrix.matrix.names import Declared, twice, unknown
from attn_matrix.matrix.source import Location, Mistake

_CELLS = ("architectures", "platforms", "backends", "wheels", "images", "exclusions")


def check(tables: Tables, names: Declared, broken: Collection[str | int]) -> list[Mistake]:
    """Every mistake between the entries of `tables`.

    `names` also holds the names of entries that are not in `tables` because they have mistakes of their own, and
    `broken` the sections in which there are such entries. Whether a cell is left out can only be said of a matrix that
    is otherwise right.
    """
    mistakes = [
        *_architectures(tables),
        *_platforms(tables, names),
        *_backends(tables, names),
        *compiled.check(tables, names),
        *mends.check(tables, names),
        *rows.check(tables, names),
        *_exclusions(tables, names),
        *_gpus(tables, names),
        *_baselines(tables, names),
    ]
    touched = {*broken, *(mistake.location[0] for mistake in mistakes)}
    if touched.isdisjoint(_CELLS):
        mistakes += [*rows.check_all(tables), *_cells(tables)]
    return mistakes


def _architectures(tables: Tables) -> Iterator[Mistake]:
    owner: dict[str, str] = {}
    for name, architecture in tables.architectures.items():
        for capability in architecture.capabilities:
            first = owner.setdefault(capability, name)
            if first != name:
                location = ("architectures", name, "capabilities")
                yield Mistake(location, f"{capability!r} belongs to architecture {first!r} already")


def _platforms(tables: Tables, names: Declared) -> Iterator[Mistake]:
    for name, platform in tables.platforms.items():
        here: Location = ("platforms", name)
        yield from unknown(names, "bases", (platform.base,), (*here, "base"))
        yield from unknown(names, "architectures", platform.architectures, (*here, "architectures"))
        yield from unknown(names, "architectures", platform.beyond, (*here, "beyond"))
        yield from twice(platform.known, (*here, "beyond" if platform.beyond else "architectures"))
        if platform.builder:
            yield from unknown(names, "bases", (platform.builder,), (*here, "builder"))
        for base in (platform.base, platform.builder):
            if base in tables.bases and not platform.unlocked and tables.bases[base].digest is None:
                yield Mistake(("bases", base), f"has no digest, and platform {name!r} is built from it")
        for package in platform.extras:
            if package not in platform.pins:
                hint = did_you_mean(package, platform.pins)
                yield Mistake((*here, "extras", package), f"no version of {package!r} is pinned{hint}")
        if (platform.device == "cpu") == bool(platform.architectures):
            text = "a CPU has no GPU architectures" if platform.device == "cpu" else "names no GPU architecture"
            yield Mistake((*here, "architectures"), text)


def _backends(tables: Tables, names: Declared) -> Iterator[Mistake]:
    for name, backend in tables.backends.items():
        here: Location = ("backends", name)
        yield from unknown(names, "architectures", backend.architectures, (*here, "architectures"))
        yield from twice(backend.architectures, (*here, "architectures"))
        if backend.forward_only:
            where = (*here, "forward_only", "platforms")
            yield from unknown(names, "platforms", backend.forward_only.platforms, where)
        yield from unknown(names, "architectures", backend.prebuilt_on, (*here, "prebuilt_on"))
        for kernel, said in backend.kernels.items():
            yield from unknown(names, "architectures", said.architectures, (*here, "kernels", kernel, "architectures"))
        yield from unknown(names, "backends", backend.for_axolotl, (*here, "for_axolotl"))
        yield from unknown(names, "backends", (*backend.beside, *backend.beside.values()), (*here, "beside"))


def _exclusions(tables: Tables, names: Declared) -> Iterator[Mistake]:
    for index, exclusion in enumerate(tables.exclusions):
        here: Location = ("exclusions", index)
        yield from unknown(names, "backends", exclusion.backends, (*here, "backends"))
        yield from unknown(names, "platforms", exclusion.platforms, (*here, "platforms"))
        for name in exclusion.platforms:
            platform = tables.platforms.get(name)
            for architecture in exclusion.architectures if platform else ():
                if platform and architecture not in platform.known:
                    text = f"no GPU of platform {name!r} has architecture {architecture!r}"
                    hint = did_you_mean(architecture, platform.known)
                    yield Mistake((*here, "architectures"), text + hint)


def _gpus(tables: Tables, names: Declared) -> Iterator[Mistake]:
    for name, gpu in tables.gpus.items():
        yield from unknown(names, "architectures", (gpu.architecture,), ("gpus", name, "architecture"))


def _baselines(tables: Tables, names: Declared) -> Iterator[Mistake]:
    seen: set[tuple[str, str, str]] = set()
    for index, baseline in enumerate(tables.baselines):
        yield from unknown(names, "backends", (baseline.backend,), ("baselines", index, "backend"))
        if (baseline.gpu, baseline.backend, baseline.case) in seen:
            text = f"a second one for {baseline.backend!r} in {baseline.case!r} on {baseline.gpu!r}"
            yield Mistake(("baselines", index), text)
        seen.add((baseline.gpu, baseline.backend, baseline.case))


def _cells(tables: Tables) -> Iterator[Mistake]:
    """Every cell is an image or an exclusion, and never both."""
    images = {cell: image.id for cell, image in cells.images(tables).items()}
    excluded = cells.exclusions(tables)
    clashes: dict[tuple[Location, str], list[Cell]] = defaultdict(list)
    for index, exclusion in enumerate(tables.exclusions):
        for cell in cells.of_exclusion(tables, exclusion):
            if cell in images:
                clashes[("exclusions", index), f"image {images[cell]!r}"].append(cell)
            elif excluded[cell] != index:
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
    whole = len(architectures) == len(tables.platforms[platform].known)
    return f"cell {backend} x {platform}" + ("" if whole else f" ({', '.join(architectures)})")
