"""docker/bake.json: one target for each image and each wheel, and groups, for `docker buildx bake`.

An image starts from its platform's `axolotl-<platform>` or, as a `-base` variant, from `torch-<platform>`. These are
targets of their own: built by themselves once, where images that are built side by side would each build theirs. So
are wheels, `<backend>-wheel-<platform>[-<arch>]`: compiled or downloaded once, and used by every image that holds them.

docker/bake.from-source.json is merged over it where everything is to be compiled, and says only what differs then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attn_matrix.matrix.model import (
    AXOLOTL,
    Image,
    Matrix,
    Prebuilt,
    Wheel,
    axolotl_lock,
    compiled_id,
    lock_path,
    spec_path,
)
from entrypoint.machine.devices import NVIDIA

DOCKERFILE = "docker/Dockerfile"
# The build arguments of an image in docker/Dockerfile,
ARGUMENTS = (
    *("BASE", "PYTHON", "PLATFORM", "LOCK", "TORCH", "TORCH_BACKEND", "KERNELS", "MENDS", "CHOICES"),
    *("COMPILE_FOR", "HEAD_DIMS", "START_FOR", "TRITON_AMD", "IMAGE_ID", "SPEC"),
)
# of the stages up to `torch`, which all images of a platform share, and of what comes next in most of them,
SHARED_ARGUMENTS = ("BASE", "PYTHON", "LOCK", "TORCH", "TORCH_BACKEND")
AXOLOTL_ARGUMENTS = ("BASE", "LOCK", "AXOLOTL", "WITHOUT")
# of a wheel that is downloaded (nothing of it is from BASE, but a Dockerfile is read as a whole),
PREBUILT_ARGUMENTS = ("BASE", "WHEEL_URL", "WHEEL_HASH", "WHEEL_FILE")
# and of one that is compiled.
WHEEL_ARGUMENTS = (
    *("BASE", "PYTHON", "LOCK", "BUILDER", "COMPILER", "TOOLKIT"),
    *("SOURCE", "SOURCE_HASH", "ARCHS", "MAX_JOBS"),
)
PREBUILT_STAGE = "prebuilt"
# The stage that BUILDER names where the compiler comes from the package index.
TOOLKIT_STAGE = "toolkit"
OCI = "org.opencontainers.image"
OWN = "dev.axolotl-attn"


def bake_file(matrix: Matrix) -> dict[str, Any]:
    """The bake document. Its paths count from the repository root, where bake must run."""
    images, wheels = matrix.images, wheel_targets(matrix)
    groups = {"default": {"targets": [image.id for image in images]}}
    for image in images:
        groups.setdefault(image.platform, {"targets": []})["targets"].append(image.id)
    if wheels:
        groups["wheels"] = {"targets": [*wheels]}
    used = [name for name in matrix.platforms if any(image.platform == name for image in images)]
    layers = {torch_target(name): _torch(matrix, name) for name in used}
    layers |= {axolotl_target(name): _axolotl(matrix, name) for name in used if AXOLOTL in matrix.platforms[name].pins}
    return {"group": groups, "target": layers | wheels | {image.id: _target(matrix, image) for image in images}}


def bake_from_source(matrix: Matrix) -> dict[str, Any]:
    """What is merged over the bake document to compile every wheel: those targets, and the specs and labels of images
    that hold one, because what they hold then is of another version.
    """
    compiled = matrix.from_source()
    images = [image for image in matrix.images if matrix.prebuilt_wheels(image)]
    prebuilt = {wheel_target(matrix.wheels[name], each) for each in images for name in matrix.prebuilt_wheels(each)}
    # bake merges arguments one by one, and takes none away: an address that is not used would be in the provenance.
    gone = {name: "" for name in PREBUILT_ARGUMENTS if name not in WHEEL_ARGUMENTS}
    wheels = {
        name: target | {"args": target["args"] | gone}
        for name, target in wheel_targets(compiled).items()
        if name in prebuilt
    }
    specs = {image.id: {"args": {"SPEC": spec_path(compiled_id(image.id))}} for image in images}
    return {"target": wheels | {i.id: specs[i.id] | {"labels": labels(compiled, i)} for i in images}}


def torch_target(platform: str) -> str:
    """The target of the layers that all images of a platform share."""
    return f"torch-{platform}"


def axolotl_target(platform: str) -> str:
    """The target of the layers that all images of a platform share, but the `-base` variants."""
    return f"axolotl-{platform}"


def wheel_target(wheel: Wheel, image: Image) -> str:
    """The target of a wheel that `image` holds: `fa2-wheel-cu128`, or with the architecture it is for."""
    return "-".join(filter(None, (wheel.backend, "wheel", image.platform, image.architecture)))


def stack(matrix: Matrix, image: Image) -> tuple[str, ...]:
    """The targets that `image` starts from, the nearest last."""
    torch, axolotl = torch_target(image.platform), axolotl_target(image.platform)
    return (torch, axolotl) if image.axolotl else (torch,)


def targets(matrix: Matrix, image: Image) -> tuple[str, ...]:
    """Every target that is built for `image`, itself included."""
    wheels = (wheel_target(wheel, image) for wheel in matrix.held_wheels(image).values())
    return (*stack(matrix, image), *wheels, image.id)


def wheel_targets(matrix: Matrix) -> dict[str, dict[str, Any]]:
    """The targets of all wheels."""
    found: dict[str, dict[str, Any]] = {}
    for image in matrix.images:
        prebuilt = matrix.prebuilt_wheels(image)
        for package, wheel in matrix.held_wheels(image).items():
            taken = prebuilt.get(package)
            target = _prebuilt_wheel(matrix, taken, image) if taken else _wheel(matrix, package, wheel, image)
            found[wheel_target(wheel, image)] = target
    return found


def _torch(matrix: Matrix, platform: str) -> dict[str, Any]:
    given = _shared(matrix, platform)
    return {"context": ".", "dockerfile": DOCKERFILE, "target": "torch", "args": given}


def _axolotl(matrix: Matrix, platform: str) -> dict[str, Any]:
    facts = matrix.platforms[platform]
    own = {
        "LOCK": lock_path(axolotl_lock(platform)),
        "AXOLOTL": _requirements(matrix, platform, {AXOLOTL: facts.pins[AXOLOTL]}),
        "WITHOUT": " ".join(facts.without),
    }
    given = _shared(matrix, platform) | own
    return {
        "context": ".",
        "contexts": {"torch": f"target:{torch_target(platform)}"},
        "dockerfile": DOCKERFILE,
        "target": "axolotl",
        "args": {name: given[name] for name in AXOLOTL_ARGUMENTS},
    }


def _prebuilt_wheel(matrix: Matrix, wheel: Prebuilt, image: Image) -> dict[str, Any]:
    given = {
        "BASE": matrix.base(image).reference,
        "WHEEL_URL": wheel.url,
        "WHEEL_HASH": f"sha256:{wheel.sha256}",
        "WHEEL_FILE": wheel.file,
    }
    return {"context": ".", "dockerfile": DOCKERFILE, "target": PREBUILT_STAGE, "args": given}


def _wheel(matrix: Matrix, package: str, wheel: Wheel, image: Image) -> dict[str, Any]:
    platform = matrix.platforms[image.platform]
    tree = f"{wheel.git.repository}#{wheel.git.commit}" if wheel.git else ""
    given = _shared(matrix, image.platform) | {
        "BUILDER": matrix.bases[platform.builder].reference if platform.builder else TOOLKIT_STAGE,
        "COMPILER": platform.compiler,
        "TOOLKIT": _requirements(matrix, image.platform, platform.toolkit),
        "SOURCE": tree or f"{package}=={platform.pins[package]}",
        "SOURCE_HASH": f"sha256:{wheel.sdist}" if wheel.sdist else "",
        "ARCHS": ";".join(compiled_archs(matrix, wheel, image)),
        "MAX_JOBS": "",
    }
    return {
        "context": ".",
        "contexts": {"torch": f"target:{torch_target(image.platform)}"} | ({"source": tree} if tree else {}),
        "dockerfile": DOCKERFILE,
        "target": f"{wheel.backend}-wheel",
        "args": {name: given[name] for name in WHEEL_ARGUMENTS},
    }


def _target(matrix: Matrix, image: Image) -> dict[str, Any]:
    wheels = {wheel.backend: f"target:{wheel_target(wheel, image)}" for wheel in matrix.held_wheels(image).values()}
    return {
        "context": ".",
        "contexts": {"stack": f"target:{stack(matrix, image)[-1]}"} | wheels,
        "dockerfile": DOCKERFILE,
        "target": "image",
        "args": arguments(matrix, image),
        "tags": [matrix.tag(image)],
        "labels": labels(matrix, image),
    }


def _shared(matrix: Matrix, platform: str) -> dict[str, str]:
    """The arguments of the layers up to torch."""
    return {
        "BASE": matrix.bases[matrix.platforms[platform].base].reference,
        "PYTHON": matrix.platforms[platform].python,
        "LOCK": lock_path(platform),
        "TORCH": _requirements(matrix, platform, matrix.common_packages(platform)),
        "TORCH_BACKEND": matrix.platforms[platform].torch_backend or "",
    }


def arguments(matrix: Matrix, image: Image) -> dict[str, str]:
    """The build arguments of an image, by the names in ARGUMENTS."""
    given = _shared(matrix, image.platform) | {
        "PLATFORM": image.platform,
        "KERNELS": _requirements(matrix, image.platform, matrix.indexed_packages(image)),
        "MENDS": " ".join(mends(matrix, image)),
        "CHOICES": " ".join(f"{name}:{kernel.module}" for name, kernel in matrix.image_kernels(image).items()),
        "COMPILE_FOR": " ".join(compiled_for(matrix, image)),
        "HEAD_DIMS": " ".join(prebuilt(matrix, image)),
        "START_FOR": " ".join(start_compiled_for(matrix, image)),
        "TRITON_AMD": "TRUE" if image.triton else "FALSE",
        "IMAGE_ID": image.id,
        "SPEC": spec_path(image.id),
    }
    return {name: given[name] for name in ARGUMENTS}


def mends(matrix: Matrix, image: Image) -> tuple[str, ...]:
    """The image's mends, each with the module that is mended and the version that it is for."""
    return tuple(
        f"{name}:{mend.module}:{mend.package}=={mend.versions[image.platform]}"
        for name, mend in matrix.image_mends(image).items()
    )


