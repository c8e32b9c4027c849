"""The page of images, docker/IMAGES.md: every image, every cell, and the reason of every cell without an image."""

from __future__ import annotations

from collections.abc import Sequence

from attn_matrix.matrix import cells
from attn_matrix.matrix.cells import Cell
from attn_matrix.matrix.model import Exclusion, Image, Matrix

HEAD = """\
# Images

<!-- Generated from images.yaml by `nox -s render`; do not edit. -->

An image is named after its default attention backend and its platform; with an architecture behind them it holds code
for those GPUs alone. Each stands here once, with its variants: `-base` is the same image without Axolotl. A size is the
sum of the layers' bytes, of images that were built and measured (`nox -s sizes`). To choose one, see the
[README](../README.md); to build one, [BUILDING.md](BUILDING.md).
"""


def page(matrix: Matrix) -> str:
    """docker/IMAGES.md: every image, every combination of backend and GPU, and why some of them have no image."""
    families: dict[str, list[Image]] = {}
    for image in matrix.images:
        families.setdefault(image.plain, []).append(image)
    images = _table(
        ("image", "backends, the default one first", "versions", "GPUs", "size", "variants"),
        [_image(matrix, *family) for family in families.values()],
    )
    exclusions = _table(
        ("", "no image for", "because", "look again after"),
        [_exclusion(number, exclusion) for number, exclusion in enumerate(matrix.exclusions, 1)],
    )
    parts = (
        HEAD.rstrip(),
        images,
        *_lacking(matrix),
        *_mends(matrix),
        *_unlocked(matrix),
        "## Which image for which backend and GPU",
        "A number is that of the reason below.",
        _architectures(matrix),
        *_cells(matrix),
        "## Why there is no image",
        exclusions,
    )
    return "\n\n".join(parts) + "\n"


def _image(matrix: Matrix, image: Image, *variants: Image) -> tuple[str, ...]:
    backends = (name if matrix.gradients(name, image.platform) else f"{name} (forward only)" for name in image.backends)
    versions = (f"{package} {version}" for package, version in matrix.pinned_packages(image).items())
    return (
        f"`{image.id}`",
        ", ".join(backends),
        ", ".join(versions),
        ", ".join(matrix.image_architectures(image)) or "none needed",
        _size(image),
        ", ".join(f"`{other.id.removeprefix(image.id)}`{_size(other, ' ')}" for other in variants),
    )


def _size(image: Image, before: str = "") -> str:
    return f"{before}{image.size.gigabytes:g} GB" if image.size else ""


def _lacking(matrix: Matrix) -> list[str]:
    """A sentence for each backend that options of Axolotl's ask for by themselves."""
    return [
        f"An image without `{name}` cannot train with Axolotl's {', '.join(f'`{o}`' for o in backend.options)}."
        for name, backend in matrix.backends.items()
        if backend.options
    ]


def _mends(matrix: Matrix) -> list[str]:
    """The table of what is mended in images, where something is."""
    rows = [
        (
            f"`{name}`",
            f"{mend.package} {', '.join(f'{version} on {platform}' for platform, version in mend.versions.items())}",
            f"{mend.defect} ([source]({mend.source}))",
            mend.change,
            mend.review.isoformat(),
        )
        for name, mend in matrix.mends.items()
    ]
    return [_table(("mend", "of", "defect", "what the image changes", "look again after"), rows)] if rows else []


def _unlocked(matrix: Matrix) -> list[str]:
    """A sentence for each platform whose images cannot be built yet."""
    return [
        f"No image of `{name}` can be built yet: {platform.unlocked.reason} ([source]({platform.unlocked.source})); "
        f"look again after {platform.unlocked.review}."
        for name, platform in matrix.platforms.items()
        if platform.unlocked
    ]


def _architectures(matrix: Matrix) -> str:
    """One line: every architecture of a platform, with examples of GPUs."""
    used = {name for platform in matrix.platforms.values() for name in platform.known}
    lines = (f"{name} ({', '.join(gpu.gpus)})" for name, gpu in matrix.architectures.items() if name in used)
    return f"GPU architectures: {', '.join(lines)}."


def _cells(matrix: Matrix) -> list[str]:
    """A table for each platform: in every cell an image, or the number of the exclusion."""
    built, excluded = cells.images(matrix), cells.exclusions(matrix)

    def stands(cell: Cell) -> str:
        return f"`{built[cell].id}`" if cell in built else f"no: {excluded[cell] + 1}"

    return [
        _table(
            (platform, *(name or "CPU" for name in columns)),
            [(backend, *(stands(Cell(backend, platform, name)) for name in columns)) for backend in matrix.backends],
        )
        for platform in matrix.platforms
        for columns in [matrix.platforms[platform].known or (None,)]
    ]


def _exclusion(number: int, exclusion: Exclusion) -> tuple[str, ...]:
    because = f"{exclusion.status}: {exclusion.reason} ([source]({exclusion.source}))"
    return str(number), cells.combination(exclusion), because, exclusion.review.isoformat()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *([_escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())
