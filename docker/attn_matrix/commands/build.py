"""`nox -s build -- ID...`: builds and loads images with `docker buildx bake`."""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Sequence
from pathlib import Path

from attn_matrix.errors import UsageError
from attn_matrix.host.images import Order, build, export
from attn_matrix.host.sources import Sources, default_bundle, default_wheelhouse
from attn_matrix.matrix.forms import FORMS, HEAD_DIMS
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.model import Image, Matrix
from attn_matrix.matrix.select import pick
from attn_matrix.rendered.bake import prebuilt


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    parser = subparsers.add_parser("build")
    parser.add_argument("ids", metavar="ID", nargs="*", help="an image id, or a glob such as '*-cu128'")
    parser.add_argument("--base", metavar="IMAGE", help="start from IMAGE instead of the pinned base")
    parser.add_argument("--local-base", action="store_true", help="no registry: the engine's own image of that tag")
    parser.add_argument("--wheelhouse", type=Path, metavar="DIR", help="looked in first; default: PIP_FIND_LINKS")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="CA certificates; default: SSL_CERT_FILE")
    parser.add_argument("--head-dims", metavar="D,…", help="compile FlashAttention 4 for these too: 96,192/128")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="only make the wheels of these images, into DIR")
    parser.add_argument("--compiled", type=Path, metavar="DIR", help="take wheels from DIR, which --wheels has written")
    parser.add_argument("--from-source", action="store_true", help="compile what images.yaml names a prebuilt wheel of")
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
    sources = Sources(arguments.base, arguments.local_base, *given, from_source=arguments.from_source)
    order = Order(arguments.root, matrix, images, sources)
    extra = head_dims(matrix, images, arguments.head_dims) if arguments.head_dims else []
    if arguments.max_jobs:
        compiling = (name for name in order.wheels if name not in order.prebuilt)
        extra += [f"--set={name}.args.MAX_JOBS={arguments.max_jobs}" for name in compiling]
    extra += ["--no-cache"] if arguments.no_cache else []
    if arguments.wheels:
        export(order, arguments.wheels, extra)
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
