"""For which GPUs a compiled file holds code, read from the headers alone: nothing is decompressed.

NVIDIA: a library's `.nv_fatbin` section is a row of fat binaries, each a header and its entries, which name their
architecture whether or not they are compressed. NVIDIA documents none of it; this reads what nvcc of CUDA 12 writes,
and agrees with `cuobjdump --list-elf` on torch 2.10.0, xformers 0.0.35 and NCCL 2.27. AMD: `.hip_fatbin` holds bundles
of clang's offload bundler (https://clang.llvm.org/docs/ClangOffloadBundler.html#bundled-binary-file-layout).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from typing import Final

from inside import elf

# Fat binary: magic, version, size of this header, bytes of the entries that follow.
_FATBIN: Final = struct.Struct("<IHHQ")
_FATBIN_MAGIC: Final = 0xBA55ED50
# Entry: kind, version, size of this header, bytes of the payload; then, at 24, the ISA's version and the architecture,
# and at 40 the flags.
_ENTRY: Final = struct.Struct("<HHIQ8xHHI8xQ")
_PTX, _CUBIN = 1, 2
# This architecture only: sm_90a does not run on another of its family.
_SPECIFIC: Final = 0x0010_0000
_CUDA: Final = 190  # the number of NVIDIA's machine in an ELF header
_BUNDLE: Final = b"__CLANG_OFFLOAD_BUNDLE__"
_COMPRESSED_BUNDLE: Final = b"CCOB"


def count(data: elf.Data) -> Counter[str]:
    """Pieces of code by target: `sm_90a`, `compute_90` (PTX), `gfx942`. Raises ValueError where they are unreadable."""
    found: Counter[str] = Counter()
    for section in elf.sections(data):
        if section.name == ".nv_fatbin":
            found.update(_nvidia(data, section.offset, section.offset + section.size))
        if section.name == ".hip_fatbin":
            found.update(_amd(data, section.offset, section.offset + section.size))
    return found


def _nvidia(data: elf.Data, start: int, end: int) -> Iterator[str]:
    while start + _FATBIN.size <= end:
        magic, _, header, size = _FATBIN.unpack_from(data, start)
        if magic != _FATBIN_MAGIC:
            start += 8  # fat binaries are aligned to that
            continue
        if start + header + size > end:
            raise ValueError("cut off: a fat binary lies beyond the end of its section")
        yield from _entries(data, start + header, start + header + size)
        start += header + size


def _entries(data: elf.Data, start: int, end: int) -> Iterator[str]:
    while start + _ENTRY.size <= end:
        kind, _, header, size, _, _, architecture, flags = _ENTRY.unpack_from(data, start)
        if header < _ENTRY.size:
            raise ValueError(f"an entry of a fat binary has a header of {header} bytes")
        specific = "a" if flags & _SPECIFIC else ""
        if kind in (_PTX, _CUBIN):
            yield f"{'compute' if kind == _PTX else 'sm'}_{architecture}{specific}"
        start += header + size


def cubins(data: bytes) -> Iterator[str]:
    """The targets of the cubins anywhere in `data`, such as the objects that CuTe DSL writes.

    Their ELF headers say it: flags of ABI version 7 have the architecture in their lowest byte, later ones in the next
    (LLVM's BinaryFormat/ELF.h).
    """
    start = data.find(elf.MAGIC)
    while start >= 0 and start + 64 <= len(data):
        machine, abi, flags = elf.machine(data, start)
        if machine == _CUDA:
            architecture, specific = (flags >> 8 & 0xFF, flags & 0x8) if abi > 7 else (flags & 0xFF, flags & 0x800)
            yield f"sm_{architecture}{'a' if specific else ''}"
        start = data.find(elf.MAGIC, start + 1)


def _amd(data: elf.Data, start: int, end: int) -> Iterator[str]:
    position = data.find(_BUNDLE, start, end)
    if position < 0 and data[start : start + len(_COMPRESSED_BUNDLE)] == _COMPRESSED_BUNDLE:
        raise ValueError("its AMD code is compressed, names of architectures included")
    while position >= 0:
        (entries,) = struct.unpack_from("<Q", data, position + len(_BUNDLE))
        yield from _bundled(data, position + len(_BUNDLE) + 8, entries)
        position = data.find(_BUNDLE, position + 1, end)


def _bundled(data: elf.Data, start: int, entries: int) -> Iterator[str]:
    """Entries: offset and size of the code, and the length and text of its target, which ends in
    `--gfx942:sramecc+:xnack-`; the host's own entry ends in `--` and holds nothing.
    """
    for _ in range(entries):
        length = struct.unpack_from("<QQQ", data, start)[2]
        target = data[start + 24 : start + 24 + length].decode(errors="replace").rpartition("--")[2]
        if target:
            yield target.partition(":")[0]
        start += 24 + length
