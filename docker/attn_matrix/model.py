"""What images.yaml says, as frozen values: the only types that the rest of the host side knows a matrix by.

`attn_matrix.load.read` makes a Matrix and has checked what one type alone cannot see, such as a backend's package that
its platform does not pin. In a mapping the key is the thing's name.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

NAME: Final = r"^[a-z][a-z0-9]*$"
IMAGE_ID: Final = r"^[a-z][a-z0-9]*(-[a-z0-9]+){1,3}$"
VERSION: Final = r"^[0-9]+(\.[0-9]+)+((a|b|rc)[0-9]+)?(\.post[0-9]+)?(\.dev[0-9]+)?(\+[a-z0-9]+(\.[a-z0-9]+)*)?$"
PACKAGE: Final = r"^[a-z0-9]+(-[a-z0-9]+)*$"
DIGEST: Final = r"^sha256:[0-9a-f]{64}$"
REFERENCE: Final = r"^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+:[A-Za-z0-9._-]+$"
URL: Final = r"^https://[^\s/]+/\S*$"
TEXT: Final = r"\S"
HEAD_DIMS: Final = r"^[1-9][0-9]*(/[1-9][0-9]*)?$"

# What an error message calls a text of each form.
FORMS: Final = {
    NAME: "a name of lower-case letters and digits",
    IMAGE_ID: "an image id such as fa4-cu128",
    VERSION: "one exact version such as 2.10.0",
    PACKAGE: "the normalised name of a Python distribution such as flash-attn-4",
    DIGEST: "a digest: sha256: and 64 hexadecimal digits",
    REFERENCE: "an image with registry and tag such as docker.io/library/debian:bookworm-slim",
    URL: "a link that starts with https://",
    HEAD_DIMS: 'head dims such as "128", or "192/128" where those of v differ',
}

Name = Annotated[str, StringConstraints(pattern=NAME)]
ImageId = Annotated[str, StringConstraints(pattern=IMAGE_ID)]
Version = Annotated[str, StringConstraints(pattern=VERSION)]
Package = Annotated[str, StringConstraints(pattern=PACKAGE)]
Digest = Annotated[str, StringConstraints(pattern=DIGEST)]
Reference = Annotated[str, StringConstraints(pattern=REFERENCE)]
Url = Annotated[str, StringConstraints(pattern=URL)]
Text = Annotated[str, StringConstraints(pattern=TEXT)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
HeadDims = Annotated[str, StringConstraints(pattern=HEAD_DIMS)]
Names = Annotated[tuple[Name, ...], Field(min_length=1)]

TORCH: Final = "torch"


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Project(Model):
    """Goes into every image's labels. `name` is also the repository of the images: `<name>:<id>`."""

    name: Package
    title: Text
    version: Version
    source: Url
    licence: Text


class Base(Model):
    """An image that ours start from, pinned by digest."""

    image: Reference
    digest: Digest

    @property
    def reference(self) -> str:
        return f"{self.image}@{self.digest}"


class Architecture(Model):
    """A GPU architecture. `capabilities` are CUDA's, such as "9.0", or AMD's gfx name; `gpus` are examples."""

    vendor: Literal["nvidia", "amd"]
    capabilities: Annotated[tuple[Text, ...], Field(min_length=1)]
    gpus: Annotated[tuple[Text, ...], Field(min_length=1)]


class Driver(Model):
    """The oldest GPU driver that a platform runs on."""

    minimum: Version
    source: Url


class Platform(Model):
    """What images share: base, Python, torch. `device` is torch's device type; a CPU has no architectures.

    `pins` holds the version of torch and of every kernel package that an image of this platform may hold; what is
    pinned and belongs to no backend, such as numpy, is in every image, in the layer of torch. `torch_backend` is uv's
    name of the PyTorch index to take torch from, when it is not the package index.
    """

    title: Text
    device: Literal["cpu", "cuda"]
    base: Name
    python: Version
    torch_backend: Text | None = None
    driver: Driver | None = None
    architectures: tuple[Name, ...] = ()
    pins: dict[Package, Version] = {}
    note: Text | None = None


class ForwardOnly(Model):
    """The platforms on which a backend has no gradients, so that nothing can be trained with it."""

    platforms: Names
    reason: Text
    source: Url


class Backend(Model):
    """An attention backend: the distributions it needs beside torch and the architectures that it trains on.

    `eight_bit`: its products are of int8 or fp8 numbers, so it may be faster than any bf16 kernel can be. `prebuilt`
    are the head dims whose kernels, otherwise compiled on their first call, the build of an image compiles.
    """

    title: Text
    packages: tuple[Package, ...] = ()
    architectures: Names
    forward_only: ForwardOnly | None = None
    eight_bit: bool = False
    prebuilt: tuple[HeadDims, ...] = ()


