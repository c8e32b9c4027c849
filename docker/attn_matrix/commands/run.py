"""`nox -s run -- ID [CMD...]`: runs an image with the GPUs of this machine, and exits with CMD's exit code."""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser, Namespace, _SubParsersAction

from attn_matrix.host import engine, machine
from attn_matrix.host.container import attn_variables, devices_for
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.select import pick_one


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    parser = subparsers.add_parser("run")
    parser.add_argument("id", metavar="ID", help="an image id, or a glob that matches one")
    parser.add_argument(
        "cmd", metavar="CMD", nargs=REMAINDER, help="what runs after the check; default: the check alone"
    )
    parser.set_defaults(handler=_handle)


def _handle(arguments: Namespace) -> int:
    matrix = read(arguments.root / FILE)
    image = pick_one(matrix, arguments.id)
    given = devices_for(matrix, image, machine.look())
    request = engine.Request(matrix.tag(image), arguments.cmd, attn_variables(), given.gpus, given.paths, given.groups)
    return engine.run(request)
