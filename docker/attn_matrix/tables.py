"""The tables in the README: every image, and every combination without one."""

from __future__ import annotations

from collections.abc import Sequence

from attn_matrix.cells import combination
from attn_matrix.model import Exclusion, Image, Matrix

BEGIN = "<!-- images:begin -->"
END = "<!-- images:end -->"


def insert(readme: str, matrix: Matrix) -> str | None:
    """`readme` with fresh tables between the two markers; None when it does not have both, once each, in order."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in head + tail:
        return None
    return f"{head}{BEGIN}\n{text(matrix)}{END}{tail}"


def text(matrix: Matrix) -> str:
    images = _table(
        ("image", "backends, the default one first", "versions", "GPUs", "size"),
        [_image(matrix, image) for image in matrix.images],
    )
    exclusions = _table(
        ("no image for", "because", "look again after"),
        [_exclusion(exclusion) for exclusion in matrix.exclusions],
    )
    note = "<!-- Generated from images.yaml by `nox -s render`; do not edit. -->"
    return f"{note}\n\n{images}\n\n{_architectures(matrix)}\n\n{exclusions}\n"


def _image(matrix: Matrix, image: Image) -> tuple[str, ...]:
    backends = (name if matrix.gradients(name, image.platform) else f"{name} (forward only)" for name in image.backends)
    versions = (f"{package} {version}" for package, version in matrix.packages(image).items())
    size = f"{image.size.gigabytes:g} GB" if image.size else ""
    return (
        f"`{image.id}`",
        ", ".join(backends),
        ", ".join(versions),
        ", ".join(matrix.supported(image)) or "none needed",
        size,
    )


def _architectures(matrix: Matrix) -> str:
    """One line: every architecture that an image runs on, with examples of GPUs."""
    used = {name for image in matrix.images for name in matrix.supported(image)}
    lines = (f"{name} ({', '.join(gpu.gpus)})" for name, gpu in matrix.architectures.items() if name in used)
    return f"GPU architectures: {', '.join(lines)}."


def _exclusion(exclusion: Exclusion) -> tuple[str, ...]:
    because = f"{exclusion.status}: {exclusion.reason} ([source]({exclusion.source}))"
    return combination(exclusion), because, exclusion.review.isoformat()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *([_escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())