class Size(Model):
    """An image's measured size on disk, in GB of 10^9 bytes."""

    gigabytes: Annotated[float, Field(gt=0)]
    measured: date


class Image(Model):
    """One image. `backends[0]` is its default one; `architecture` narrows it to one of its platform's architectures."""

    id: ImageId
    platform: Name
    backends: Names
    architecture: Name | None = None
    size: Size | None = None

    @property
    def default(self) -> str:
        return self.backends[0]


class Exclusion(Model):
    """Cells without an image: every backend here on every platform here, on these architectures or on all of them.

    After `review` somebody has to look whether `reason` still holds.
    """

    backends: Names
    platforms: Names
    architectures: tuple[Name, ...] = ()
    status: Literal["planned", "unsupported"]
    reason: Text
    source: Url
    review: date


class Peak(Model):
    """A data sheet's dense matrix TFLOP/s, without sparsity: more than that, no kernel can have computed."""

    bf16: Positive
    eight_bit: Positive | None = None
    source: Text


class Rate(Model):
    """What GPUs of one model reached; the floor of the check is `margin` times that."""

    measured: Positive
    margin: Share
    source: Text

    @property
    def floor(self) -> float:
        return round(self.margin * self.measured, 1)


class GpuModel(Model):
    """A GPU by its whole name in torch. `matmul`: TFLOP/s of a large bf16 product; `bandwidth`: GB/s of a copy,
    read and written.
    """

    architecture: Name
    peak: Peak | None = None
    matmul: Rate | None = None
    bandwidth: Rate | None = None


class Baseline(Model):
    """What `backend` reached in `case` on GPUs of the name `gpu`, as a share of the matmul ceiling of the same run.

    The floor of the check is `margin` times that share.
    """

    gpu: Text
    backend: Name
    case: Text
    forward: Share
    backward: Share
    margin: Share
    source: Text


class Tables(Model):
    """Everything in images.yaml that refers to something else in it."""

    bases: dict[Name, Base]
    architectures: dict[Name, Architecture]
    platforms: dict[Name, Platform]
    backends: dict[Name, Backend]
    images: tuple[Image, ...]
    exclusions: tuple[Exclusion, ...]
    gpus: dict[Text, GpuModel] = {}
    baselines: tuple[Baseline, ...] = ()

    def runs_on(self, backend: str, platform: str) -> tuple[str, ...]:
        """The architectures of `platform` that `backend` trains on; empty on a platform without any, such as a CPU."""
        return tuple(a for a in self.platforms[platform].architectures if a in self.backends[backend].architectures)

    def gradients(self, backend: str, platform: str) -> bool:
        """Whether `backend` has a backward pass on `platform`."""
        forward_only = self.backends[backend].forward_only
        return forward_only is None or platform not in forward_only.platforms

    def supported(self, image: Image) -> tuple[str, ...]:
        """The architectures that the image's default backend runs on, narrowed to the image's own if it names one."""
        every = self.runs_on(image.default, image.platform)
        return tuple(a for a in every if image.architecture in (None, a))


class Matrix(Tables):
    """The whole of images.yaml."""

    project: Project

    def tag(self, image: Image) -> str:
        """The tag it is built under, such as `axolotl-attn:fa4-cu128`."""
        return f"{self.project.name}:{image.id}"

    def base(self, image: Image) -> Base:
        return self.bases[self.platforms[image.platform].base]

    def shared(self, platform: str) -> dict[str, str]:
        """What every image of `platform` holds, with versions: torch and the pinned packages of no backend."""
        kernels = {package for backend in self.backends.values() for package in backend.packages}
        return {package: pin for package, pin in self.platforms[platform].pins.items() if package not in kernels}

    def kernels(self, image: Image) -> dict[str, str]:
        """The kernel packages that the image holds beside torch, with their versions, in the order of its backends."""
        pins = self.platforms[image.platform].pins
        return {package: pins[package] for name in image.backends for package in self.backends[name].packages}

    def packages(self, image: Image) -> dict[str, str]:
        """Every pinned package that the image holds, with its version."""
        return {**self.shared(image.platform), **self.kernels(image)}


def lock_path(platform: str) -> str:
    """Where the hashed lock of a platform is, from the repository root."""
    return f"docker/locks/{platform}.txt"


def spec_path(image_id: str) -> str:
    """Where the spec of an image is, from the repository root."""
    return f"docker/specs/{image_id}.json"
