"""`nox -s check [-- ID ARGS...]`: the main job: the check of the image that fits this machine, on this machine."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Sequence

from attn_matrix.errors import EngineMissing
from attn_matrix.host import engine, environment, machine
from attn_matrix.host.container import attn_variables, devices_for
from attn_matrix.host.images import build
from attn_matrix.host.sources import Sources, default_bundle, default_wheelhouse
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.model import Matrix
from attn_matrix.matrix.select import pick_one


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    # No prefix makes an option here: everything after the id is the container's, `--json` and `--help` included.
    parser = subparsers.add_parser("check", help="check attention on this machine", prefix_chars="\0", add_help=False)
    parser.add_argument("arguments", metavar="[ID] ARGS", nargs="*", help="an image id; the rest goes to the check")
    parser.set_defaults(handler=_handle)


def _handle(arguments: Namespace) -> int:
    matrix = read(arguments.root / FILE)
    pattern, argv = split(arguments.arguments)
    here = machine.look()
    choice = _choice(matrix, here, pattern)
    engine.say(f"{choice.image.id}: {choice.reason}")
    sources = Sources(None, True, default_wheelhouse(os.environ), default_bundle(os.environ))
    try:
        engine.require()
    except EngineMissing as error:
        engine.say(f"{error.lines[0]}: the same check from the same lock in a virtual environment instead")
        return environment.check(arguments.root, matrix, choice.image, sources, argv)
    build(arguments.root, matrix, [choice.image], sources)
    given, tag = devices_for(matrix, choice.image, here), matrix.tag(choice.image)
    return engine.run(engine.Request(tag, ["check", *argv], attn_variables(), given.gpus, given.paths, given.groups))


def split(given: Sequence[str]) -> tuple[str | None, list[str]]:
    """The image pattern, if the first argument is one, and what goes to the check."""
    if given and not given[0].startswith("-"):
        return given[0], list(given[1:])
    return None, list(given)


def _choice(matrix: Matrix, here: machine.Machine, pattern: str | None) -> machine.Choice:
    if pattern is None:
        return machine.choose(matrix, here)
    return machine.Choice(pick_one(matrix, pattern), "as asked for")
