"""`nox -s check [-- ID ARGS...]`: builds the image that fits this machine, or ID, and runs its check here."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from attn_matrix.errors import EngineMissing
from attn_matrix.host import engine, environment, machine
from attn_matrix.host.container import attn_variables, devices_for
from attn_matrix.host.images import build
from attn_matrix.host.sources import Sources, default_bundle, default_wheelhouse
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.model import Matrix, spec_path
from attn_matrix.matrix.select import pick_one
from entrypoint.spec import from_json

HELP: Final = frozenset({"--help", "-h"})


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    # argparse must take no word for an option: everything after the id goes to the check, `--json` included.
    parser = subparsers.add_parser("check", prefix_chars="\0", add_help=False)
    parser.add_argument("arguments", metavar="[ID] ARGS", nargs="*", help="an image id; the rest goes to the check")
    parser.set_defaults(handler=partial(_handle, parser))


def _handle(parser: ArgumentParser, arguments: Namespace) -> int:
    pattern, argv = split(arguments.arguments)
    if HELP & {*argv}:
        sys.stdout.write(help_text(parser, arguments.root, pattern))
        return 0
    matrix = read(arguments.root / FILE)
    here = machine.look()
    choice = _choice(matrix, here, pattern)
    note = "; -base: without Axolotl, which a check does not need" if choice.image.is_base else ""
    engine.say(f"{choice.image.id}: {choice.reason}{note}")
    sources = Sources(None, True, default_wheelhouse(os.environ), default_bundle(os.environ))
    try:
        engine.require()
    except EngineMissing as error:
        engine.say(f"{error.lines[0]}: the same check from the same lock in a virtual environment instead")
        return environment.check(arguments.root, matrix, choice.image, sources, argv)
    build(arguments.root, matrix, [choice.image], sources)
    given, tag = devices_for(matrix, choice.image, here), matrix.tag(choice.image)
    command = ["check", *argv]
    return engine.run(engine.Request(tag, command, attn_variables(), given.gpus, given.paths, given.groups))


def help_text(parser: ArgumentParser, root: Path, pattern: str | None) -> str:
    """This command's own help and the check's, which comes from the entrypoint here: no image is built to ask it."""
    from entrypoint.main import USAGE, usage

    theirs = USAGE.format(options="", backends="nox -s plan lists them")
    if pattern:
        image = pick_one(read(root / FILE), pattern)
        theirs = usage(from_json((root / spec_path(image.id)).read_text(encoding="utf-8")))
    return f"{parser.format_help()}\nThe check in the container:\n\n{theirs}"


def split(given: Sequence[str]) -> tuple[str | None, list[str]]:
    """The image pattern, if the first argument is one, and what goes to the check."""
    if given and not given[0].startswith("-"):
        return given[0], list(given[1:])
    return None, list(given)


def _choice(matrix: Matrix, here: machine.Machine, pattern: str | None) -> machine.Choice:
    if pattern is None:
        return machine.choose(matrix, here)
    return machine.Choice(pick_one(matrix, pattern), "as asked for")
