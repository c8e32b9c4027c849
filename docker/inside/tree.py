"""`python -P -m inside.tree`, as root: what should not be in the file system of an image."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from inside import facts

# Mounted by the engine when a container starts; no part of an image.
ENGINES: Final = frozenset({"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/.dockerenv"})
# Package managers and builds leave things here. In their place a directory may stay.
LEFT: Final = re.compile(
    r"^(/root/\.cache/|/home/[^/]+/\.cache/|/var/lib/apt/lists/|/var/cache/(apt|attn|ldconfig)|/tmp/|/var/tmp/"
    r"|/var/log/(apt/|dpkg)|/run/)"
)
SETTINGS: Final = frozenset({"pip.conf", "uv.toml", ".pypirc", ".netrc", ".npmrc", ".condarc", ".wgetrc", ".curlrc"})
PROXY: Final = re.compile(r"^\s*[^/#\s].*(Proxy|Verify-Peer|CAInfo)", re.IGNORECASE | re.MULTILINE)
CERTIFICATES: Final = frozenset({".pem", ".crt", ".cer", ".key", ".p12", ".pfx", ".jks"})
PRIVATE_KEY: Final = re.compile(rb"^-----BEGIN [A-Z ]*PRIVATE KEY-----", re.MULTILINE)
SSH_KEY: Final = re.compile(r"^id_(rsa|dsa|ecdsa|ed25519)$")
# Of the package ca-certificates: the certificates, what update-ca-certificates makes of them, and an example.
DEBIANS: Final = ("/usr/share/ca-certificates/", "/etc/ssl/certs/", "/usr/share/doc/")
BUNDLE: Final = Path("/etc/ssl/certs/ca-certificates.crt")
BEGIN: Final = b"-----BEGIN CERTIFICATE-----"


def main() -> None:
    print(facts.to_json(look(list(entries("/")))))


def look(found: list[tuple[str, os.stat_result]]) -> facts.Files:
    """`found`: every path with what lstat says of it."""
    regular = [(path, status) for path, status in found if stat.S_ISREG(status.st_mode)]
    paths = [path for path, _ in regular]
    return facts.Files(
        count=len(found),
        writable=tuple(path for path, status in found if writable(status.st_mode)),
        privileged=tuple(path for path, status in regular if status.st_mode & (stat.S_ISUID | stat.S_ISGID)),
        left=tuple(path for path, status in regular if status.st_size and LEFT.search(path)),
        settings=tuple(path for path in paths if setting(path)),
        secrets=(*(path for path, status in regular if secret(path, status.st_size)), *added_certificates()),
    )


def entries(top: str) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below `top` on its own device, links not followed: what the engine mounts has another one."""
    device = os.lstat(top).st_dev
    folders = [top]
    while folders:
        with os.scandir(folders.pop()) as found:
            for entry in found:
                status = entry.stat(follow_symlinks=False)
                if status.st_dev != device or entry.path in ENGINES:
                    continue
                yield entry.path, status
                if stat.S_ISDIR(status.st_mode):
                    folders.append(entry.path)


def writable(mode: int) -> bool:
    """By everybody: files, and directories where everybody may remove everybody's files."""
    if not mode & stat.S_IWOTH or stat.S_ISLNK(mode):
        return False
    return not (stat.S_ISDIR(mode) and mode & stat.S_ISVTX)


def setting(path: str) -> bool:
    """A package manager's choice of an index, or apt's of a proxy or a certificate."""
    if PurePosixPath(path).name in SETTINGS or path.endswith("/.docker/config.json"):
        return True
    return path.startswith("/etc/apt/") and bool(PROXY.search(Path(path).read_text(errors="replace")))


def secret(path: str, size: int) -> bool:
    """What is mounted for a build alone, private keys, and certificates that Debian did not bring."""
    if path.startswith("/run/secrets/") or SSH_KEY.match(PurePosixPath(path).name):
        return True
    if PurePosixPath(path).suffix not in CERTIFICATES or path.startswith(DEBIANS):
        return False
    text = Path(path).read_bytes() if size < 2**22 else b""
    return bool(PRIVATE_KEY.search(text)) or BEGIN in text and "/site-packages/" not in path


def added_certificates() -> list[str]:
    """A note when Debian's bundle holds more certificates than Debian's package has."""
    if not BUNDLE.is_file():
        return []
    bundled = BUNDLE.read_bytes().count(BEGIN)
    packaged = sum(path.read_bytes().count(BEGIN) for path in Path(DEBIANS[0]).rglob("*.crt"))
    return [f"{BUNDLE}: {bundled} certificates, Debian's package has {packaged}"] if bundled > packaged else []


if __name__ == "__main__":
    main()
