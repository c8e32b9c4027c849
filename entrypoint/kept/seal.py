"""A seal says what is in a folder that was proved: the size and digest of each file, in `sealed.json`.

Compilers load what they find without a look at it: Inductor a truncated library, Triton any bytes. So the files of a
sealed folder are compared before anything is loaded. Files that came after the seal, such as those of a training, are
in the next one.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import time

from entrypoint.light import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Final

NAME: Final = "sealed.json"
SCHEMA: Final = 1
SETTLED: Final = 2.0  # seconds since a file was last written, so that nobody is at it: a linker writes bit by bit
# CUDA's driver rewrites its store in place, and looks itself at what it finds there: it is listed and not compared.
REWRITTEN: Final = ("cuda/",)
LOCKS: Final = (".lock", "/lock")

Seal = dict[str, tuple[int, str]]  # size in bytes and SHA-256 of each file, by its path in the folder


def read(folder: str) -> Seal:
    """The seal of `folder`; empty where there is none. Raises ValueError for a file that is no seal."""
    try:
        document = json.loads(content_of(os.path.join(folder, NAME)))
    except FileNotFoundError:
        return {}
    except RecursionError:
        raise ValueError(f"{NAME} cannot be read (it is nested without an end)") from None
    except OSError as error:
        raise ValueError(f"{NAME} cannot be read ({error.strerror})") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"{NAME} is none of this version")
    try:
        return {str(path): (int(size), str(digest)) for path, (size, digest) in document["files"].items()}
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{NAME} is incomplete") from error


def broken(folder: str, seal: Mapping[str, tuple[int, str]], *, thorough: bool) -> str | None:
    """The path of a file that is not as it was sealed, by its size or, `thorough`, by its digest.

    A file that is missing is none: its compiler makes it again.
    """
    for path, (size, digest) in seal.items():
        if path.startswith(REWRITTEN):
            continue
        whole = os.path.join(folder, path)
        try:
            found = os.stat(whole)
            same = (
                stat.S_ISREG(found.st_mode) and found.st_size == size and (not thorough or digest_of(whole) == digest)
            )
        except FileNotFoundError:
            continue
        except OSError:
            same = False
        if not same:
            return path
    return None


def write(folder: str, before: Mapping[str, tuple[int, str]], settled: float = SETTLED) -> Seal:
    """Seal every file in `folder` that is not in the seal `before`, and that nobody is writing. Raises OSError."""
    latest = time.time() - settled
    seal = dict(before)
    for path, found in files(folder):
        if (path not in seal or path.startswith(REWRITTEN)) and found.st_mtime <= latest:
            with suppress(FileNotFoundError):
                seal[path] = (found.st_size, digest_of(os.path.join(folder, path)))
    if seal != before:
        _save(folder, seal)
    return seal


def copy(source: str, target: str) -> Seal:
    """Copy what is sealed in `source`, as it was sealed, into a folder without a seal; returns its seal.

    Raises OSError, and ValueError for a file that is not as it was sealed.
    """
    seal = read(source)
    for path, (_, digest) in seal.items():
        with suppress(FileNotFoundError):
            with open(os.path.join(source, path), "rb") as file:
                content = file.read()
            if _sha256(io.BytesIO(content)) != digest and not path.startswith(REWRITTEN):
                raise ValueError(f"{path} is not as it was sealed")
            replace(os.path.join(target, path), content)
    if seal:
        _save(target, seal)
    return seal


def _save(folder: str, seal: Mapping[str, tuple[int, str]]) -> None:
    replace(os.path.join(folder, NAME), json.dumps({"schema": SCHEMA, "files": seal}).encode())


def files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """The files of compilers in `folder`, by their path in it: no links to an image's, no locks, none half written."""
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "locks"]
        for name in names:
            whole = os.path.join(here, name)
            path = os.path.relpath(whole, folder)
            if path == NAME or name.startswith(".") or path.endswith(LOCKS):
                continue
            with suppress(FileNotFoundError):
                found = os.lstat(whole)
                if stat.S_ISREG(found.st_mode):
                    yield path, found


def content_of(path: str, most: int = -1) -> bytes:
    """Of a file, or of its first bytes. Raises OSError, also for what is no file: of a pipe one would wait for ever."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        return file.read(most)


def digest_of(path: str) -> str:
    """The SHA-256 of a file. Raises OSError."""
    with open(path, "rb") as file:
        return _sha256(file)


def _sha256(file: io.BufferedIOBase) -> str:
    import hashlib  # it loads OpenSSL, which a start that remembers its verdict does without

    return hashlib.file_digest(file, "sha256").hexdigest()


def replace(path: str, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new one, never half of it. Raises OSError.

    Its first name is random: in containers on one volume every process is number 1.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.urandom(6).hex()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
