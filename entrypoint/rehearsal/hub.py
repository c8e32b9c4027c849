"""No connection leaves this machine while a run is rehearsed: each attempt is refused, and told by whom it was made."""

from __future__ import annotations

import ipaddress
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final

# Asked of a name, or of an address: both come before a byte is sent.
_NAMES: Final = frozenset({"socket.getaddrinfo", "socket.gethostbyname"})
_ADDRESSES: Final = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
# Code on the way from whoever asks to the socket.
_PLUMBING: Final = (
    *("socket.py", "urllib3/", "requests/", "http/", "httpx/", "httpcore/", "anyio/", "urllib/", "ssl.py"),
    *("entrypoint/rehearsal/hub.py", "asyncio/", "aiohttp/", "concurrent/", "threading.py"),
)


class Refused(ConnectionRefusedError):
    """The rehearsal's answer to every attempt to reach another machine."""


def refuse(told: Callable[[str, str], None]) -> None:
    """From now on refuse every connection to another machine, and call `told` with its host and who asked.

    An audit hook cannot be taken back, and sees what Python's own sockets do: a C library with sockets of its own is
    not seen.
    """

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _NAMES:
            host = arguments[0]
        elif event in _ADDRESSES:
            address = arguments[-1] if event != "socket.connect" else arguments[1]
            host = address[0] if isinstance(address, tuple) else None
        else:
            return
        host = host.decode(errors="replace") if isinstance(host, bytes) else host
        if host is None or local(str(host)):
            return
        told(str(host), asked_by(traceback.extract_stack()))
        raise Refused(f"no connection to {host} while a run is rehearsed")

    sys.addaudithook(hook)


def local(host: str) -> bool:
    """Whether a host's name or address is this machine's."""
    if host in {"", "localhost", socket.gethostname()}:
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def asked_by(stack: traceback.StackSummary) -> str:
    """The innermost line of `stack` that is not plumbing, as "file:line in function"."""
    for frame in reversed(stack):
        if not any(part in frame.filename for part in _PLUMBING):
            name = frame.filename.partition("site-packages/")[2] or frame.filename
            return f"{name}:{frame.lineno} in {frame.name}"
    return "unknown code"
