"""What a hashed requirements file, such as those in docker/locks, says."""

from __future__ import annotations

import re

from inside.records import normalised


def versions(lock: str) -> dict[str, str]:
    """The versions in it by normalised name; of what comes from an address, the address."""
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(?:==|@)\s*([^\s;\\]+)", lock, flags=re.MULTILINE)
    return {normalised(name): version for name, version in found}
