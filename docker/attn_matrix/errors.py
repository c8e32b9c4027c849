"""Every failure that a person at the terminal is meant to read, each kind with its own exit code.

`attn_matrix.cli.main` is the only place that catches them: it prints each line after `error: ` and exits with the code.
"""

from __future__ import annotations

from typing import ClassVar


class AttnError(Exception):
    """`lines` say what is wrong and what to do about it, one thought a line."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class StaleFiles(AttnError):
    """A generated file is not what images.yaml says."""

    exit_code = 1


class MatrixError(AttnError):
    """images.yaml is wrong: one line for each mistake."""

    exit_code = 2


class UnknownImage(AttnError):
    """A pattern matches no image id."""

    exit_code = 2


class UsageError(AttnError):
    """An argument that can never work, such as a directory that does not exist."""

    exit_code = 2


class EngineMissing(AttnError):
    """No Docker Engine in reach, or no buildx: the lines name what to install or start."""

    exit_code = 3


class CommandFailed(AttnError):
    """A program that we started (docker, uv) failed; the lines hold its command and what it said."""

    exit_code = 4