def compiled_archs(matrix: Matrix, wheel: Wheel, image: Image) -> tuple[str, ...]:
    """The architectures that a wheel of `image` has code for, as its setup.py spells them."""
    wanted = [
        a for a in matrix.platform_architectures(wheel.backend, image.platform) if image.architecture in (None, a)
    ]
    words = wheel.works_on(image.platform)
    return tuple(dict.fromkeys(word for name in wanted for word in words.get(name, ())))


def prebuilt(matrix: Matrix, image: Image) -> tuple[str, ...]:
    """The head dims whose kernels the image's build compiles."""
    backends = [name for name in image.backends if _prebuilt_on(matrix, image, name)]
    return tuple(dict.fromkeys(dims for name in backends for dims in matrix.backends[name].prebuilt))


def compiled_for(matrix: Matrix, image: Image) -> tuple[str, ...]:
    """The GPU architectures that it compiles them for, by NVIDIA's names, such as sm_90; none without `prebuilt`."""
    return _targets(matrix, [a for name in image.backends for a in _prebuilt_on(matrix, image, name)])


def start_compiled_for(matrix: Matrix, image: Image) -> tuple[str, ...]:
    """The GPU architectures that the build compiles the kernels of a start for, where Triton compiles them: NVIDIA's
    that such a backend runs on in the image.
    """
    backends = [name for name in image.backends if matrix.backends[name].prebuilt_start]
    if matrix.vendor(image.platform) != NVIDIA:
        return ()
    return _targets(matrix, [a for name in backends for a in matrix.backend_architectures(image, name)])


