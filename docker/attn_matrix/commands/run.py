"""`nox -s run -- [-v ... -e ... --gpus ...] ID [CMD...]`: an image with the GPUs and files of this machine.

CMD's exit code is ours. What the container writes into a mounted folder belongs to whoever called us.
"""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Iterable, Sequence
from pathlib import Path

from attn_matrix.errors import UsageError
from attn_matrix.host import engine, machine
from attn_matrix.host.container import WORKSPACE, attn_variables, devices_for, our_user
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.select import pick_one


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    parser = subparsers.add_parser("run")
    parser.add_argument(
        "-v", "--volume", action="append", default=[], metavar="SOURCE:TARGET", help="as docker's; may be repeated"
    )
    parser.add_argument(
        "-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="as docker's; may be repeated"
    )
    parser.add_argument("--gpus", metavar="WHICH", help="as docker's: all, 2, device=0,1; default: all that are here")
    parser.add_argument(
        "--workspace",
        type=Path,
        default=Path(),
        metavar="DIR",
        help=f"mounted at {WORKSPACE}, the working directory, unless a -v is; default: the current directory",
    )
    parser.add_argument("id", metavar="ID", help="an image id, or a glob that matches one")
    parser.add_argument(
        "cmd", metavar="CMD", nargs=REMAINDER, help="what runs after the check; default: the check alone"
    )
    parser.set_defaults(handler=_handle)


def _handle(arguments: Namespace) -> int:
    matrix = read(arguments.root / FILE)
    image = pick_one(matrix, arguments.id)
    given = devices_for(matrix, image, machine.look())
    request = engine.Request(
        matrix.tag(image),
        arguments.cmd,
        {**attn_variables(), **variables(arguments.env)},
        gpus=arguments.gpus is not None or given.gpus,
        which_gpus=(arguments.gpus or "all").strip('"'),
        devices=given.paths,
        groups=given.groups,
        volumes=volumes(arguments.volume, arguments.workspace.resolve()),
        user=our_user(),
    )
    return engine.run(request)


def variables(given: Iterable[str]) -> dict[str, str | None]:
    """The values of `-e`: NAME alone has no value, and gets the one that it has in our environment."""
    pairs = (item.partition("=") for item in given)
    return {name: value if equals else None for name, equals, value in pairs}


def volumes(given: Sequence[str], workspace: Path) -> list[str]:
    """The values of `-v`, their paths absolute, and `workspace` where none of them is mounted at WORKSPACE.

    Raises UsageError for what is no value of `-v` and for a workspace that is no directory.
    """
    mounted = [_absolute(volume) for volume in given]
    if any(volume.split(":")[1].rstrip("/") == WORKSPACE for volume in mounted):
        return mounted
    if not workspace.is_dir():
        raise UsageError(f"--workspace: there is no directory {workspace}")
    return [f"{workspace}:{WORKSPACE}", *mounted]


def _absolute(volume: str) -> str:
    """`volume` with an absolute source; a source without a slash is the name of a volume, as docker has it."""
    source, colon, target = volume.partition(":")
    if not source or not target.startswith("/"):
        raise UsageError(f"-v: {volume!r} is not SOURCE:TARGET, such as ~/data:/data", "TARGET is an absolute path")
    is_path = "/" in source or source.startswith(".")
    return f"{Path(source).resolve() if is_path else source}{colon}{target}"
