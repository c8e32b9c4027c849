"""`python -P -m attn_matrix COMMAND`: one argparse parser, and the only catch of AttnError.

A command is a module with `add_parser(subparsers) -> None`, which adds the command's parser and sets its `handler`:
a function from the parsed arguments to the exit code. Only the module of the command asked for is imported, so that
`plan` and `render` do not wait for what `build` and `run` need. noxfile.py makes a session of each command.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from attn_matrix import ROOT
from attn_matrix.errors import AttnError

# The one summary of each command: `nox -l` and every --help show it.
COMMANDS = {
    "check": "build the image that fits this machine and run its check here",
    "plan": "show what would be built, and every excluded combination with its reason, source and review date",
    "render": "write the generated files from images.yaml, or compare them with --check",
    "build": "build images with docker buildx bake and load them into the engine",
    "run": "run an image with the GPUs and files of this machine",
    "warm": "record, on this machine's GPU, what compilers make for an image, to be added to it or to a volume",
    "inspect": "prove what can be proved about built images without a GPU",
    "sizes": "show what images take on disk, each and together",
    "fleet": "show the reports of many nodes as one table, JSON or HTML page",
    "bench": "measure what a start, a build and a rendering cost",
    "lock": "resolve and hash the requirements in docker/locks again",
    "pins": "write the digests that the base images have now into images.yaml",
}
# Commands whose module has another name: `inspect` is a module of Python's own.
MODULES = {"inspect": "inspection"}


class Commands(_SubParsersAction):  # type: ignore[type-arg]
    """The subparsers: each command's parser has its summary from COMMANDS."""

    def add_parser(self, name: str, **options: Any) -> ArgumentParser:
        summary = {"help": COMMANDS[name], "description": COMMANDS[name]}
        parser: ArgumentParser = super().add_parser(name, **{**options, **summary})
        return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Argument errors exit with 2, as argparse has it."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parsed = _parser(given).parse_args(given)
    try:
        code: int = parsed.handler(parsed)
    except AttnError as error:
        for line in error.lines:
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130  # as a shell reports a program that SIGINT ended
    return code


def _absolute(path: str) -> Path:
    """Commands hand the root to programs that run in another directory, and to Docker as a mount."""
    return Path(path).resolve()


def _parser(given: Sequence[str]) -> ArgumentParser:
    """The parser; of the commands only the one that is named among the arguments is filled in."""
    parser = ArgumentParser(prog="attn_matrix", description="The image matrix of axolotl-attn.")
    parser.add_argument("--root", type=_absolute, default=ROOT, metavar="DIR", help="the repository; default: this one")
    commands = parser.add_subparsers(action=Commands, dest="command", required=True, metavar="COMMAND")
    chosen = next((argument for argument in given if argument in COMMANDS), None)
    for name in COMMANDS:
        if name == chosen:
            import_module(f"attn_matrix.commands.{MODULES.get(name, name)}").add_parser(commands)
        else:
            commands.add_parser(name)
    return parser
