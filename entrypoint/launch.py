"""The end of the parent: it becomes the user's command."""

from __future__ import annotations

import errno
import os
import signal

from entrypoint.errors import LaunchError
from entrypoint.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

NOT_FOUND, NOT_EXECUTABLE = 127, 126


def resolve(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """The path of `command[0]`, looked up as a shell does. Raises LaunchError (127 not found, 126 not executable).

    Looked up before the check, so that a misspelt command costs nobody the seconds of a check.
    """
    name = command[0]
    if "/" in name:
        candidates = [name]
    else:
        folders = environ.get("PATH", os.defpath).split(os.pathsep)
        candidates = [os.path.join(folder or ".", name) for folder in folders]
    present = [path for path in candidates if os.path.exists(path)] if name else []
    for path in present:
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    if present:
        kind = "is a directory" if os.path.isdir(present[0]) else "is not executable"
        raise LaunchError(f"{present[0]} {kind}.", "Make it executable, or name another command.", NOT_EXECUTABLE)
    advice = "Docker's own options go before the image's name." if name.startswith("-") else "Check the name and PATH."
    raise LaunchError(f"The command {name!r} is not in this image.", advice, NOT_FOUND)


def become(path: str, command: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Replace this process by `command`. Raises LaunchError when the kernel refuses."""
    # Python ignores these two from its start, and an ignored signal stays ignored across exec: CMD would never see
    # the broken pipe of `CMD | head`.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execve(path, list(command), dict(environ))
    except OSError as error:
        hint = "Give it a first line such as #!/bin/sh." if error.errno == errno.ENOEXEC else "Check the file."
        code = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
        raise LaunchError(f"{path} cannot be run: {error.strerror}.", hint, code) from error
