"""`python -P -m attn_matrix COMMAND`: one argparse parser, and the only catch of AttnError.

A command is a module with `add_parser(subparsers) -> None`, which adds the command's parser and sets its `handler`:
a function from the parsed arguments to the exit code. Only the module of the command asked for is imported, so that
`plan` and `render` do not wait for what `build` and `run` need.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from attn_matrix import ROOT
from attn_matrix.errors import AttnError

COMMANDS = {
    "plan": "what would be built, and every excluded combination with its reason, source and review date",
    "render": "write the generated files from images.yaml, or compare them with --check",
    "build": "build and load images with docker buildx bake",
    "run": "run an image with the GPUs and files of this machine",
    "check": "build the image that fits this machine and run its check here",
    "inspect": "what can be proved about built images without a GPU",
    "sizes": "what images take on disk, together and each",
    "bench": "what a start, a build and a rendering cost",
    "lock": "resolve and hash the requirements of a platform",
    "pins": "write the digests that the base images have now into images.yaml",
}
# Commands whose module has another name: `inspect` is a module of Python's own.
MODULES = {"inspect": "inspection"}


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


def _parser(given: Sequence[str]) -> ArgumentParser:
    """The parser; of the commands only the one that is named among the arguments is filled in."""
    parser = ArgumentParser(prog="attn_matrix", description="The image matrix of axolotl-attn.")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="the repository; default: this one")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((argument for argument in given if argument in COMMANDS), None)
    for name, summary in COMMANDS.items():
        if name == chosen:
            import_module(f"attn_matrix.commands.{MODULES.get(name, name)}").add_parser(commands)
        else:
            commands.add_parser(name, help=summary)
    return parser
