"""`python -P -m inside.compiled DISTRIBUTION...`: the GPU code in each compiled file of these distributions."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from inside import device_code, facts, records


def main(names: Sequence[str]) -> None:
    print(facts.to_json([library for name in names for library in libraries(name)]))


def libraries(name: str) -> Iterator[facts.Library]:
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return
    for file in records.libraries(distribution):
        path = Path(str(distribution.locate_file(file)))
        yield library(name, str(file), path)


def library(distribution: str, name: str, path: Path) -> facts.Library:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            code = dict(device_code.count(data))
    except (OSError, ValueError) as error:
        return facts.Library(distribution=distribution, path=name, error=str(error))
    return facts.Library(distribution=distribution, path=name, code=code)


if __name__ == "__main__":
    main(sys.argv[1:])
