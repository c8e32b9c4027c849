"""A valid images.yaml of any size, for `nox -s bench`: many platforms, and one image for each architecture of each.

`python -P -m attn_matrix.commands.generated DIR COUNT` writes one into DIR.
"""

from __future__ import annotations

import sys
from math import ceil
from pathlib import Path

from attn_matrix.matrix.load import FILE

BACKENDS = 8
ARCHITECTURES = 5
PER_PLATFORM = BACKENDS * ARCHITECTURES

_HEAD = """\
project: {{name: generated, title: A generated matrix, version: 1.0.0, source: https://example.org/it, licence: MIT}}
bases:
  base: {{image: example.org/base:1, digest: sha256:{digest}}}
"""


def document(count: int) -> str:
    """The text of an images.yaml with `count` images, the cells that are left over being exclusions."""
    platforms = [f"p{number}" for number in range(ceil(count / PER_PLATFORM))]
    backends = [f"b{number}" for number in range(BACKENDS)]
    architectures = [f"a{number}" for number in range(ARCHITECTURES)]
    triples = [(p, b, a) for p in platforms for b in backends for a in architectures]
    names = ", ".join(architectures)
    pins = ", ".join(["torch: 1.2.3", *(f"kernel-{name}: 1.0.{number}" for number, name in enumerate(backends))])
    lines = [
        _HEAD.format(digest="0" * 64) + "architectures:",
        *(f"  {a}: {{vendor: nvidia, capabilities: [{a}], gpus: [GPU {a}]}}" for a in architectures),
        "platforms:",
        *(_platform(name, names, pins) for name in platforms),
        "backends:",
        *(f"  {b}: {{title: Backend {b}, packages: [kernel-{b}], architectures: [{names}]}}" for b in backends),
        "images:",
        *(f"  - {{id: {b}-{p}-{a}, platform: {p}, backends: [{b}], architecture: {a}}}" for p, b, a in triples[:count]),
        "exclusions:" if triples[count:] else "exclusions: []",
        *(_exclusion(*triple) for triple in triples[count:]),
    ]
    return "\n".join(lines) + "\n"


def _platform(name: str, architectures: str, pins: str) -> str:
    return (
        f"  {name}: {{title: Platform {name}, device: cuda, base: base, python: 3.11, "
        f"architectures: [{architectures}], pins: {{{pins}}}}}"
    )


def _exclusion(platform: str, backend: str, architecture: str) -> str:
    return (
        f"  - {{backends: [{backend}], platforms: [{platform}], architectures: [{architecture}], status: planned, "
        "reason: left over, source: https://example.org/why, review: 2099-01-01}"
    )


def write(target: Path, count: int) -> None:
    """images.yaml of a repository with `count` images, in the directory `target`."""
    (target / FILE).write_text(document(count), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
