"""What images.yaml says of its images: ids that fit, names that exist, and only what can run together."""

from __future__ import annotations

from collections.abc import Iterator

from attn_matrix.hints import did_you_mean
from attn_matrix.matrix.model import ALL, TORCH, Platform, Row, Tables
from attn_matrix.matrix.names import Declared, twice, unknown
from attn_matrix.matrix.source import Location, Mistake


def check(tables: Tables, names: Declared) -> Iterator[Mistake]:
    """Every mistake of a row by itself."""
    first: dict[str, int] = {}
    for index, row in enumerate(tables.rows):
        here: Location = ("images", index)
        yield from unknown(names, "platforms", (row.platform,), (*here, "platform"))
        yield from unknown(names, "backends", row.backends, (*here, "backends"))
        yield from twice(row.backends, (*here, "backends"))
        yield from twice(row.narrowed, (*here, "narrowed"))
        for image in tables.variants(row):
            if first.setdefault(image.id, index) != index:
                yield Mistake((*here, "id"), f"{image.id!r} is the id of images[{first[image.id]}] already")
        if row.platform in names.get("platforms", ()) and row.default in names.get("backends", ()):
            yield from _identity(row, here)
        platform = tables.platforms.get(row.platform)
        if platform is not None:
            yield from _on_platform(tables, row, platform, here)


def check_all(tables: Tables) -> Iterator[Mistake]:
    """What can be said of rows together: an image of all backends holds all, and a size is an image's."""
    for index, row in enumerate(tables.rows):
        if row.id.startswith(f"{ALL}-"):
            others = (other for other in tables.rows if other.platform == row.platform)
            for missing in dict.fromkeys(other.default for other in others if other.default not in row.backends):
                text = f"{row.id!r} is to hold every backend of its platform, and lacks {missing!r}"
                yield Mistake(("images", index, "backends"), text)
    ids = [image.id for image in tables.images]
    for name in tables.sizes:
        if name not in ids:
            yield Mistake(("sizes", name), f"there is no image {name!r}{did_you_mean(name, ids)}")


def _identity(row: Row, here: Location) -> Iterator[Mistake]:
    """An id says what the image is: `<combination>-<platform>[-<arch>]`; a `-base` variant is no row of its own."""
    combination = ALL if row.id.startswith(f"{ALL}-") else row.default
    expected = "-".join(filter(None, (combination, row.platform, row.architecture)))
    if row.id != expected:
        facts = f"default backend {row.default!r}, platform {row.platform!r}"
        facts += f", architecture {row.architecture!r}" if row.architecture else ""
        yield Mistake((*here, "id"), f"{row.id!r} does not fit its {facts}: expected {expected!r}")


def _on_platform(tables: Tables, row: Row, platform: Platform, here: Location) -> Iterator[Mistake]:
    """What a row asks of a platform that exists: its architectures, a torch, its backends' packages."""
    named = [("architecture", row.architecture)] if row.architecture else []
    for key, architecture in (*named, *(("narrowed", name) for name in row.narrowed)):
        if architecture not in platform.architectures:
            text = f"no GPU of platform {row.platform!r} has architecture {architecture!r}"
            yield Mistake((*here, key), text + did_you_mean(architecture, platform.architectures))
    if TORCH not in platform.pins:
        yield Mistake((*here, "platform"), f"platform {row.platform!r} pins no version of torch")
    for name in row.backends:
        yield from _backend(tables, row, name, here)
    yield from _together(tables, row, here)
    yield from _nowhere(tables, row, here)


def _backend(tables: Tables, row: Row, name: str, here: Location) -> Iterator[Mistake]:
    platform, backend = tables.platforms[row.platform], tables.backends.get(name)
    if backend is None:
        return
    for package in backend.packages:
        if package not in platform.pins:
            text = f"backend {name!r} needs the package {package!r}, which platform {row.platform!r} does not pin"
            yield Mistake((*here, "backends"), text + did_you_mean(package, platform.pins))
    if _declared(tables, row, name) and not tables.platform_architectures(name, row.platform):
        yield Mistake((*here, "backends"), f"backend {name!r} runs on no GPU of platform {row.platform!r}")


def _together(tables: Tables, row: Row, here: Location) -> Iterator[Mistake]:
    """The backends that cannot be in one image without a third one."""
    held = [name for name in row.backends if name in tables.backends]
    for name in held:
        for other, needed in tables.backends[name].beside.items():
            if other in held and needed not in held:
                text = f"{name!r} and {other!r} in one image need {needed!r} there too"
                yield Mistake((*here, "backends"), text)


def _nowhere(tables: Tables, row: Row, here: Location) -> Iterator[Mistake]:
    """The variants of which the default backend runs on no architecture that they are for."""
    if not _declared(tables, row, row.default):
        return
    known = tables.platforms[row.platform].architectures
    for image in tables.variants(row):
        if image.architecture in known and not image.is_base and not tables.image_architectures(image):
            text = f"{row.default!r} has no kernels for {image.architecture!r} in {image.id!r}"
            yield Mistake((*here, "architecture" if row.architecture else "narrowed"), text)


def _declared(tables: Tables, row: Row, backend: str) -> bool:
    """Whether every architecture of the platform and of the backend exists, on a platform that has any."""
    if backend not in tables.backends:
        return False
    platform = tables.platforms[row.platform]
    named = {*platform.architectures, *tables.backends[backend].architectures}
    return bool(platform.architectures) and named <= tables.architectures.keys()
