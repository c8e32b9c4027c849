"""`nox -s build -- ID...`: builds and loads images with `docker buildx bake`."""

from __future__ import annotations

import json
import os
import re
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from attn_matrix import engine
from attn_matrix.bake import OCI, prebuilt, targets, wheel_target
from attn_matrix.errors import CommandFailed, StaleFiles, UsageError
from attn_matrix.forms import FORMS, HEAD_DIMS
from attn_matrix.load import FILE, read
from attn_matrix.model import Base, Image, Matrix
from attn_matrix.render import BAKE as BAKE_FILE
from attn_matrix.render import SPECS, differences, render
from attn_matrix.select import pick
from attn_matrix.tables import BEGIN, END

BAKE: Final = ("docker", "buildx", "bake", "--file", BAKE_FILE)
# The README is no part of a build.
NO_TABLES: Final = f"{BEGIN}\n{END}\n"


@dataclass(frozen=True)
class Sources:
    """Where a build takes things from, beside the registry and the package index.

    `base` replaces the pinned base image of every target; `local_base` allows the engine's own image of the same tag
    where no registry answers. `wheelhouse` is a directory of wheels, looked in first; `ca` a bundle of certificates.
    `builder` replaces the image that compilers come from; `compiled` is a directory as `--wheels` writes it, of wheels
    that then are not compiled.
    """

    base: str | None = None
    local_base: bool = False
    wheelhouse: Path | None = None
    ca: Path | None = None
    builder: str | None = None
    compiled: Path | None = None


@dataclass(frozen=True)
class Order:
    """Which images, of which repository, from what."""

    root: Path
    matrix: Matrix
    images: Sequence[Image]
    sources: Sources


@dataclass(frozen=True)
class BaseUsed:
    """The base image that a build starts from; `digest` is empty when neither its reference nor the engine says it."""

    reference: str
    name: str
    digest: str

    def settings(self) -> tuple[str, ...]:
        """What bake has to be told of it."""
        return (
            f"args.BASE={self.reference}",
            f"labels.{OCI}.base.name={self.name}",
            f"labels.{OCI}.base.digest={self.digest}",
        )


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    parser = subparsers.add_parser("build", help="build and load images with docker buildx bake")
    parser.add_argument("ids", metavar="ID", nargs="*", help="an image id, or a glob such as '*-cu128'")
    parser.add_argument("--base", metavar="IMAGE", help="start from IMAGE instead of the pinned base")
    parser.add_argument("--local-base", action="store_true", help="no registry: the engine's own image of that tag")
    parser.add_argument("--wheelhouse", type=Path, metavar="DIR", help="looked in first; default: PIP_FIND_LINKS")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="CA certificates; default: SSL_CERT_FILE")
    parser.add_argument("--head-dims", metavar="D,…", help="compile FlashAttention 4 for these too: 96,192/128")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="only compile what these images hold, into DIR")
    parser.add_argument("--compiled", type=Path, metavar="DIR", help="take wheels from DIR, which --wheels has written")
    parser.add_argument("--builder", metavar="IMAGE", help="compile with what IMAGE has, instead of the pinned builder")
    parser.add_argument("--max-jobs", type=int, metavar="N", help="compilers at a time; default: as memory allows")
    parser.add_argument("--no-cache", action="store_true", help="build every layer again")
    parser.set_defaults(handler=_handle)


def _handle(arguments: Namespace) -> int:
    matrix = read(arguments.root / FILE)
    if not arguments.ids:
        raise UsageError("which images? Give ids or a glob such as '*-cu128'; known:", *(i.id for i in matrix.images))
    images = pick(matrix, arguments.ids)
    given = (_wheelhouse(arguments.wheelhouse), _bundle(arguments.ca), arguments.builder, _compiled(arguments.compiled))
    sources = Sources(arguments.base, arguments.local_base, *given)
    extra = head_dims(matrix, images, arguments.head_dims) if arguments.head_dims else []
    if arguments.max_jobs:
        extra += [f"--set={name}.args.MAX_JOBS={arguments.max_jobs}" for name in wheels(matrix, images)]
    extra += ["--no-cache"] if arguments.no_cache else []
    if arguments.wheels:
        export(Order(arguments.root, matrix, images, sources), arguments.wheels, extra)
    else:
        build(arguments.root, matrix, images, sources, extra)
    return 0


def _wheelhouse(given: Path | None) -> Path | None:
    if given and not given.is_dir():
        raise UsageError(f"--wheelhouse: there is no directory {given}")
    return given or default_wheelhouse(os.environ)


