"""As much of ELF as it takes to find GPU code and symbols: 64 bits, little-endian (System V ABI, chapter 4)."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

Data = bytes | mmap.mmap

MAGIC: Final = b"\x7fELF"
DYNSYM: Final = 11
# Section header: name, type, flags, address, offset, size, link, info, alignment, entry size.
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
# Symbol: name, type and binding, visibility, section, value, size.
_SYMBOL: Final = struct.Struct("<IBBHQQ")


class Section(NamedTuple):
    name: str
    kind: int
    offset: int
    size: int
    link: int


class Symbol(NamedTuple):
    """A dynamic symbol; one that is not `defined` is looked for in other libraries."""

    name: str
    defined: bool


def sections(data: Data) -> list[Section]:
    """Raises ValueError when `data` is no such file, or not the whole of one."""
    if data[:6] != MAGIC + b"\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    try:
        start, size, count, names = *struct.unpack_from("<Q", data, 40), *struct.unpack_from("<HHH", data, 58)
        headers = [_SECTION.unpack_from(data, start + size * index) for index in range(count)]
    except struct.error as error:
        raise ValueError("cut off: its section headers lie beyond its end") from error
    strings = headers[names][4] if headers else 0
    found = [Section(_text(data, strings + h[0]), h[1], h[4], h[5], h[6]) for h in headers]
    nobits = 8
    if any(section.kind != nobits and section.offset + section.size > len(data) for section in found):
        raise ValueError("cut off: a section lies beyond its end")
    return found


def symbols(data: Data) -> Iterator[Symbol]:
    """The dynamic symbols. Raises ValueError as `sections` does."""
    every = sections(data)
    for section in every:
        if section.kind == DYNSYM:
            strings = every[section.link].offset
            for name, _, _, where, _, _ in _SYMBOL.iter_unpack(data[section.offset : section.offset + section.size]):
                yield Symbol(_text(data, strings + name), where != 0)


def machine(data: Data, offset: int = 0) -> tuple[int, int, int]:
    """Of the ELF header at `offset`: the machine it is for, its ABI version, and its flags."""
    number, flags = *struct.unpack_from("<H", data, offset + 18), *struct.unpack_from("<I", data, offset + 48)
    return number, data[offset + 8], flags


def _text(data: Data, offset: int) -> str:
    return data[offset : data.find(b"\0", offset)].decode(errors="replace")
