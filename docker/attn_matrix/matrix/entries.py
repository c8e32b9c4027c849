"""The entries of images.yaml, as frozen values; `attn_matrix.matrix.model` has what they say together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Final, Literal
from urllib.parse import unquote

from pydantic import Field

from attn_matrix.matrix.forms import (
    Commit,
    Digest,
    HeadDims,
    ImageId,
    Model,
    Module,
    Name,
    Names,
    Package,
    Positive,
    Reference,
    Sha256,
    Share,
    Test,
    Text,
    Url,
    Version,
    WheelUrl,
)

# `-base` ends the id of an image without Axolotl, where there is one with Axolotl too: sdpa-cpu and sdpa-cpu-base.
BASE: Final = "-base"


class Project(Model):
    """Goes into every image's labels. `name` is also the repository of the images: `<name>:<id>`."""

    name: Package
    title: Text
    version: Version
    source: Url
    licence: Text


class Base(Model):
    """An image that ours start from, or that a compiler comes from, pinned by digest.

    Only one that nothing is built from yet may be without.
    """

    image: Reference
    digest: Digest | None = None

    @property
    def reference(self) -> str:
        return f"{self.image}@{self.digest}" if self.digest else self.image


class Architecture(Model):
    """A GPU architecture. `capabilities` are CUDA's, such as "9.0", or AMD's gfx name; `gpus` are examples."""

    vendor: Literal["nvidia", "amd"]
    capabilities: Annotated[tuple[Text, ...], Field(min_length=1)]
    gpus: Annotated[tuple[Text, ...], Field(min_length=1)]


class Driver(Model):
    """The oldest GPU driver that a platform runs on."""

    minimum: Version
    source: Url


class Unlocked(Model):
    """Why a platform has no lock yet, so that its images are declared and cannot be built."""

    reason: Text
    source: Url
    review: date


class Platform(Model):
    """What images share: base, Python, torch. `device` is torch's device type; a CPU has no architectures.

    `pins` holds the version of torch, of Axolotl and of every kernel package that an image of this platform may hold;
    what is pinned and belongs to none of them, such as numpy, is in every image, in the layer of torch. `extras` are
    the extra that a package is installed with, by package. `torch_backend` is uv's name of the PyTorch index to take
    torch from, when it is not the package index.

    `without` are packages that Axolotl asks for and that the images do without, `overrides` the versions that a lock
    takes whatever asks for others. Kernels are compiled with what
    `builder`, a base, has in the folder `compiler`, or with the packages in `toolkit`. `beyond` are GPU architectures
    that exist and that nothing of this platform runs on.
    """

    title: Text
    device: Literal["cpu", "cuda"]
    base: Name
    python: Version
    torch_backend: Text | None = None
    driver: Driver | None = None
    architectures: tuple[Name, ...] = ()
    beyond: tuple[Name, ...] = ()
    pins: dict[Package, Version] = Field(default_factory=dict)
    extras: dict[Package, Package] = Field(default_factory=dict)
    without: tuple[Package, ...] = ()
    overrides: dict[Package, Version] = Field(default_factory=dict)
    builder: Name | None = None
    compiler: Text = "/usr/local/cuda"
    toolkit: dict[Package, Version] = Field(default_factory=dict)
    unlocked: Unlocked | None = None
    note: Text | None = None

    @property
    def known(self) -> tuple[str, ...]:
        """Every architecture that somebody may ask for here."""
        return (*self.architectures, *self.beyond)


class ForwardOnly(Model):
    """The platforms on which a backend has no gradients, so that nothing can be trained with it."""

    platforms: Names
    reason: Text
    source: Url


class Recipe(Model):
    """What an Axolotl configuration says for a backend, and whether it trains padded and packed (sample_packing)."""

    attn_implementation: Text
    padded: bool = True
    packed: bool = True

    @property
    def packings(self) -> tuple[bool, ...]:
        """The values of sample_packing that it trains with."""
        return tuple(packing for packing, trains in ((False, self.padded), (True, self.packed)) if trains)

    def keys(self, *, packing: bool) -> dict[str, str | bool]:
        """The keys of the configuration."""
        return {"attn_implementation": self.attn_implementation} | ({"sample_packing": True} if packing else {})


class Kernel(Model):
    """One kernel of a backend that a user may ask for: ATTN_BACKEND=<backend>-<its key>.

    docker/mends/attn_mends/<backend>_<key>.py makes torch prefer it, as soon as the image's Python imports `module`.
    """

    module: Module
    architectures: Names


