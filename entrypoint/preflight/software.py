"""Which distributions are installed: names and versions, from the names of their folders alone."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping

from entrypoint.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

    from _typeshed import StrPath

_INFO: Final = re.compile(r"^(?P<name>.+)-(?P<version>[^-]+)\.dist-info$")


def site_packages() -> str:
    """The folder of the interpreter that runs this, which `-S` keeps off sys.path."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return os.path.join(os.path.dirname(os.path.dirname(sys.executable)), "lib", version, "site-packages")


def installed(packages: StrPath) -> dict[str, str]:
    """Distribution to version; an image derived from ours may hold others than its spec says. {} when unreadable."""
    try:
        names = os.listdir(packages)
    except OSError:
        return {}
    found = filter(None, map(_INFO.match, names))
    return {normal(match["name"]): match["version"] for match in found}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def at_least(packages: Mapping[str, str], name: str, *minimum: int) -> bool:
    """Whether `name` is there in `minimum` or newer; only the leading numbers count."""
    return name in packages and numbers(packages[name]) >= minimum


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 13, 0) of "2.13.0+cpu"."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
