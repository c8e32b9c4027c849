"""Compiled files: their sections and symbols, and the GPU architectures that they hold code for."""

from __future__ import annotations

import ctypes.util
import struct
from pathlib import Path

import pytest
from inside import device_code, elf

PTX, CUBIN = 1, 2
LZ4 = 0x2000
SPECIFIC = 0x100000


def elf_file(**sections: bytes) -> bytes:
    """An ELF file with these sections, whose names get a leading dot."""
    names = b"\0.shstrtab\0"
    headers, body = [bytes(64)], b""
    for name, content in sections.items():
        body += bytes(-(64 + len(body)) % 8)
        headers.append(struct.pack("<IIQQQQIIQQ", len(names), 1, 2, 0, 64 + len(body), len(content), 0, 0, 8, 0))
        names += f".{name}\0".encode()
        body += content
    headers.append(struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, 64 + len(body), len(names), 0, 0, 1, 0))
    start = 64 + len(body) + len(names)
    head = struct.pack(
        "<4sBBBBB7xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 0, 3, 62, 1, 0, 0, start, 0, 64, 0, 0, 64, 0, 0
    )
    head = head[:60] + struct.pack("<HH", len(headers), len(headers) - 1)
    return head + body + names + b"".join(headers)


def entry(kind: int, architecture: int, flags: int = 0, header: int = 64, payload: bytes = bytes(16)) -> bytes:
    """An entry of a fat binary; newer ones have a longer header."""
    start = struct.pack(
        "<HHIQIIHHIIIQQQ", kind, 0x101, header, len(payload), 0, 0, 7, 1, architecture, 0, 0, flags, 0, 0
    )
    return start + bytes(header - len(start)) + payload


def fat_binary(*entries: bytes) -> bytes:
    content = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(content)) + content


def bundle(*targets: str) -> bytes:
    """What clang's offload bundler writes: offsets, sizes and names, then the code."""
    content = b"__CLANG_OFFLOAD_BUNDLE__" + struct.pack("<Q", len(targets))
    for target in targets:
        content += struct.pack("<QQQ", 4096, 16, len(target)) + target.encode()
    return content + bytes(-len(content) % 4096)


def cubin(abi: int, flags: int) -> bytes:
    header = struct.pack("<4sBBBBB7xHHIQQQI", b"\x7fELF", 2, 1, 1, 51, abi, 2, 190, 1, 0, 0, 0, flags)
    return header + bytes(64 - len(header))


def test_every_kind_of_entry_is_counted_whether_compressed_or_not() -> None:
    """The architecture is in the entry's header; only sm_90a's has the flag of one architecture alone."""
    first = fat_binary(entry(CUBIN, 80), entry(CUBIN, 90, LZ4 | SPECIFIC), entry(PTX, 80, LZ4, header=120))
    second = fat_binary(entry(CUBIN, 80, LZ4, payload=bytes(40)), entry(CUBIN, 120, header=96))

    found = device_code.count(elf_file(text=b"\xc3", nv_fatbin=first + bytes(8) + second))

    assert found == {"sm_80": 2, "sm_90a": 1, "compute_80": 1, "sm_120": 1}


def test_a_file_without_gpu_code_has_none() -> None:
    """Most libraries."""
    assert device_code.count(elf_file(text=b"\xc3")) == {}


def test_the_segment_that_points_at_fat_binaries_is_none() -> None:
    """.nvFatBinSegment holds pointers; what looks like a fat binary elsewhere is data."""
    assert device_code.count(elf_file(nvFatBinSegment=bytes(24), rodata=fat_binary(entry(CUBIN, 80)))) == {}


def test_amd_bundles_name_their_architecture_without_its_features() -> None:
    """One bundle for each source file, the host's own entry among them."""
    host = "host-x86_64-unknown-linux-gnu--"
    one = bundle(host, "hipv4-amdgcn-amd-amdhsa--gfx942:sramecc+:xnack-", "hipv4-amdgcn-amd-amdhsa--gfx90a")
    two = bundle(host, "hipv4-amdgcn-amd-amdhsa--gfx942")

    assert device_code.count(elf_file(hip_fatbin=one + two)) == {"gfx942": 2, "gfx90a": 1}


def test_compressed_amd_code_is_said_to_be_unreadable() -> None:
    """Not taken for a library without code."""
    with pytest.raises(ValueError, match="compressed"):
        device_code.count(elf_file(hip_fatbin=b"CCOB" + bytes(60)))


@pytest.mark.parametrize(
    ("abi", "flags", "target"),
    [
        (7, 0x5A0D5A, "sm_90a"),
        (8, 0x600780A, "sm_120a"),
        (8, 0x600640A, "sm_100a"),
        (7, 0x500550, "sm_80"),
        (8, 0x6007802, "sm_120"),
    ],
)
def test_a_cubin_says_its_architecture(abi: int, flags: int, target: str) -> None:
    """The first three flags are those in flash-attn-4's prebuilt kernels. It is found inside of another object."""
    assert list(device_code.cubins(elf_file(rodata=cubin(abi, flags)))) == [target]


def test_a_truncated_file_is_no_file_without_code() -> None:
    """Cut off anywhere, it is an error that says so."""
    whole = elf_file(nv_fatbin=fat_binary(entry(CUBIN, 80)), text=b"\xc3")
    for length in (80, len(whole) - 1):
        with pytest.raises(ValueError, match="cut off"):
            device_code.count(whole[:length])


def test_a_section_that_ends_beyond_the_file() -> None:
    """Its header is whole, and says more bytes than there are."""
    whole = bytearray(elf_file(text=b"\xc3"))
    (headers,) = struct.unpack_from("<Q", whole, 40)
    struct.pack_into("<Q", whole, headers + 64 + 32, len(whole))

    with pytest.raises(ValueError, match="cut off: a section"):
        elf.sections(bytes(whole))


def test_a_fat_binary_that_promises_more_than_there_is() -> None:
    """Its section is whole, its own size is not."""
    with pytest.raises(ValueError, match="cut off: a fat binary"):
        device_code.count(elf_file(nv_fatbin=fat_binary(entry(CUBIN, 80))[:-8]))


@pytest.mark.parametrize("text", [b"", b"#!/bin/sh\n" * 20, b"\x7fELF\x01\x01" + bytes(100)])
def test_what_is_no_elf_file_is_refused(text: bytes) -> None:
    """Empty, a script, 32 bits."""
    with pytest.raises(ValueError, match="not a 64-bit"):
        elf.sections(text)


def test_symbols_of_a_real_library() -> None:
    """libc's own: what it defines, and what it wants of the loader."""
    path = next((p for p in Path("/").glob("lib/*/libm.so.6")), None)
    if path is None or not ctypes.util.find_library("m"):
        pytest.skip("needs a glibc of Debian's layout")
    symbols = {symbol.name: symbol.defined for symbol in elf.symbols(path.read_bytes())}

    assert symbols["cos"] is True
    assert False in symbols.values()
