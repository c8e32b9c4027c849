"""`nox -s sizes [-- PATTERN... --json --inside]`: what images take on disk, each and together.

Sizes are those of the layers, as `docker history` has them in bytes: uncompressed, whatever the storage driver.
(`docker system df` counts a layer that an older build still holds as shared, and with containerd's image store
`docker image ls` adds the compressed copy.) An image's layers are named by RootFS; the same layer upon the same layers
is stored once.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Final

from inside import facts

from attn_matrix.commands import terminal
from attn_matrix.commands.inspection import AS_ROOT, command, present
from attn_matrix.commands.terminal import Part, Table
from attn_matrix.errors import CommandFailed
from attn_matrix.host import engine
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.model import Image, Matrix
from attn_matrix.matrix.select import pick

SCHEMA: Final = 1
# All images of a platform together may take that many times the largest of them.
BAR: Final = 1.5
BARRED: Final = ("times the largest", f"at most {BAR:g}")
# By how much of what is measured images.yaml may differ.
TOLERANCE: Final = 0.02
SHOWN: Final = 12
# Instructions that change an image's configuration and make no layer; the old builder has two blanks before them, and
# one before ADD and COPY.
CONFIGURATION: Final = tuple(
    f"{word} "
    for word in (
        *("ARG", "ENV", "USER", "ENTRYPOINT", "CMD", "LABEL", "EXPOSE", "VOLUME", "STOPSIGNAL"),
        *("HEALTHCHECK", "SHELL", "MAINTAINER", "ONBUILD", "/bin/sh -c #(nop) "),
    )
)

# A layer, by the ids of all layers up to it.
Chain = tuple[str, ...]


@dataclass(frozen=True)
class Stack:
    """An image's layers, the lowest first, with their bytes."""

    layers: Mapping[Chain, int]

    @property
    def bytes(self) -> int:
        return sum(self.layers.values())


@dataclass(frozen=True, kw_only=True)
class ImageSize:
    """Bytes of one image. `shared` are in another one of the matrix too; `claimed` is what images.yaml says, in GB."""

    id: str
    platform: str
    bytes: int
    shared: int
    unique: int
    claimed: float | None

    @property
    def gigabytes(self) -> float:
        """To three digits, as images.yaml has it."""
        return float(f"{self.bytes / 1e9:.3g}")

    @property
    def off(self) -> bool:
        """Whether images.yaml says nothing, or something else."""
        return self.claimed is None or abs(self.claimed * 1e9 - self.bytes) > TOLERANCE * self.bytes


@dataclass(frozen=True, kw_only=True)
class Family:
    """The images of one platform: `together` counts every layer once, `unique` those that one image alone has."""

    platform: str
    images: int
    largest: int
    together: int
    unique: int

    @property
    def ratio(self) -> float:
        return self.together / self.largest


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    parser = subparsers.add_parser("sizes")
    parser.add_argument("patterns", metavar="PATTERN", nargs="*", help="an image id or a glob; default: all images")
    parser.add_argument("--inside", action="store_true", help="also what each image spends its bytes on")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout in place of the tables")
    parser.set_defaults(handler=_handle)


def _handle(arguments: Namespace) -> int:
    matrix = read(arguments.root / FILE)
    engine.require()
    picked = pick(matrix, arguments.patterns)
    here = present(matrix, picked, arguments.patterns)
    every = [*here, *(image for image in matrix.images if image not in picked)]
    stacks = {image.id: stack for image in every if (stack := stack_of(matrix.tag(image)))}
    sizes = measure(here, stacks)
    families = [family(name, sizes, stacks) for name in dict.fromkeys(size.platform for size in sizes)]
    usages = {image.id: usage(arguments.root, matrix, image) for image in here} if arguments.inside else {}
    if arguments.json:
        print(document(sizes, families, usages))
    else:
        terminal.show(*tables(sizes, families, usages))
    return 0 if all(each.ratio <= BAR for each in families) else 1


# ---- measuring ----


def stack_of(tag: str) -> Stack | None:
    """The layers of an image of the engine; None when it has no such image."""
    if engine.identity(tag) is None:
        return None
    ids = json.loads(engine.capture(["docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", tag]))
    history = ["docker", "history", "--no-trunc", "--human=false", "--format", "{{.Size}} {{json .CreatedBy}}", tag]
    newest_first = (line.split(" ", 1) for line in engine.capture(history).splitlines())
    steps = [(int(size), str(json.loads(step))) for size, step in newest_first]
    return Stack(layers(tag, ids, steps[::-1]))


