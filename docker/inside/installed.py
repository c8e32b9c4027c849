"""`python -P -m inside.installed HOME`: what is installed, and whether it is what distributions recorded.

HOME is the directory with the folders of prebuilt kernels, which may be missing.
"""

from __future__ import annotations

import importlib.util
import struct
import sys
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from inside import device_code, facts, records


def main(home: Path) -> None:
    from entrypoint.kept.kernels_cache import PREBUILT, TRITON_PREBUILT

    site = Path(sysconfig.get_path("purelib"))
    distributions = list(metadata.distributions(path=[str(site)]))
    sources = sorted(path for path in site.rglob("*.py"))
    found = facts.Installed(
        versions={records.normalised(each.metadata["Name"]): each.version for each in distributions},
        broken=tuple(line for each in distributions for line in broken(each)),
        unrecorded=tuple(unrecorded(site, distributions)),
        contested=tuple(contested(distributions)),
        uncompiled=tuple(f"{path.relative_to(site)}: {why}" for path in sources if (why := uncompiled(path))),
        sources=len(sources),
        stub=tuple(stub(distributions)),
        kernels=dict(prebuilt_kernels(home / PREBUILT, "*.o")),
        start_kernels=dict(prebuilt_kernels(home / TRITON_PREBUILT, "*.cubin")),
        mends=mends(site),
    )
    print(facts.to_json(found))


def broken(distribution: metadata.Distribution) -> Iterator[str]:
    """Recorded files that are missing or of another size. To compare hashes would take minutes for torch alone."""
    for file in records.files(distribution):
        path = Path(str(distribution.locate_file(file)))
        if not path.exists():
            yield f"{file}: missing"
        elif file.size is not None and path.stat().st_size != file.size:
            yield f"{file}: {path.stat().st_size} bytes, {file.size} were installed"


def unrecorded(site: Path, distributions: list[metadata.Distribution]) -> Iterator[str]:
    known = {Path(str(each.locate_file(file))).resolve() for each in distributions for file in each.files or ()}
    for path in sorted(site.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.resolve() not in known:
            yield str(path.relative_to(site))


def contested(distributions: list[metadata.Distribution]) -> Iterator[str]:
    """Files that several distributions installed with different contents, so that the last one replaced the others."""
    owners: dict[str, dict[str, str]] = defaultdict(dict)
    for each in distributions:
        for file in records.files(each):
            owners[str(file)][records.normalised(each.metadata["Name"])] = file.hash.value if file.hash else ""
    for name, hashes in owners.items():
        if len(set(hashes.values())) > 1:
            yield f"{name}: {', '.join(hashes)}"


def uncompiled(path: Path) -> str:
    """Why Python would compile `path` at each start; empty when its bytecode fits. PEP 552 has the header."""
    cached = Path(importlib.util.cache_from_source(str(path)))
    try:
        with cached.open("rb") as file:
            header = file.read(16)
    except OSError:
        return "no bytecode" if compiles(path) else ""
    if header[:4] != importlib.util.MAGIC_NUMBER or len(header) < 16:
        return "bytecode of another Python"
    flags, seconds, size = struct.unpack("<III", header[4:])
    stat = path.stat()
    if flags == 0 and (seconds, size) != (int(stat.st_mtime) & 0xFFFFFFFF, stat.st_size & 0xFFFFFFFF):
        return "bytecode of another source"
    return ""


def compiles(path: Path) -> bool:
    """Packages also bring sources for a newer Python, which this one cannot compile, and templates."""
    try:
        compile(path.read_bytes(), str(path), "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def stub(distributions: list[metadata.Distribution]) -> list[str]:
    """What is wrong with flash_attn.cute, by the image's own check; nothing without flash-attn-4."""
    if not any(records.normalised(each.metadata["Name"]) == "flash-attn-4" for each in distributions):
        return []
    from entrypoint.probe.fa4 import ownership

    return ownership.problems("flash_attn.cute", "flash-attn-4")


def mends(site: Path) -> tuple[str, ...]:
    """The names of the wrappers in the package that puts them on, as images.yaml has them."""
    return tuple(path.stem.replace("_", "-") for path in (site / "attn_mends").glob("[a-z]*.py"))


def prebuilt_kernels(directory: Path, files: str) -> Counter[str]:
    """The kernels in files of such names by architecture; one without code for a GPU counts as `none`."""
    found: Counter[str] = Counter()
    for kernel in directory.rglob(files):
        found.update(set(device_code.cubins(kernel.read_bytes())) or {"none"})
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
