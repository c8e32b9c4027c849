"""`nox -s render [-- --check]`: writes the generated files, or only compares them."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, _SubParsersAction

from attn_matrix.errors import StaleFiles
from attn_matrix.matrix.load import FILE
from attn_matrix.rendered.files import differences, rendered, write


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    parser = subparsers.add_parser("render")
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 and print a diff when one differs")
    parser.set_defaults(handler=_handle)


def _handle(arguments: Namespace) -> int:
    files = rendered(arguments.root)
    if not arguments.check:
        for line in write(arguments.root, files) or ["nothing to write"]:
            print(line)
        return 0
    stale = differences(arguments.root, files)
    sys.stdout.writelines(stale.values())
    if stale:
        raise StaleFiles(*(f"{name} is not what {FILE} says" for name in stale), "run: nox -s render")
    print(f"{len(files)} generated files are what {FILE} says")
    return 0
