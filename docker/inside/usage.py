"""`python -P -m inside.usage`, as root: what the bytes of an image are spent on."""

from __future__ import annotations

import re
import stat
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Final

from inside import facts, records, tree

# The first that matches a path is its kind; what matches none is what an image is for.
KINDS: Final = {
    "static libraries": re.compile(r"\.(a|lib)$"),
    "headers": re.compile(r"\.(h|hh|hpp|hxx|cuh|inl)$|/include/"),
    "tests": re.compile(r"/(tests?|testing)/|_test(ing)?\.so$|/test_[^/]+\.py$"),
    "bytecode": re.compile(r"\.pyc$"),
    "manuals and translations": re.compile(r"^/usr/share/(doc|man|info|locale|help|lintian)/"),
}
# How many parts of its path name a directory.
DEPTH: Final = 4


def main() -> None:
    owners = {path: name for name, paths in _recorded().items() for path in paths}
    distributions: Counter[str] = Counter()
    directories: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    seen: set[int] = set()
    for path, status in tree.entries("/"):
        if not stat.S_ISREG(status.st_mode) or status.st_ino in seen:
            continue
        seen.add(status.st_ino)
        owner = owners.get(path) or owners.get(source_of(path))
        if owner:
            distributions[owner] += status.st_size
        else:
            directories[directory_of(path)] += status.st_size
        kinds[kind_of(path)] += status.st_size
    counted = facts.Usage(distributions=dict(distributions), directories=dict(directories), kinds=dict(kinds))
    print(facts.to_json(counted))


def _recorded() -> dict[str, list[str]]:
    return {
        records.normalised(each.metadata["Name"]): [
            str(Path(str(each.locate_file(file))).resolve()) for file in each.files
        ]
        for each in metadata.distributions()
        if each.files
    }


def source_of(path: str) -> str:
    """The source that bytecode was compiled from: an installer records the one and not always the other."""
    return re.sub(r"/__pycache__/([^/]+?)\.[^/.]+\.pyc$", r"/\1.py", path)


def directory_of(path: str) -> str:
    """The directory of `path`, cut after DEPTH names."""
    return "/".join(path.split("/")[:-1][: DEPTH + 1])


def kind_of(path: str) -> str:
    return next((name for name, pattern in KINDS.items() if pattern.search(path)), "everything else")


if __name__ == "__main__":
    main()