def _targets(matrix: Matrix, architectures: Iterable[str]) -> tuple[str, ...]:
    """The capabilities of architectures by NVIDIA's names, such as sm_90."""
    names = dict.fromkeys(architectures)
    capabilities = (capability for name in names for capability in matrix.architectures[name].capabilities)
    return tuple(f"sm_{capability.replace('.', '')}" for capability in capabilities)


def _prebuilt_on(matrix: Matrix, image: Image, backend: str) -> tuple[str, ...]:
    wanted = matrix.backends[backend].prebuilt_on
    return tuple(a for a in matrix.backend_architectures(image, backend) if a in wanted)


def labels(matrix: Matrix, image: Image) -> dict[str, str]:
    """The OCI labels known before a build, and ours: what the image holds, lists by comma."""
    project, base = matrix.project, matrix.base(image)
    titles = ", ".join(matrix.backends[name].title for name in image.backends)
    return {
        f"{OCI}.title": f"{project.name} {image.id}",
        f"{OCI}.description": f"{project.title}: {titles}; {matrix.platforms[image.platform].title}",
        f"{OCI}.version": project.version,
        f"{OCI}.source": project.source,
        f"{OCI}.licenses": project.licence,
        f"{OCI}.base.name": base.image,
        f"{OCI}.base.digest": base.digest or "",
        f"{OWN}.id": image.id,
        f"{OWN}.platform": image.platform,
        f"{OWN}.backends": ",".join(image.backends),
        f"{OWN}.architectures": ",".join(matrix.image_architectures(image)),
        f"{OWN}.packages": ",".join(f"{name}=={version}" for name, version in matrix.pinned_packages(image).items()),
        f"{OWN}.mends": ",".join(matrix.image_mends(image)),
        f"{OWN}.prebuilt": ",".join(f"{name}@sha256:{w.sha256}" for name, w in matrix.prebuilt_wheels(image).items()),
    }


def _requirements(matrix: Matrix, platform: str, packages: dict[str, str]) -> str:
    return " ".join(requirement(matrix, platform, package, version) for package, version in packages.items())


def requirement(matrix: Matrix, platform: str, package: str, version: str) -> str:
    """A pinned package with the extra that its platform installs it with: `flash-attn-4[cu13]==4.0.0b36`."""
    extra = matrix.platforms[platform].extras.get(package)
    return f"{package}[{extra}]=={version}" if extra else f"{package}=={version}"
