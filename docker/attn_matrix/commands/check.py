"""`nox -s check [-- ID ARGS...]`: builds the image that fits this machine, or ID, and runs its check here.

Of the check's arguments the host reads those that name files of this machine: the folder of `--config FILE` becomes
the container's working directory, and what the check writes is mounted, too.
"""

from __future__ import annotations

import os
import platform
import sys
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from attn_matrix.errors import EngineMissing, UsageError
from attn_matrix.host import engine, environment, machine
from attn_matrix.host.container import WORKSPACE, attn_variables, devices_for, our_user
from attn_matrix.host.images import build
from attn_matrix.host.sources import Sources, default_bundle, default_wheelhouse
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.model import Matrix, spec_path
from attn_matrix.matrix.select import pick_one
from entrypoint import writers
from entrypoint.spec import from_json

HELP: Final = frozenset({"--help", "-h"})
CONFIG: Final = "--config"
# Where the container finds this machine's cache of the hub, which may hold the model's config.json.
HUB: Final = "/hub"
# The check's options that name a file which it writes: here it is one of this machine.
WRITTEN: Final = frozenset(f"--{name}" for name in writers.NAMES)


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    # argparse must take no word for an option: everything after the id goes to the check, `--json` included.
    parser = subparsers.add_parser("check", prefix_chars="\0", add_help=False)
    parser.add_argument(
        "arguments",
        metavar="[ID] ARGS",
        nargs="*",
        help="an image id; the rest goes to the check. --config FILE names a file of this machine",
    )
    parser.set_defaults(handler=partial(_handle, parser))


def _handle(parser: ArgumentParser, arguments: Namespace) -> int:
    pattern, argv = split(arguments.arguments)
    if HELP & {*argv}:
        sys.stdout.write(help_text(parser, arguments.root, pattern))
        return 0
    config, argv = configured(resolved(argv))
    matrix = read(arguments.root / FILE)
    here = machine.look()
    choice = _choice(matrix, here, pattern)
    if config and pattern is None:
        choice = replace(choice, image=pick_one(matrix, choice.image.id.removesuffix("-base")))
    if config and choice.image.is_base:
        raise UsageError(f"--config: {choice.image.id} is without Axolotl", "name an image without -base: nox -s plan")
    note = "; -base: without Axolotl, which a check does not need" if choice.image.is_base else ""
    engine.say(f"{choice.image.id}: {choice.reason}{note}")
    sources = Sources(None, True, default_wheelhouse(os.environ), default_bundle(os.environ))
    try:
        engine.require()
    except EngineMissing as error:
        if config:
            raise UsageError(
                f"--config: {error.lines[0]}, and the check in a virtual environment is without Axolotl",
                *error.lines[1:],
            ) from error
        engine.say(f"{error.lines[0]}: the same check from the same lock in a virtual environment instead")
        return environment.check(arguments.root, matrix, choice.image, sources, argv)
    build(arguments.root, matrix, [choice.image], sources)
    given, tag = devices_for(matrix, choice.image, here), matrix.tag(choice.image)
    command, volumes = inside(argv)
    variables: dict[str, str | None] = {**attn_variables(), "NODE_NAME": os.environ.get("NODE_NAME", platform.node())}
    if config:
        mounted, found = mounts(config, os.environ)
        volumes, variables = [*mounted, *volumes], {**variables, **found}
    return engine.run(
        engine.Request(
            tag,
            ["check", *command],
            variables,
            gpus=given.gpus,
            devices=given.paths,
            groups=given.groups,
            volumes=volumes,
            user=our_user() if volumes else "",
        )
    )


def help_text(parser: ArgumentParser, root: Path, pattern: str | None) -> str:
    """This command's own help and the check's, which comes from the entrypoint here: no image is built to ask it."""
    from entrypoint.arguments import USAGE, usage

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


def configured(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file that `--config` names on this machine, if it is there, and the arguments as the container takes them.

    Raises UsageError for a `--config` without a file.
    """
    words = list(argv)
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name != CONFIG:
            continue
        path = Path(value if equals else next(iter(words[index + 1 :]), "")).expanduser()
        if not path.is_file():
            what = f"--config: there is no file {path}" if path.name else "--config names no file"
            raise UsageError(what, "write --config FILE, a file of this machine; its folder is what the check can see")
        words[index : index + (1 if equals else 2)] = [CONFIG, path.name]
        return path.parent.resolve() / path.name, words
    return None, words


def mounts(config: Path, ours: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The folder of the configuration as the working directory, and the hub's cache of this machine, if there is one,
    with the variable that names it; both to be read only."""
    home = ours.get("HF_HOME") or str(Path(ours.get("HOME", "/")) / ".cache/huggingface")
    cache = Path(ours.get("HF_HUB_CACHE") or Path(home) / "hub")
    volumes = [f"{config.parent}:{WORKSPACE}:ro"]
    if not cache.is_dir():
        return volumes, {}
    return [*volumes, f"{cache.resolve()}:{HUB}:ro"], {"HF_HUB_CACHE": HUB}


def resolved(argv: Sequence[str]) -> list[str]:
    """The check's arguments as `--NAME=FILE` with an absolute FILE, of those that it writes. Raises UsageError."""
    words, taken = iter(argv), []
    for word in words:
        name, equals, value = word.partition("=")
        if name not in WRITTEN:
            taken.append(word)
            continue
        file = value if equals else next(words, "")
        path = Path(file).resolve()
        if not file:
            raise UsageError(f"{name} names no file")
        if not path.parent.is_dir():
            raise UsageError(f"{name}: there is no folder {path.parent}")
        taken.append(f"{name}={path}")
    return taken


def inside(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The same as the container sees it, and the folders that are mounted for it: values of docker's `-v`."""
    words, volumes = [], []
    for place, word in enumerate(argv):
        name, _, file = word.partition("=")
        if name in WRITTEN:
            volumes.append(f"{Path(file).parent}:/written/{place}")
            words.append(f"{name}=/written/{place}/{Path(file).name}")
        else:
            words.append(word)
    return words, volumes


def _choice(matrix: Matrix, here: machine.Machine, pattern: str | None) -> machine.Choice:
    if pattern is None:
        return machine.choose(matrix, here)
    return machine.Choice(pick_one(matrix, pattern), "as asked for")
