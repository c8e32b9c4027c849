"""What images.yaml says of mends: platforms that exist, and the versions that they pin."""

from __future__ import annotations

from collections.abc import Iterator

from attn_matrix.hints import did_you_mean
from attn_matrix.matrix.model import AXOLOTL, Tables
from attn_matrix.matrix.names import Declared, unknown
from attn_matrix.matrix.source import Location, Mistake


def check(tables: Tables, names: Declared) -> Iterator[Mistake]:
    """What can be said without the locks, which have the versions of what no platform pins."""
    for name, mend in tables.mends.items():
        here: Location = ("mends", name)
        yield from unknown(names, "platforms", mend.versions, (*here, "versions"))
        for platform, version in mend.versions.items():
            if platform not in tables.platforms:
                continue
            pins = tables.platforms[platform].pins
            pinned = pins.get(mend.package)
            if pinned is None and AXOLOTL not in pins:
                text = f"platform {platform!r} holds no {mend.package!r}{did_you_mean(mend.package, pins)}"
                yield Mistake((*here, "package"), text)
            elif pinned not in (None, version):
                text = f"is for {mend.package} {version}, and platform {platform!r} pins {pinned}"
                yield Mistake((*here, "versions", platform), text)
