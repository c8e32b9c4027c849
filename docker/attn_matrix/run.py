"""`nox -s run -- ID [CMD...]`: an image with the GPUs of this machine. CMD's exit code is ours."""

from __future__ import annotations

import os
from argparse import REMAINDER, ArgumentParser, Namespace, _SubParsersAction

from attn_matrix import engine, machine
from attn_matrix.errors import UsageError
from attn_matrix.load import FILE, read
from attn_matrix.model import Image, Matrix
from attn_matrix.select import pick


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    parser = subparsers.add_parser("run", help="run an image with the GPUs of this machine")
    parser.add_argument("id", metavar="ID", help="an image id, or a glob that matches one")
    parser.add_argument(
        "cmd", metavar="CMD", nargs=REMAINDER, help="what runs after the check; default: the check alone"
    )
    parser.set_defaults(handler=_handle)


def _handle(arguments: Namespace) -> int:
    matrix = read(arguments.root / FILE)
    image = pick_one(matrix, arguments.id)
    gpus = wants_gpus(matrix, image, machine.look())
    return engine.run(engine.Request(matrix.tag(image), arguments.cmd, attn_variables(), gpus))


def pick_one(matrix: Matrix, pattern: str) -> Image:
    """The one image that `pattern` matches. Raises UnknownImage, or UsageError when it matches several."""
    images = pick(matrix, [pattern])
    if len(images) > 1:
        raise UsageError(f"{pattern!r} matches {', '.join(image.id for image in images)}", "give one of them")
    return images[0]


def wants_gpus(matrix: Matrix, image: Image, here: machine.Machine) -> bool:
    """A CPU image needs no GPU, and a machine without one has none to give."""
    return bool(here.gpus) and matrix.platforms[image.platform].device != "cpu"


def attn_variables() -> dict[str, str]:
    """The ATTN_ variables of whoever calls us: they are the container's settings."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith("ATTN_")}
