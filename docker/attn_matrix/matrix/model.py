"""What images.yaml says, as frozen values. The rest of the host side uses these types and never reads the file.

`attn_matrix.matrix.load.read` makes a Matrix and has checked what one type alone cannot see, such as a backend's
package that its platform does not pin. In a mapping the key is the thing's name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Final, Self

from pydantic import Field

from attn_matrix.matrix.entries import (
    BASE,
    Architecture,
    Backend,
    Base,
    Baseline,
    Exclusion,
    GpuModel,
    Image,
    Kernel,
    Limitation,
    Mend,
    Platform,
    Prebuilt,
    Project,
    Row,
    Size,
    Wheel,
)
from attn_matrix.matrix.forms import ImageId, Model, Name, Package, Text

__all__ = [
    "ALL",
    "AXOLOTL",
    "TORCH",
    "Base",
    "Baseline",
    "Exclusion",
    "GpuModel",
    "Image",
    "Kernel",
    "Limitation",
    "Matrix",
    "Mend",
    "Platform",
    "Prebuilt",
    "Row",
    "Size",
    "Tables",
    "Wheel",
    "axolotl_lock",
    "compiled_id",
    "lock_path",
    "platform_of",
    "public",
    "spec_path",
]

TORCH: Final = "torch"
AXOLOTL: Final = "axolotl"
# The name of the image that holds every backend of its platform, so that no backend may be called that.
ALL: Final = "all"


class Tables(Model):
    """Everything in images.yaml that refers to something else in it."""

    bases: dict[Name, Base]
    architectures: dict[Name, Architecture]
    platforms: dict[Name, Platform]
    backends: dict[Name, Backend]
    wheels: dict[Package, Wheel] = Field(default_factory=dict)
    mends: dict[Package, Mend] = Field(default_factory=dict)
    rows: Annotated[tuple[Row, ...], Field(alias="images")]
    sizes: dict[ImageId, Size] = Field(default_factory=dict)
    exclusions: tuple[Exclusion, ...]
    gpus: dict[Text, GpuModel] = Field(default_factory=dict)
    baselines: tuple[Baseline, ...] = ()

    @cached_property
    def images(self) -> tuple[Image, ...]:
        """Every image, the variants of a row after it."""
        return tuple(image for row in self.rows for image in self.variants(row))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's; the copy finds out by itself what follows from its own tables."""
        copied = super().model_copy(update=update, deep=deep)
        for derived in ("images", "special_packages"):
            copied.__dict__.pop(derived, None)
        return copied

    def variants(self, row: Row) -> Iterator[Image]:
        """The image of a row as written, then narrowed, each followed by its `-base` variant.

        Where its platform pins no Axolotl there is none to leave out, so the image itself has no `-base`.
        """
        platform = self.platforms.get(row.platform)
        axolotl = platform is not None and AXOLOTL in platform.pins
        for architecture in (row.architecture, *row.narrowed):
            narrow = "" if architecture == row.architecture else f"-{architecture}"
            for base in ("", BASE) if axolotl else ("",):
                yield self._image(row, f"{row.id}{narrow}{base}", architecture, axolotl=axolotl and not base)

    def _image(self, row: Row, name: str, architecture: str | None, *, axolotl: bool) -> Image:
        called = [other for each in row.backends if each in self.backends for other in self.backends[each].for_axolotl]
        added = [other for other in called if axolotl and other not in row.backends]
        return Image(
            id=name,
            platform=row.platform,
            backends=(row.default, *dict.fromkeys(added), *row.backends[1:]),
            architecture=architecture,
            triton=row.triton,
            axolotl=axolotl,
            plain=row.id,
            size=self.sizes.get(name),
        )

    def platform_architectures(self, backend: str, platform: str) -> tuple[str, ...]:
        """The architectures of `platform` that `backend` trains on; empty on a platform without any, such as a CPU."""
        return tuple(a for a in self.platforms[platform].architectures if a in self.backends[backend].architectures)

    def vendor(self, platform: str) -> str | None:
        """Who makes the GPUs of `platform`; None for a CPU."""
        return next((self.architectures[name].vendor for name in self.platforms[platform].architectures), None)

    def gradients(self, backend: str, platform: str) -> bool:
        """Whether `backend` has a backward pass on `platform`."""
        forward_only = self.backends[backend].forward_only
        return forward_only is None or platform not in forward_only.platforms

    def backend_architectures(self, image: Image, backend: str) -> tuple[str, ...]:
        """The architectures that `backend` runs on in this image: less those that a wheel has no code for."""
        every = self.platform_architectures(backend, image.platform)
        codes = [] if image.triton else [self._code(package, image) for package in self.backends[backend].packages]
        return tuple(
            a for a in every if image.architecture in (None, a) and all(code is None or a in code for code in codes)
        )

    def _code(self, package: str, image: Image) -> Collection[str] | None:
        """The architectures that the wheel of `package` in `image` works on; None when it is the package index's."""
        wheel, prebuilt = self.wheel(package, image.platform), self.prebuilt_wheel(package, image)
        if wheel is None:
            return None
        works = wheel.works_on(image.platform)
        return [name for name in works if name in prebuilt.architectures] if prebuilt else works

    def image_architectures(self, image: Image) -> tuple[str, ...]:
        """The architectures that the image's default backend runs on in it."""
        return self.backend_architectures(image, image.default)

    def wheel(self, package: str, platform: str) -> Wheel | None:
        """How `package` is compiled for `platform`; None when the package index has it."""
        wheel = self.wheels.get(package)
        return wheel if wheel and platform in wheel.platforms else None

    def prebuilt_wheel(self, package: str, image: Image) -> Prebuilt | None:
        """The wheel of `package` that `image` takes as its publisher compiled it; None when it is compiled here.

        An image that is narrowed to one architecture is asked for because it holds no other's code: it compiles.
        """
        wheel = self.wheel(package, image.platform)
        return wheel.prebuilt.get(image.platform) if wheel and image.architecture is None else None

    def from_source(self) -> Self:
        """The same matrix with nothing prebuilt in it."""
        wheels = {package: wheel.model_copy(update={"prebuilt": {}}) for package, wheel in self.wheels.items()}
        return self.model_copy(update={"wheels": wheels})