def _bundle(given: Path | None) -> Path | None:
    if given and not given.is_file():
        raise UsageError(f"--ca: there is no file {given}")
    return given or default_bundle(os.environ)


def _compiled(given: Path | None) -> Path | None:
    if given and not given.is_dir():
        raise UsageError(f"--compiled: there is no directory {given}", "nox -s build -- ID --wheels DIR writes one")
    return given


def default_wheelhouse(environment: Mapping[str, str]) -> Path | None:
    """PIP_FIND_LINKS when it is one directory; pip also takes links and lists of them there."""
    directory = Path(environment.get("PIP_FIND_LINKS") or os.devnull)
    return _said("wheelhouse", directory, "PIP_FIND_LINKS") if directory.is_dir() else None


def default_bundle(environment: Mapping[str, str]) -> Path | None:
    """SSL_CERT_FILE when there is such a file."""
    file = Path(environment.get("SSL_CERT_FILE") or os.devnull)
    return _said("CA certificates", file, "SSL_CERT_FILE") if file.is_file() else None


def _said(what: str, path: Path, variable: str) -> Path:
    engine.say(f"{what}: {path} (from {variable})")
    return path


def head_dims(matrix: Matrix, images: Sequence[Image], added: str) -> list[str]:
    """What bake is told, for each image that compiles kernels, to add the head dims of `added`, a list by comma.

    Raises UsageError when none of the images does, or `added` holds something else.
    """
    own = {image.id: prebuilt(matrix, image) for image in images if prebuilt(matrix, image)}
    if not own:
        raise UsageError("--head-dims: none of these images compiles kernels; those with fa4 do")
    dims = added.split(",")
    for each in dims:
        if not re.match(HEAD_DIMS, each):
            raise UsageError(f"--head-dims: {each!r} is not {FORMS[HEAD_DIMS]}")
    return [f"--set={name}.args.HEAD_DIMS={' '.join(dict.fromkeys([*mine, *dims]))}" for name, mine in own.items()]


def build(root: Path, matrix: Matrix, images: Sequence[Image], sources: Sources, extra: Sequence[str] = ()) -> None:
    """Build `images` and load them into the engine; `extra` are more arguments of bake.

    Raises EngineMissing; UsageError for a platform without a lock; StaleFiles when docker/bake.json is not what
    images.yaml says; CommandFailed when a target fails, after the builder has named it and shown the end of its log.
    """
    names = [image.id for image in images]
    ready = compiled_settings(matrix, images, sources.compiled)
    _bake(Order(root, matrix, images, sources), names, ["--load", *ready, *extra])


def export(order: Order, into: Path, extra: Sequence[str] = ()) -> None:
    """Compile the wheels that the images hold, each into the folder of its target in `into`. Raises as `build` does."""
    names = wheels(order.matrix, order.images)
    if not names:
        raise UsageError("--wheels: nothing in these images is compiled from source")
    to = into.resolve()
    to.mkdir(parents=True, exist_ok=True)  # bake asks for leave to write to what is there, else to what it is in
    outputs = [f"--set={name}.output=type=local,dest={to / name}" for name in names]
    _bake(order, names, [f"--allow=fs.write={to}", *outputs, *extra])


def _bake(order: Order, names: Sequence[str], extra: Sequence[str]) -> None:
    matrix, images, sources = order.matrix, order.images, order.sources
    engine.require()
    require_locks(matrix, images)
    require_fresh(order.root, matrix)
    pinned = {target: matrix.base(image) for image in images for target in targets(matrix, image)}
    used = {base: base_used(base, sources) for base in dict.fromkeys(pinned.values())}
    bases = {target: used[base] for target, base in pinned.items()}
    builders = [f"--set={name}.args.BUILDER={sources.builder}" for name in wheels(matrix, images) if sources.builder]
    command = bake_command(names, bases, sources, revision(order.root))
    started = datetime.now(UTC)
    code = engine.status([*command, *builders, *extra], cwd=order.root)
    if code:
        raise CommandFailed(
            f"building {', '.join(names)} failed (exit code {code}); the end of the log is above",
            *logs_of_failures(started),
            "what was built stays in the builder's cache, so the next try goes on from there",
            "no registry in reach: --base and --builder take the engine's images; no package index: --wheelhouse DIR",
        )


