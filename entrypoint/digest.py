"""A short digest, to tell apart what is ours: verdicts, folders of compilers, the files of this package.

It is the one that Python knows its own compiled files by: 64 bits, no defence against who makes two contents alike. Who
could do that here could as well write what is kept under it. `hashlib` loads OpenSSL, which takes half as long as
Python's own start; files that must be as they were proved have SHA-256 (entrypoint/seal.py).
"""

from __future__ import annotations

import json
from importlib.util import source_hash


def of(content: bytes) -> str:
    """Sixteen hexadecimal digits."""
    return source_hash(content).hex()


def of_value(value: object) -> str:
    """Of a value as JSON, whatever the order of its keys."""
    return of(json.dumps(value, sort_keys=True, default=str).encode())
