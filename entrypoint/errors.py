"""Every way in which the parent can refuse to go on; each carries a sentence on what is wrong and one on what to do."""

from __future__ import annotations

from entrypoint.light import TYPE_CHECKING

if TYPE_CHECKING:
    from entrypoint.arguments import Invocation


class EntrypointError(Exception):
    """Base of the errors that `entrypoint.main` turns into an exit code: this one is the check's own failure."""

    code = 95

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what} {advice}")
        self.what = what
        self.advice = advice


class ConfigError(EntrypointError):
    """The request can never work with this image."""

    code = 90


class UsageError(ConfigError):
    """`check` does not take one of its arguments; those `before` it still say in which form the refusal is told."""

    def __init__(self, what: str, advice: str, before: Invocation) -> None:
        super().__init__(what, advice)
        self.before = before


class MismatchError(EntrypointError):
    """This machine cannot run this image."""

    code = 91


class NoBackendError(EntrypointError):
    """ATTN_BACKEND=auto tried every backend that the rules allow, and none may be taken; `code` as in the table of exit
    codes."""

    def __init__(self, what: str, advice: str, code: int) -> None:
        super().__init__(what, advice)
        self.code = code


class BrokenImageError(EntrypointError):
    """The files of the check itself are missing or unreadable."""


class LaunchError(EntrypointError):
    """CMD cannot be run; `code` is the one that a shell gives: 126 or 127."""

    def __init__(self, what: str, advice: str, code: int) -> None:
        super().__init__(what, advice)
        self.code = code


class Interrupted(BaseException):
    """SIGTERM or SIGINT arrived during the check. A BaseException, so that no handler of ours swallows it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
