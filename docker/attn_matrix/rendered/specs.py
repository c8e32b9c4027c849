"""docker/specs/<id>.json: what each image claims about itself, in the types that its entrypoint reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from attn_matrix.matrix.model import ALL, AXOLOTL, Baseline, GpuModel, Image, Kernel, Matrix, Mend, compiled_id
from entrypoint.spec import BackendSpec, Floor, GpuSpec, ImageSpec, Limitation, MendSpec, RecipeSpec, Sibling

# The images that run on an architecture (None: a machine without a GPU), by backend and platform (None: any).
Index = dict[tuple[str | None, str | None, str | None], list[Sibling]]


def image_specs(matrix: Matrix) -> dict[str, ImageSpec]:
    """The spec of every image, by id, and of those that hold prebuilt wheels a second one: as compiled from source."""
    compiled = matrix.from_source()
    own = [image for image in matrix.images if matrix.prebuilt_wheels(image)]
    if not own:
        return _specs(matrix, matrix.images)
    return _specs(matrix, matrix.images) | {compiled_id(name): s for name, s in _specs(compiled, own).items()}


def _specs(matrix: Matrix, images: Iterable[Image]) -> dict[str, ImageSpec]:
    indices = {
        base: _index(matrix, [image for image in matrix.images if _in_family(matrix, image, base)])
        for base in (False, True)
    }
    return {image.id: _spec(matrix, image, indices[image.is_base]) for image in images}


def _in_family(matrix: Matrix, image: Image, base: bool) -> bool:
    """Whether an image is a `-base` variant or not, or has no other one; none is, that cannot be built yet."""
    platform = matrix.platforms[image.platform]
    return not platform.unlocked and (image.is_base == base or AXOLOTL not in platform.pins)


def _spec(matrix: Matrix, image: Image, images: Index) -> ImageSpec:
    platform = matrix.platforms[image.platform]
    return ImageSpec(
        id=image.id,
        version=matrix.project.version,
        platform=image.platform,
        device=platform.device,
        vendor=matrix.vendor(image.platform),
        driver=platform.driver.minimum if platform.driver else None,
        backends=tuple(_backend(matrix, name, image) for name in image.backends),
        kernels=tuple(_kernel(name, kernel) for name, kernel in matrix.image_kernels(image).items()),
        packages=matrix.pinned_packages(image),
        architectures={name: matrix.architectures[name].capabilities for name in platform.known},
        supported=matrix.image_architectures(image),
        floors=tuple(_floors(matrix.baselines, image)) if platform.architectures else (),
        siblings=tuple(_siblings(matrix, image, images)),
        gpus=tuple(_gpu(n, g) for n, g in matrix.gpus.items() if g.architecture in platform.architectures),
        lacking=matrix.lacking(image),
        mends=tuple(_mend(name, mend, image.platform) for name, mend in matrix.image_mends(image).items()),
        recipes=tuple(_recipes(matrix, image)),
        limitations=tuple(_limitations(matrix, image)),
    )


def _backend(matrix: Matrix, name: str, image: Image) -> BackendSpec:
    return BackendSpec(
        name=name,
        packages=matrix.backends[name].packages,
        architectures=matrix.backend_architectures(image, name),
        gradients=matrix.gradients(name, image.platform),
        eight_bit=matrix.backends[name].eight_bit,
    )


def _kernel(name: str, kernel: Kernel) -> BackendSpec:
    return BackendSpec(name=name, packages=(), architectures=kernel.architectures, gradients=True)


def _mend(name: str, mend: Mend, platform: str) -> MendSpec:
    said = {"defect": mend.defect, "change": mend.change, "source": mend.source}
    return MendSpec(name=name, package=mend.package, version=mend.versions[platform], **said)


def _recipes(matrix: Matrix, image: Image) -> Iterator[RecipeSpec]:
    for name in image.backends if image.axolotl else ():
        recipe = matrix.backends[name].recipe
        if recipe is None or not matrix.gradients(name, image.platform):
            continue
        for packing in recipe.packings:
            yield RecipeSpec(backend=name, packing=packing, keys=recipe.keys(packing=packing))


def _limitations(matrix: Matrix, image: Image) -> Iterator[Limitation]:
    versions = matrix.kernel_packages(image)
    for package, known in matrix.limitations(image).items():
        yield Limitation(package=package, version=versions[package], what=known.what, source=known.source)


def _floors(baselines: Iterable[Baseline], image: Image) -> Iterator[Floor]:
    for baseline in baselines:
        if baseline.backend in image.backends:
            yield Floor(
                gpu=baseline.gpu,
                backend=baseline.backend,
                case=baseline.case,
                forward=round(baseline.margin * baseline.forward, 3),
                backward=round(baseline.margin * baseline.backward, 3),
                source=f"{baseline.margin:g} of what was measured: {baseline.source}",
            )


def _gpu(name: str, gpu: GpuModel) -> GpuSpec:
    known = {"peak": gpu.peak, "matmul": gpu.matmul, "bandwidth": gpu.bandwidth}
    return GpuSpec(
        name=name,
        matmul=gpu.matmul.floor if gpu.matmul else None,
        bandwidth=gpu.bandwidth.floor if gpu.bandwidth else None,
        peak=gpu.peak.bf16 if gpu.peak else None,
        peak_eight_bit=gpu.peak.eight_bit if gpu.peak else None,
        source="; ".join(f"{what}: {entry.source}" for what, entry in known.items() if entry is not None),
    )


def _siblings(matrix: Matrix, image: Image, images: Index) -> Iterator[Sibling]:
    """For every architecture, and for no GPU at all, the image nearest to this one that runs there.

    On an architecture that this image runs on itself only an image of another platform helps: its driver may do.
    """
    own = matrix.image_architectures(image) or (None,)
    chosen: dict[str, Sibling] = {}
    for architecture in (*matrix.architectures, None):
        near = (other for key in _keys(image) for other in images.get((architecture, *key), ()))
        usable = (other for other in near if other.platform != image.platform or architecture not in own)
        nearest = next(usable, None)
        if nearest is not None:
            chosen.setdefault(nearest.id, nearest)
    yield from chosen.values()


def _index(matrix: Matrix, images: Iterable[Image]) -> Index:
    """Images for many architectures come before those narrowed to one, and before those of all backends.

    Only those that can train: nobody is sent to an image that is refused there.
    """
    index: Index = defaultdict(list)
    trains = (image for image in images if matrix.gradients(image.default, image.platform))
    for image in sorted(trains, key=lambda image: (image.combination == ALL, image.architecture is not None)):
        runs_on = matrix.image_architectures(image)
        sibling = Sibling(id=image.id, platform=image.platform, architectures=runs_on)
        for architecture in runs_on or (None,):
            for key in _keys(image):
                index[(architecture, *key)].append(sibling)
    return index


def _keys(image: Image) -> tuple[tuple[str | None, str | None], ...]:
    """From near to far: the same backend and platform, the same backend, the same platform, any."""
    return (image.default, image.platform), (image.default, None), (None, image.platform), (None, None)
