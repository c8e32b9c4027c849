"""A digest that loads nothing, to tell apart what is ours: verdicts, folders of compilers, the files of this package.

It is no defence against who makes two contents alike; who could do that here could as well write what is kept under
it. `hashlib` loads OpenSSL, which takes half as long as Python's own start: files that must be as they were proved have
SHA-256 (entrypoint/kept/seal.py).
"""

from __future__ import annotations

import json

# The largest prime of 128 bits.
_PRIME = 2**128 - 159


def of(content: bytes) -> str:
    """The content as one number, divided by a prime: what is left. It differs for all that differ in one place only."""
    return f"{int.from_bytes(content, 'big') % _PRIME:032x}"


def of_value(value: object) -> str:
    """Of a value as JSON, whatever the order of its keys."""
    return of(json.dumps(value, sort_keys=True, default=str).encode())