def logs_of_failures(since: datetime) -> list[str]:
    """How to read the whole log of each target that has failed since; empty where buildx (before 0.20) keeps none."""
    try:
        listed = engine.capture(["docker", "buildx", "history", "ls", "--format", "json"])
    except CommandFailed:
        return []
    records = [json.loads(line) for line in listed.splitlines()]
    failed = [r for r in records if r["status"] == "Error" and datetime.fromisoformat(r["created_at"]) >= since]
    return [f"all of {r['name']}: docker buildx history logs {r['ref'].rpartition('/')[2]}" for r in failed]


def wheels(matrix: Matrix, images: Sequence[Image]) -> list[str]:
    """The targets of the wheels that `images` hold."""
    held = (wheel_target(wheel, image) for image in images for wheel in matrix.compiled(image).values())
    return list(dict.fromkeys(held))


def compiled_settings(matrix: Matrix, images: Sequence[Image], folder: Path | None) -> list[str]:
    """What bake is told so that it takes wheels from `folder`, one folder in it for each target, and compiles none.

    Raises UsageError when `folder` lacks one.
    """
    if folder is None:
        return []
    missing = [name for name in wheels(matrix, images) if not any((folder / name).glob("*.whl"))]
    if missing:
        raise UsageError(f"--compiled: {folder} has no wheel of {', '.join(missing)}")
    here = folder.resolve()
    settings = (
        f"--set={image.id}.contexts.{wheel.backend}={here / wheel_target(wheel, image)}"
        for image in images
        for wheel in matrix.compiled(image).values()
    )
    return [f"--allow=fs.read={here}", *settings]


def require_locks(matrix: Matrix, images: Sequence[Image]) -> None:
    """Raises UsageError when the platform of an image has no lock: nothing says what would be installed."""
    lines = []
    for name in dict.fromkeys(image.platform for image in images):
        unlocked = matrix.platforms[name].unlocked
        if unlocked:
            ids = ", ".join(image.id for image in images if image.platform == name)
            lines += [f"{ids}: cannot be built yet: {unlocked.reason} ({unlocked.source})"]
    if lines:
        raise UsageError(*lines)


def require_fresh(root: Path, matrix: Matrix) -> None:
    """Raises StaleFiles when what the builder reads is not what images.yaml says: the image would not be either."""
    rendered = render(matrix, {}, NO_TABLES)
    stale = differences(root, {name: text for name, text in rendered.items() if name == BAKE_FILE or SPECS in name})
    if stale:
        raise StaleFiles(*(f"{name} is not what {FILE} says" for name in stale), "run: nox -s render")


def revision(root: Path) -> str | None:
    """The commit that `root` is at, with `-dirty` when files differ from it; None outside of a git checkout."""
    try:
        return engine.capture(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], cwd=root)
    except CommandFailed:
        return None


def base_used(pinned: Base, sources: Sources) -> BaseUsed:
    """The one asked for, else the pinned one, else, if that is allowed, the engine's own image of the same tag."""
    if sources.base:
        name, _, digest = sources.base.partition("@")
        return BaseUsed(sources.base, name, digest or engine.identity(sources.base) or "")
    here = engine.identity(pinned.image) if sources.local_base else None
    if here is None or engine.identity(pinned.reference) or engine.in_registry(pinned.reference):
        return BaseUsed(pinned.reference, pinned.image, pinned.digest or "")
    engine.say(f"NOT THE PINNED BASE: no registry answers, so this builds on the engine's own {pinned.image} ({here})")
    return BaseUsed(pinned.image, pinned.image, here)


def bake_command(ids: Sequence[str], bases: Mapping[str, BaseUsed], sources: Sources, commit: str | None) -> list[str]:
    """The call of bake for the image ids; `bases` has the base that each target starts from, theirs and the shared.

    What differs from docker/bake.json goes into arguments and labels. Labels are no layer, so a new commit builds
    nothing again.
    """
    settings = [f"{name}.{setting}" for name, base in bases.items() for setting in base.settings()]
    if commit:
        settings.append(f"*.labels.{OCI}.revision={commit}")
    if sources.wheelhouse:
        settings.append(f"*.contexts.wheelhouse={sources.wheelhouse.resolve()}")
    if sources.ca:
        settings.append(f"*.secrets=id=ca,src={sources.ca.resolve()}")
    # bake reads nothing outside of the repository that it was not allowed to.
    allowed = [f"--allow=fs.read={path.resolve()}" for path in (sources.wheelhouse, sources.ca) if path]
    return [*BAKE, *allowed, *(f"--set={setting}" for setting in settings), *ids]
