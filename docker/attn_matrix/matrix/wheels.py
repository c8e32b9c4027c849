"""What images.yaml says of the kernels that the package index lacks: one source, pinned, a compiler for it, and wheels
that somebody else has compiled.
"""

from __future__ import annotations

from collections.abc import Iterator

from inside.records import normalised

from attn_matrix.hints import did_you_mean
from attn_matrix.matrix.model import Tables, Wheel
from attn_matrix.matrix.names import Declared, unknown
from attn_matrix.matrix.source import Location, Mistake


def check(tables: Tables, names: Declared) -> Iterator[Mistake]:
    for package, wheel in tables.wheels.items():
        here: Location = ("wheels", package)
        yield from unknown(names, "backends", (wheel.backend,), (*here, "backend"))
        yield from unknown(names, "platforms", wheel.platforms, (*here, "platforms"))
        yield from unknown(names, "architectures", wheel.architectures, (*here, "architectures"))
        yield from unknown(names, "platforms", wheel.broken, (*here, "broken"))
        yield from _prebuilt(tables, names, wheel, here)
        for platform, architectures in wheel.broken.items():
            yield from unknown(names, "architectures", architectures, (*here, "broken", platform))
        backend = tables.backends.get(wheel.backend)
        if backend and package not in backend.packages:
            text = f"is no package of backend {wheel.backend!r}{did_you_mean(package, backend.packages)}"
            yield Mistake(here, text)
        if (wheel.sdist is None) == (wheel.git is None):
            yield Mistake(here, "needs one source: either sdist or git")
        for platform in wheel.platforms:
            yield from _on_platform(tables, wheel, package, platform)


def _prebuilt(tables: Tables, names: Declared, wheel: Wheel, here: Location) -> Iterator[Mistake]:
    """A prebuilt wheel is of this package and of the version that it claims, for a platform and GPUs that are here."""
    package = str(here[-1])
    for name, prebuilt in wheel.prebuilt.items():
        there: Location = (*here, "prebuilt", name)
        yield from unknown(names, "platforms", (name,), there)
        if name in names.get("platforms", ()) and name not in wheel.platforms:
            hint = did_you_mean(name, wheel.platforms)
            yield Mistake(there, f"{package!r} is not for {name!r} but for {', '.join(wheel.platforms)}{hint}")
        distribution, version = prebuilt.file.split("-")[:2]
        if (normalised(distribution), version) != (package, prebuilt.version):
            text = f"names {distribution} {version}, and this entry is {package} {prebuilt.version}"
            yield Mistake((*there, "url"), text)
        yield from unknown(names, "architectures", prebuilt.architectures, (*there, "architectures"))
        for architecture in prebuilt.architectures:
            if architecture in names.get("architectures", ()) and architecture not in wheel.architectures:
                text = f"{package!r} itself has no code for {architecture!r}"
                hint = did_you_mean(architecture, wheel.architectures)
                yield Mistake((*there, "architectures"), text + hint)


def _on_platform(tables: Tables, wheel: Wheel, package: str, name: str) -> Iterator[Mistake]:
    here: Location = ("wheels", package)
    platform = tables.platforms.get(name)
    if platform is None:
        return
    for needed, where in ((package, here), *((need, (*here, "needs")) for need in wheel.needs)):
        if needed not in platform.pins:
            hint = did_you_mean(needed, platform.pins)
            yield Mistake(where, f"platform {name!r} pins no version of {needed!r}{hint}")
    if bool(platform.builder) == bool(platform.toolkit):
        text = f"platform {name!r} needs one compiler for it: either a builder or a toolkit"
        yield Mistake((*here, "platforms"), text)