def layers(tag: str, ids: Sequence[str], steps: Iterable[tuple[int, str]]) -> dict[Chain, int]:
    """The bytes of each layer; `steps` are the history's bytes and instructions, the oldest first.

    Raises CommandFailed when the history has not one step for each layer.
    """
    found = [size for size, step in steps if makes_layer(step)]
    if len(found) != len(ids):
        raise CommandFailed(f"{tag} has {len(ids)} layers, and its history {len(found)} steps that make one")
    return {tuple(ids[: index + 1]): size for index, size in enumerate(found)}


def makes_layer(step: str) -> bool:
    return not step.startswith(CONFIGURATION)


def measure(images: Sequence[Image], stacks: Mapping[str, Stack]) -> list[ImageSize]:
    """The sizes of `images`; `stacks` are those of all images that they may share layers with."""
    holders = Counter(chain for stack in stacks.values() for chain in stack.layers)
    sizes = []
    for image in images:
        stack = stacks[image.id]
        shared = sum(size for chain, size in stack.layers.items() if holders[chain] > 1)
        sizes.append(
            ImageSize(
                id=image.id,
                platform=image.platform,
                bytes=stack.bytes,
                shared=shared,
                unique=stack.bytes - shared,
                claimed=image.size.gigabytes if image.size else None,
            )
        )
    return sizes


def family(platform: str, sizes: Sequence[ImageSize], stacks: Mapping[str, Stack]) -> Family:
    """Those of `sizes` that are for `platform`."""
    own = [size for size in sizes if size.platform == platform]
    together = {chain: size for each in own for chain, size in stacks[each.id].layers.items()}
    return Family(
        platform=platform,
        images=len(own),
        largest=max(size.bytes for size in own),
        together=sum(together.values()),
        unique=sum(size.unique for size in own),
    )


def usage(root: Path, matrix: Matrix, image: Image) -> facts.Usage:
    """What the bytes of an image are spent on, by a program in it."""
    engine.say(f"{image.id}: looking inside")
    return facts.usage(engine.capture(["docker", *command(root, matrix.tag(image), "usage", (), AS_ROOT)]))


# ---- output ----


def tables(sizes: Sequence[ImageSize], families: Sequence[Family], usages: Mapping[str, facts.Usage]) -> list[Part]:
    """The images, the platforms, what is inside if that was asked for, and what images.yaml should say."""
    images = [(each.id, _mb(each.bytes), _mb(each.shared), _mb(each.unique), _claim(each)) for each in sizes]
    platforms = [_platform(each) for each in families]
    return [
        Table(images, ("image", "MB", "shared", "unique", "images.yaml"), right=(1, 2, 3)),
        "",
        Table(platforms, ("platform", "images", "largest", "together", *BARRED), right=(1, 2, 3, 4)),
        *(part for name, found in usages.items() for part in _usage(name, found)),
        *_corrections([each for each in sizes if each.off]),
    ]


def _platform(family: Family) -> tuple[str, ...]:
    verdict = "holds" if family.ratio <= BAR else "DOES NOT HOLD"
    counted = (family.platform, str(family.images), _mb(family.largest), _mb(family.together))
    return (*counted, f"{family.ratio:.2f}", verdict)


def _claim(size: ImageSize) -> str:
    if size.claimed is None:
        return "says nothing"
    return f"{size.claimed:g} GB{', which is off' if size.off else ''}"


def _usage(name: str, found: facts.Usage) -> Iterator[Part]:
    yield from ("", f"{name}, MB by package, by directory outside of packages, by kind of file:")
    for counted in (found.distributions, found.directories, found.kinds):
        most = sorted(counted.items(), key=lambda pair: -pair[1])[:SHOWN]
        yield Table([(_mb(size), what) for what, size in most], right=(0,), indent=2)
        yield ""


def _corrections(off: Sequence[ImageSize]) -> Iterator[str]:
    """The lines to paste into images.yaml."""
    if off:
        yield from ("", f"images.yaml is off by more than {TOLERANCE:.0%}; its `sizes` should say:")
    today = date.today().isoformat()
    yield from (f"  {each.id}: {{gigabytes: {each.gigabytes:g}, measured: {today}}}" for each in off)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def document(sizes: Sequence[ImageSize], families: Sequence[Family], usages: Mapping[str, facts.Usage]) -> str:
    """The same as JSON, in bytes."""
    images = [asdict(size) | {"usage": asdict(usages[size.id]) if size.id in usages else None} for size in sizes]
    platforms = [asdict(each) | {"ratio": round(each.ratio, 4), "holds": each.ratio <= BAR} for each in families]
    return json.dumps({"schema": SCHEMA, "bar": BAR, "images": images, "platforms": platforms}, indent=2)
