"""Builds images, and the wheels that they hold, with `docker buildx bake`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from attn_matrix.errors import CommandFailed, StaleFiles, UsageError
from attn_matrix.host import engine
from attn_matrix.host.bases import BaseUsed, base_used
from attn_matrix.host.sources import Sources
from attn_matrix.matrix.load import FILE
from attn_matrix.matrix.model import Image, Matrix
from attn_matrix.rendered.bake import OCI, targets, wheel_target
from attn_matrix.rendered.files import BAKE_FILE, FROM_SOURCE, build_files, differences

BAKE_COMMAND: Final = ("docker", "buildx", "bake", "--file", BAKE_FILE)


@dataclass(frozen=True)
class Order:
    """What to build: images of the repository at `root`, from these sources. `matrix` is images.yaml's."""

    root: Path
    matrix: Matrix
    images: Sequence[Image]
    sources: Sources

    @property
    def built(self) -> Matrix:
        """The matrix as it is built: with nothing prebuilt in it, if that is asked for."""
        return self.matrix.from_source() if self.sources.from_source else self.matrix

    @property
    def prebuilt(self) -> dict[str, str]:
        """The addresses of the wheels that the build downloads, by target."""
        if self.sources.compiled:
            return {}
        return {
            wheel_target(self.matrix.wheels[package], image): wheel.url
            for image in self.images
            for package, wheel in self.built.prebuilt_wheels(image).items()
        }

    @property
    def wheels(self) -> list[str]:
        """The targets of the wheels that the images hold."""
        return wheels(self.built, self.images)


def build(root: Path, matrix: Matrix, images: Sequence[Image], sources: Sources, extra: Sequence[str] = ()) -> None:
    """Build `images` and load them into the engine; `extra` are more arguments of bake.

    Raises EngineMissing; UsageError for a platform without a lock; StaleFiles when docker/bake.json is not what
    images.yaml says; CommandFailed when a target fails, after the builder has named it and shown the end of its log.
    """
    order = Order(root, matrix, images, sources)
    ready = compiled_settings(order.built, images, sources.compiled)
    _bake(order, [image.id for image in images], ["--load", *ready, *extra])


def export(order: Order, into: Path, extra: Sequence[str] = ()) -> None:
    """Compile, or download, the wheels that the images hold, each into the folder of its target in `into`.

    Raises as `build` does.
    """
    names = order.wheels
    if not names:
        raise UsageError("--wheels: these images hold no wheel that the package index lacks")
    to = into.resolve()
    to.mkdir(parents=True, exist_ok=True)  # bake asks for leave to write to what is there, else to what it is in
    outputs = [f"--set={name}.output=type=local,dest={to / name}" for name in names]
    _bake(order, names, [f"--allow=fs.write={to}", *outputs, *extra])


def _bake(order: Order, names: Sequence[str], extra: Sequence[str]) -> None:
    matrix, images, sources = order.built, order.images, order.sources
    engine.require()
    require_locks(matrix, images)
    require_fresh(order.root, order.matrix)
    pinned = {target: matrix.base(image) for image in images for target in targets(matrix, image)}
    used = {base: base_used(base, sources) for base in dict.fromkeys(pinned.values())}
    bases = {target: used[base] for target, base in pinned.items()}
    compiling = [name for name in order.wheels if name not in order.prebuilt]
    builders = [f"--set={name}.args.BUILDER={sources.builder}" for name in compiling if sources.builder]
    command = bake_command(names, bases, sources, revision(order.root))
    started = datetime.now(UTC)
    code = engine.status([*command, *builders, *extra], cwd=order.root)
    if code:
        raise CommandFailed(
            f"building {', '.join(names)} failed (exit code {code}); the end of the log is above",
            *logs_of_failures(started),
            *_downloads(order),
            "what was built stays in the builder's cache, so the next try goes on from there",
            "no registry in reach: --base and --builder take the engine's images; no package index: --wheelhouse DIR",
        )


def _downloads(order: Order) -> list[str]:
    """What may have failed that is not this machine's, and what does without it."""
    if not order.prebuilt:
        return []
    return [
        *(f"{target} is downloaded from {url}" for target, url in order.prebuilt.items()),
        "if that failed: `no such host` is no way there; `digest mismatch` is a file of another hash than images.yaml "
        "has, an error page included",
        "without it: --from-source compiles here; --compiled DIR takes what --wheels DIR has written on another one",
    ]


def logs_of_failures(since: datetime) -> list[str]:
    """How to read the whole log of each target that has failed since; empty where buildx (before 0.20) keeps none."""
    try:
        listed = engine.capture(["docker", "buildx", "history", "ls", "--format", "json"])
    except CommandFailed:
        return []
    return [line for record in listed.splitlines() if (line := _log_of_failure(record, since))]


def _log_of_failure(record: str, since: datetime) -> str | None:
    """How to read the log that a line of buildx's history is about; None for a build that went well or is older.

    Also None for a line of another form than buildx 0.29 writes: this only adds to an error message.
    """
    try:
        fields = json.loads(record)
        created = datetime.fromisoformat(fields["created_at"])
        if created.tzinfo is None:
            created = created.replace(tzinfo=UTC)
        if fields["status"] != "Error" or created < since:
            return None
        return f"all of {fields['name']}: docker buildx history logs {fields['ref'].rpartition('/')[2]}"
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def wheels(matrix: Matrix, images: Sequence[Image]) -> list[str]:
    """The targets of the wheels that `images` hold."""
    held = (wheel_target(wheel, image) for image in images for wheel in matrix.held_wheels(image).values())
    return list(dict.fromkeys(held))


def compiled_settings(matrix: Matrix, images: Sequence[Image], folder: Path | None) -> list[str]:
    """What bake is told so that it takes wheels from `folder`, one folder in it for each target, and compiles none.

    Raises UsageError when `folder` lacks one, or has one of another version than the image would claim.
    """
    if folder is None:
        return []
    missing = [name for name in wheels(matrix, images) if not any((folder / name).glob("*.whl"))]
    if missing:
        raise UsageError(f"--compiled: {folder} has no wheel of {', '.join(missing)}")
    other = list(dict.fromkeys(line for image in images for line in _of_another_version(matrix, image, folder)))
    if other:
        raise UsageError(*other, "--from-source takes those compiled from source; without it, those prebuilt")
    here = folder.resolve()
    settings = (
        f"--set={image.id}.contexts.{wheel.backend}={here / wheel_target(wheel, image)}"
        for image in images
        for wheel in matrix.held_wheels(image).values()
    )
    return [f"--allow=fs.read={here}", *settings]


def _of_another_version(matrix: Matrix, image: Image, folder: Path) -> Iterator[str]:
    """A line for each wheel in `folder` whose name has another version than `image` would claim to hold."""
    versions = matrix.kernel_packages(image)
    for package, wheel in matrix.held_wheels(image).items():
        for file in (folder / wheel_target(wheel, image)).glob("*.whl"):
            if file.name.split("-")[1] != versions[package]:
                yield f"--compiled: {file} is not {package} {versions[package]}, which this build is of"


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
    stale = differences(root, build_files(matrix))
    if stale:
        raise StaleFiles(*(f"{name} is not what {FILE} says" for name in stale), "run: nox -s render")


def revision(root: Path) -> str | None:
    """The commit that `root` is at, with `-dirty` when files differ from it; None outside of a git checkout."""
    try:
        return engine.capture(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], cwd=root)
    except CommandFailed:
        return None


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
    over = ["--file", FROM_SOURCE] if sources.from_source else []
    return [*BAKE_COMMAND, *over, *allowed, *(f"--set={setting}" for setting in settings), *ids]
