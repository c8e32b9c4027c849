"""What an image claims about itself: the `image.json` beside this package, written by `nox -s render`.

The host side writes these types and the container reads them, so they live here and use the standard library only.
"""

from __future__ import annotations

import json

from entrypoint.light import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import Any

SPEC_SCHEMA = 1
BANNER = "Generated from images.yaml by `nox -s render`; do not edit."


@dataclass(frozen=True, kw_only=True)
class BackendSpec:
    """One attention backend in the image. `packages` are distribution names; empty when it lives in torch.

    `eight_bit`: its products are of 8-bit numbers (int8, fp8), so the chip's 8-bit peak is its limit.
    """

    name: str
    packages: tuple[str, ...]
    architectures: tuple[str, ...]
    gradients: bool
    eight_bit: bool = False


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The least share of the bf16 matmul ceiling that `backend` should reach in `case` on GPUs of the name `gpu`."""

    gpu: str
    backend: str
    case: str
    forward: float
    backward: float
    source: str


@dataclass(frozen=True, kw_only=True)
class GpuSpec:
    """What a GPU should reach by itself; `name` is the model's whole name in torch, None what nobody has measured.

    `matmul` (TFLOP/s of a large bf16 product) and `bandwidth` (GB/s of a copy, read and written) are floors; `peak` and
    `peak_eight_bit` are the data sheet's dense TFLOP/s in bf16 and in 8 bits.
    """

    name: str
    matmul: float | None
    bandwidth: float | None
    peak: float | None
    peak_eight_bit: float | None
    source: str


@dataclass(frozen=True, kw_only=True)
class Sibling:
    """Another image of the same release, named when this one does not fit the GPU."""

    id: str
    platform: str
    architectures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Limitation:
    """What is known to be wrong with a package of this version, where no case of the check comes."""

    package: str
    version: str
    what: str
    source: str


@dataclass(frozen=True, kw_only=True)
class RecipeSpec:
    """The keys of an Axolotl configuration that trains with a backend; `packing`: with sample_packing."""

    backend: str
    packing: bool
    keys: dict[str, str | bool]


@dataclass(frozen=True, kw_only=True)
class MendSpec:
    """What one version of a package does wrong, and how this image changes that when the package is imported."""

    name: str
    package: str
    version: str
    defect: str
    change: str
    source: str


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """An image's claims. `device` is torch's device type (`cpu`, or `cuda` for GPUs of every maker), `vendor` the GPUs'
    maker (`nvidia`, `amd`; None for a CPU); `backends[0]` is the default backend. `kernels` are single kernels of these
    that run only when a user names one, such as sdpa-cudnn: `auto` takes none of them.

    `packages` maps a distribution to its pinned version. `architectures` maps a name such as `hopper` to what it
    covers, for the whole platform: compute capabilities such as "9.0", or AMD's gfx name. `supported` names those that
    this image's default backend runs on. `lacking` are options of Axolotl's
    configuration that ask for a backend which is not in the image, `recipes` what to write for those that are.
    """

    id: str
    version: str
    platform: str
    device: str
    driver: str | None
    backends: tuple[BackendSpec, ...]
    kernels: tuple[BackendSpec, ...] = ()
    packages: dict[str, str]
    architectures: dict[str, tuple[str, ...]]
    supported: tuple[str, ...]
    floors: tuple[Floor, ...]
    siblings: tuple[Sibling, ...]
    gpus: tuple[GpuSpec, ...] = ()
    vendor: str | None = None
    lacking: tuple[str, ...] = ()
    mends: tuple[MendSpec, ...] = ()
    recipes: tuple[RecipeSpec, ...] = ()
    limitations: tuple[Limitation, ...] = ()

    @property
    def default(self) -> BackendSpec:
        return self.backends[0]

    @property
    def choices(self) -> tuple[BackendSpec, ...]:
        """Everything that a user may name."""
        return (*self.backends, *self.kernels)

    def backend(self, name: str) -> BackendSpec | None:
        return next((choice for choice in self.choices if choice.name == name), None)

    def architecture_of(self, capability: str) -> str | None:
        """The architecture that holds a capability such as "9.0" or "gfx942"; None when it is unknown."""
        return next((name for name, caps in self.architectures.items() if capability in caps), None)


def document(spec: ImageSpec) -> dict[str, Any]:
    """`image.json` as plain values, sorted, so that a diff shows one fact a line."""
    plain: dict[str, Any] = _plain({"//": BANNER, "schema": SPEC_SCHEMA, **vars(spec)})
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return _plain(vars(value)) if hasattr(value, "__dict__") else value


def from_json(text: str) -> ImageSpec:
    """Parse `image.json`. Raises ValueError when it is not one of this schema."""
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("schema") != SPEC_SCHEMA:
        raise ValueError(f"not an image spec of schema {SPEC_SCHEMA}")
    try:
        return _build(document)
    except (KeyError, TypeError) as error:
        raise ValueError(f"an incomplete image spec: {error}") from error


def _build(document: dict[str, Any]) -> ImageSpec:
    plain = {key: document[key] for key in ("id", "version", "platform", "device", "vendor", "driver")}
    return ImageSpec(
        **plain,
        backends=tuple(BackendSpec(**_tuples(item)) for item in document["backends"]),
        kernels=tuple(BackendSpec(**_tuples(item)) for item in document["kernels"]),
        packages=dict(document["packages"]),
        architectures={name: tuple(caps) for name, caps in document["architectures"].items()},
        supported=tuple(document["supported"]),
        floors=tuple(Floor(**item) for item in document["floors"]),
        siblings=tuple(Sibling(**_tuples(item)) for item in document["siblings"]),
        gpus=tuple(GpuSpec(**item) for item in document["gpus"]),
        lacking=tuple(document["lacking"]),
        mends=tuple(MendSpec(**item) for item in document["mends"]),
        recipes=tuple(RecipeSpec(**item) for item in document["recipes"]),
        limitations=tuple(Limitation(**item) for item in document["limitations"]),
    )


def _tuples(item: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where the frozen types have tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