class Matrix(Tables):
    """The whole of images.yaml."""

    project: Project

    def tag(self, image: Image) -> str:
        """The tag it is built under, such as `axolotl-attn:fa4-cu128`."""
        return f"{self.project.name}:{image.id}"

    def base(self, image: Image) -> Base:
        return self.bases[self.platforms[image.platform].base]

    def quick(self, image: Image) -> bool:
        """Whether it is quick to build: nothing in it is compiled from source, and it is without Axolotl."""
        return not image.axolotl and not self.compiled_wheels(image)

    def lock_name(self, image: Image) -> str:
        """The name of the lock that holds all of an image, but its wheels."""
        return axolotl_lock(image.platform) if image.axolotl else image.platform

    def lock_names(self, platform: str) -> tuple[str, ...]:
        """The names of a platform's locks: the second one holds the first one's versions, and Axolotl."""
        return (platform, axolotl_lock(platform)) if AXOLOTL in self.platforms[platform].pins else (platform,)

    def lock_pins(self, name: str) -> dict[str, str]:
        """The pins that the lock `name` holds: none of what is compiled from source, whose pin is hash or commit."""
        platform = platform_of(name)
        pins = self.platforms[platform].pins.items()
        held = {package: pin for package, pin in pins if not self.wheel(package, platform)}
        return {package: pin for package, pin in held.items() if package != AXOLOTL or name != platform}

    def common_packages(self, platform: str) -> dict[str, str]:
        """What every image of `platform` holds, with versions: torch and the pinned packages of nothing else."""
        pins = self.platforms[platform].pins
        return {package: pin for package, pin in pins.items() if package not in self.special_packages}

    @cached_property
    def special_packages(self) -> frozenset[str]:
        """What only some images hold: kernels, what these need, and Axolotl."""
        kernels = {package for backend in self.backends.values() for package in backend.packages}
        needed = {package for wheel in self.wheels.values() for package in wheel.needs}
        return frozenset({*kernels, *needed, AXOLOTL})

    def kernel_packages(self, image: Image) -> dict[str, str]:
        """The kernel packages that the image holds beside torch, with their versions, in the order of its backends.

        The version of a prebuilt wheel is its own.
        """
        pins = self.platforms[image.platform].pins
        packages = dict.fromkeys(package for name in image.backends for package in self.backends[name].packages)
        taken = {package: self.prebuilt_wheel(package, image) for package in packages}
        return {package: prebuilt.version if prebuilt else pins[package] for package, prebuilt in taken.items()}

    def indexed_packages(self, image: Image) -> dict[str, str]:
        """Those of its kernel packages, and of what they need, that the package index has."""
        pins = self.platforms[image.platform].pins
        kernels = self.kernel_packages(image)
        needed = {need: pins[need] for wheel in self.held_wheels(image).values() for need in wheel.needs}
        return {name: pin for name, pin in kernels.items() if not self.wheel(name, image.platform)} | needed

    def held_wheels(self, image: Image) -> dict[str, Wheel]:
        """Those of its kernel packages that the package index does not have: compiled from source, or prebuilt."""
        wheels = {package: self.wheel(package, image.platform) for package in self.kernel_packages(image)}
        return {package: wheel for package, wheel in wheels.items() if wheel}

    def prebuilt_wheels(self, image: Image) -> dict[str, Prebuilt]:
        """Those of its kernel packages that are taken as their publisher compiled them."""
        wheels = {package: self.prebuilt_wheel(package, image) for package in self.held_wheels(image)}
        return {package: wheel for package, wheel in wheels.items() if wheel}

    def compiled_wheels(self, image: Image) -> dict[str, Wheel]:
        """Those of its kernel packages that are compiled from source."""
        prebuilt = self.prebuilt_wheels(image)
        return {package: wheel for package, wheel in self.held_wheels(image).items() if package not in prebuilt}

    def limitations(self, image: Image) -> dict[str, Limitation]:
        """What is known to be wrong with the versions of its wheels, by package."""
        held = self.kernel_packages(image)
        known = {name: wheel.limitations.get(public(held[name])) for name, wheel in self.held_wheels(image).items()}
        return {package: limitation for package, limitation in known.items() if limitation}

    def pinned_packages(self, image: Image) -> dict[str, str]:
        """Every pinned package that the image holds, with its version."""
        pins = self.platforms[image.platform].pins
        axolotl = {AXOLOTL: pins[AXOLOTL]} if image.axolotl else {}
        return {**self.common_packages(image.platform), **axolotl, **self.kernel_packages(image)}

    def lacking(self, image: Image) -> tuple[str, ...]:
        """The options of Axolotl's configuration that ask for a backend which the image does not hold."""
        missing = (backend for name, backend in self.backends.items() if name not in image.backends)
        return tuple(option for backend in missing for option in backend.options) if image.axolotl else ()

    def image_kernels(self, image: Image) -> dict[str, Kernel]:
        """The kernels that a user of the image may ask for by name (sdpa-cudnn), where they run in it."""
        kernels = {}
        for backend in image.backends:
            runs = self.backend_architectures(image, backend)
            for name, kernel in self.backends[backend].kernels.items():
                if here := tuple(a for a in runs if a in kernel.architectures):
                    kernels[f"{backend}-{name}"] = kernel.model_copy(update={"architectures": here})
        return kernels

    def image_mends(self, image: Image) -> dict[str, Mend]:
        """What is mended in the image: in packages that it holds, those that come with Axolotl included."""
        held, pins = self.pinned_packages(image), self.platforms[image.platform].pins
        return {
            name: mend
            for name, mend in self.mends.items()
            if image.platform in mend.versions
            and (mend.package in held or (image.axolotl and mend.package not in pins))
        }


def lock_path(name: str) -> str:
    """Where a hashed lock is, from the repository root: a platform's, such as `cu128`, or `cu128-axolotl`."""
    return f"docker/locks/{name}.txt"


def axolotl_lock(platform: str) -> str:
    """The name of the lock with Axolotl in it. It is one of its own, so that another Axolotl builds no torch again."""
    return f"{platform}-{AXOLOTL}"


def platform_of(lock: str) -> str:
    """The platform that the lock of this name is for."""
    return lock.removesuffix(f"-{AXOLOTL}")


def spec_path(image_id: str) -> str:
    """Where the spec of an image is, from the repository root."""
    return f"docker/specs/{image_id}.json"


def compiled_id(image_id: str) -> str:
    """What the spec of an image is called that has compiled what it could have taken prebuilt."""
    return f"{image_id}.from-source"


def public(version: str) -> str:
    """A version without its local part: 2.8.3 of 2.8.3+cu128torch2.10."""
    return version.partition("+")[0]