class Backend(Model):
    """An attention backend: the distributions it needs beside torch and the architectures that it trains on.

    `eight_bit`: its products are of int8 or fp8 numbers, so it may be faster than any bf16 kernel can be. `prebuilt`
    are the head dims whose kernels, otherwise compiled on their first call, the build of an image compiles, for the
    architectures in `prebuilt_on`; `prebuilt_start`: the build compiles what Triton compiles in a start, for NVIDIA's.
    `kernels` are those that a user may ask for by name.

    `recipe` is what Axolotl's configuration says to train with it; none where nothing does.
    `options` are those of Axolotl's configuration that ask for this backend and for no other: an image without it fails
    there. `for_axolotl` are the backends that Axolotl calls beside this one, so that every image with Axolotl holds
    them too. `beside` says, of a backend in the same image, which third one has to be there as well.
    """

    title: Text
    packages: tuple[Package, ...] = ()
    architectures: Names
    forward_only: ForwardOnly | None = None
    eight_bit: bool = False
    prebuilt: tuple[HeadDims, ...] = ()
    prebuilt_on: tuple[Name, ...] = ()
    prebuilt_start: bool = False
    kernels: dict[Name, Kernel] = Field(default_factory=dict)
    recipe: Recipe | None = None
    options: tuple[Text, ...] = ()
    for_axolotl: tuple[Name, ...] = ()
    beside: dict[Name, Name] = Field(default_factory=dict)


class Git(Model):
    """A source tree, submodules included."""

    repository: Url
    commit: Commit


class Prebuilt(Model):
    """A wheel that somebody else compiled, for one platform: a build takes the file at `url` if its hash is `sha256`.

    `version` is the wheel's own, local part included; `architectures` are those that it has code for. `licence` is that
    of its publisher and of what is compiled in it, `source` where the publisher says how it was made.
    """

    url: WheelUrl
    sha256: Sha256
    version: Version
    architectures: Names
    licence: Text
    source: Url

    @property
    def file(self) -> str:
        """The name of the wheel, which says for which Python and machine it is."""
        return unquote(self.url.rpartition("/")[2])


class Limitation(Model):
    """What a version of a package does wrong, where no case of the check comes: every report of it says so."""

    what: Text
    source: Url


class Wheel(Model):
    """A kernel package that is not on the package index. The key is the package.

    Images that are narrowed to an architecture compile it, each for that one alone; the others take the `prebuilt`
    wheel of their platform, if it has one, else they compile it, once for all of them.

    `backend` is whose kernels they are, and names the stage of docker/Dockerfile: `<backend>-wheel`. The source is a
    source distribution, by its hash, or a tree in git. `needs` are the packages that it imports beside torch.
    `architectures` are those that it has code for, each with setup.py's own words for it, and `broken` those whose code
    does not work, by platform: they are left out there. `limitations` are by version, without the local part.
    """

    backend: Name
    platforms: Names
    sdist: Sha256 | None = None
    git: Git | None = None
    needs: tuple[Package, ...] = ()
    architectures: dict[Name, tuple[Text, ...]]
    broken: dict[Name, Names] = Field(default_factory=dict)
    prebuilt: dict[Name, Prebuilt] = Field(default_factory=dict)
    limitations: dict[Version, Limitation] = Field(default_factory=dict)

    def works_on(self, platform: str) -> dict[str, tuple[str, ...]]:
        """Its architectures on `platform`, with setup.py's words."""
        broken = self.broken.get(platform, ())
        return {name: words for name, words in self.architectures.items() if name not in broken}


class Mend(Model):
    """A wrapper around what a package does wrong, in the version that each platform of `versions` holds.

    The key is its name, and that of its file. The image's Python puts it on when `module` is imported. `package` is one
    that the platforms pin, or one that comes with Axolotl. `test` fails without the mend; after `review` somebody has
    to look whether it is still needed.
    """

    package: Package
    module: Module
    versions: Annotated[dict[Name, Version], Field(min_length=1)]
    defect: Text
    change: Text
    source: Url
    review: date
    test: Test


class Size(Model):
    """An image's measured size on disk, in GB of 10^9 bytes."""

    gigabytes: Annotated[float, Field(gt=0)]
    measured: date


class Row(Model):
    """One entry of `images`: an image, the same narrowed to each of the architectures in `narrowed`, and a `-base`
    variant of each of these where the platform pins Axolotl.

    `architecture` narrows the row itself, and is in its id then. `triton`: FlashAttention 2 runs Triton's kernels
    there, which nothing compiles at build, not Composable Kernel's.
    """

    id: ImageId
    platform: Name
    backends: Names
    architecture: Name | None = None
    narrowed: tuple[Name, ...] = ()
    triton: bool = False

    @property
    def default(self) -> str:
        return self.backends[0]


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image. `backends[0]` is its default one; `architecture` narrows it to one of its platform's architectures.

    `plain` is the id of the image that it is a variant of, or its own.
    """

    id: str
    platform: str
    backends: tuple[str, ...]
    architecture: str | None = None
    triton: bool = False
    axolotl: bool = False
    plain: str = ""
    size: Size | None = None

    @property
    def default(self) -> str:
        return self.backends[0]

    @property
    def combination(self) -> str:
        return self.id.partition("-")[0]

    @property
    def is_base(self) -> bool:
        """Whether it is the variant without Axolotl of an image that holds it."""
        return self.id.endswith(BASE)


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
