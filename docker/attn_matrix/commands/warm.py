"""`nox -s warm -- ID [ARGS...]`: what compilers make for an image's check on this machine's GPU, recorded.

The record is a directory for ATTN_CACHE or, with --image, an image that brings it. A start uses it only where software,
driver and GPU (or CPU) are the same: elsewhere it has another name (entrypoint/kept/compilers.py).
"""

from __future__ import annotations

import shlex
import tempfile
from argparse import REMAINDER, ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attn_matrix.commands.run import volumes
from attn_matrix.errors import CommandFailed, UsageError
from attn_matrix.host import engine, machine
from attn_matrix.host.container import WORKSPACE, attn_variables, devices_for, our_user
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.model import Image, Matrix
from attn_matrix.matrix.select import pick_one
from entrypoint.kept import seal
from entrypoint.kept.compilers import COMPILED

# Where the directory is mounted in the container, and where an image brings it.
MOUNTED: Final = "/warm"
BROUGHT: Final = f"/opt/attn/{COMPILED}"
DIRECTORY: Final = "attn-cache"


@dataclass(frozen=True)
class Record:
    """What was recorded: folders by the names that a start finds them by, files in them, and their bytes."""

    folders: tuple[str, ...]
    files: int
    size: int


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    parser = subparsers.add_parser("warm")
    parser.add_argument(
        "--into", type=Path, metavar="DIR", help=f"the directory to write, empty or not there; default: {DIRECTORY}"
    )
    parser.add_argument("--image", metavar="TAG", help="make this image instead: ID with the record as a layer of it")
    parser.add_argument("id", metavar="ID", help="an image id, or a glob that matches one; the engine has the image")
    parser.add_argument(
        "check",
        metavar="ARGS",
        nargs=REMAINDER,
        help=f"go to the check: --deep, --config FILE (the current directory is its {WORKSPACE})",
    )
    parser.set_defaults(handler=_handle)


def _handle(arguments: Namespace) -> int:
    matrix = read(arguments.root / FILE)
    image = pick_one(matrix, arguments.id)
    if arguments.image and arguments.into:
        raise UsageError("--into and --image: give one of them")
    if arguments.image:
        with tempfile.TemporaryDirectory() as folder:
            record = make(matrix, image, Path(folder), arguments.check)
            derive(matrix.tag(image), arguments.image, Path(folder) / COMPILED)
        engine.say(f"{arguments.image} is {image.id} with {_described(record)}")
        return 0
    into = (arguments.into or Path(DIRECTORY)).resolve()
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise UsageError(
            f"--into: {into} is not an empty directory", "a record begins with nothing: remove or rename it"
        )
    into.mkdir(parents=True, exist_ok=True)
    record = make(matrix, image, into, arguments.check)
    engine.say(f"{into} holds {_described(record)}")
    engine.say(f"use it: nox -s run -- -v {shlex.quote(str(into))}:/attn -e ATTN_CACHE=/attn {image.id} CMD")
    return 0


def make(matrix: Matrix, image: Image, into: Path, check: Sequence[str]) -> Record:
    """Run the check of `image` with the empty directory `into` as its ATTN_CACHE, and seal what is there then.

    Raises CommandFailed when the check does not pass, since nobody knows then whether the kernels are right, and when
    there is nothing to record.
    """
    given = devices_for(matrix, image, machine.look())
    request = engine.Request(
        matrix.tag(image),
        ["check", *check],
        {**attn_variables(), "ATTN_CACHE": MOUNTED},
        gpus=given.gpus,
        devices=given.paths,
        groups=given.groups,
        volumes=[f"{into}:{MOUNTED}", *volumes([], Path.cwd())],
        user=our_user(),
    )
    if code := engine.run(request):
        raise CommandFailed(
            f"nothing was recorded: the check of {image.id} ended with {code}; its report is above",
            "what a user accepts goes into ATTN_ALLOW: ATTN_ALLOW=forward-only nox -s warm -- …",
        )
    return sealed(into, image.id)


def sealed(into: Path, name: str) -> Record:
    """Seal the last files too, which were too young for the check; everybody may read them.

    Links lead to kernels in the image (entrypoint/kept/kernels_cache.py), and nowhere on this machine.
    """
    folders = sorted(into.glob(f"{COMPILED}/*/"))
    seals = [seal.write(str(folder), seal.read(str(folder)), settled=0.0) for folder in folders]
    if not any(seals):
        raise CommandFailed(f"the check of {name} passed, and no compiler made anything: there is nothing to record")
    for path in (path for path in into.rglob("*") if not path.is_symlink()):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    sizes = [size for each in seals for size, _ in each.values()]
    return Record(tuple(folder.name for folder in folders), len(sizes), sum(sizes))


def derive(tag: str, derived: str, compiled: Path) -> None:
    """Tag as `derived` the image `tag` with `compiled` in it; no build, since not every builder sees the engine's.

    Raises CommandFailed.
    """
    container = engine.capture(["docker", "create", "--network=none", tag])
    try:
        engine.call(["docker", "cp", "--quiet", str(compiled), f"{container}:{BROUGHT}"])
        engine.capture(["docker", "commit", "--message", "nox -s warm", container, derived])
    finally:
        engine.capture(["docker", "rm", "--force", container])


def _described(record: Record) -> str:
    names = ", ".join(record.folders)
    return f"{record.files} files of compilers, {record.size / 1e6:.1f} MB, for software and hardware {names}"
