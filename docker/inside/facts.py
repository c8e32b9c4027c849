"""The facts that cross from a container to the host, as JSON: the only types that both sides share."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Library:
    """A compiled file of a distribution, by its path in site-packages.

    `code` counts the pieces of GPU code in it: `sm_90a` (machine code), `compute_90` (PTX), `gfx942` (AMD's).
    `error` says why it could not be read.
    """

    distribution: str
    path: str
    code: dict[str, int] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Load:
    """A module that was imported, or a library that was loaded with every symbol bound.

    `error` is empty if that worked; `note` says what it took, such as a stand-in for the GPU's driver.
    """

    distribution: str
    name: str
    error: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Loads:
    """`architectures`: what torch says it was compiled for, such as `sm_80`, `compute_90` or `gfx942`."""

    loads: tuple[Load, ...]
    torch: str
    architectures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Installed:
    """`versions` by normalised name. The lists hold paths in site-packages, and say what is wrong after a colon.

    `broken`: recorded files that are missing or of another size; `unrecorded`: files that no distribution installed;
    `contested`: files that two installed; `uncompiled`: sources without bytecode that fits them. `stub` says what is
    wrong with flash_attn.cute where flash-attn-4 is installed. `kernels` counts FlashAttention 4's prebuilt kernels by
    the architecture of the code in them, `start_kernels` Triton's. `mends` are the names of our own wrappers.
    """

    versions: dict[str, str]
    broken: tuple[str, ...]
    unrecorded: tuple[str, ...]
    contested: tuple[str, ...]
    uncompiled: tuple[str, ...]
    sources: int
    stub: tuple[str, ...]
    kernels: dict[str, int]
    start_kernels: dict[str, int] = field(default_factory=dict)
    mends: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Files:
    """Paths in the whole file system. `writable`: by everybody, and not a sticky directory; `privileged`: set-user-id
    or set-group-id files; `left`: what package managers and builds leave; `settings`: of package indexes and proxies;
    `secrets`: keys, and certificates that are not Debian's.
    """

    count: int
    writable: tuple[str, ...]
    privileged: tuple[str, ...]
    left: tuple[str, ...]
    settings: tuple[str, ...]
    secrets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Bytes of regular files, each counted once: by distribution, by directory outside of those, and by kind of file
    (static libraries, headers, tests, bytecode, texts), over both.
    """

    distributions: dict[str, int]
    directories: dict[str, int]
    kinds: dict[str, int]


def to_json(facts: Any) -> str:
    """One line: a dataclass of this module, or a list of them."""
    plain = [asdict(each) for each in facts] if isinstance(facts, list) else asdict(facts)
    return json.dumps(plain)


def libraries(text: str) -> tuple[Library, ...]:
    return tuple(Library(**each) for each in json.loads(text))


def loads(text: str) -> Loads:
    document = _frozen(json.loads(text))
    return Loads(**document | {"loads": tuple(Load(**each) for each in document["loads"])})


def installed(text: str) -> Installed:
    return Installed(**_frozen(json.loads(text)))


def files(text: str) -> Files:
    return Files(**_frozen(json.loads(text)))


def usage(text: str) -> Usage:
    return Usage(**json.loads(text))


def _frozen(document: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where the types have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in document.items()}
