"""docker/bake.json: one target for each image, one group for each platform, for `docker buildx bake`."""

from __future__ import annotations

from typing import Any

from attn_matrix.model import Image, Matrix, lock_path, spec_path

DOCKERFILE = "docker/Dockerfile"
# The build arguments that docker/Dockerfile declares.
ARGUMENTS = (
    *("BASE", "PLATFORM", "LOCK", "TORCH", "TORCH_BACKEND", "KERNELS"),
    *("COMPILE_FOR", "HEAD_DIMS", "IMAGE_ID", "SPEC"),
)
# Those of the stages up to `torch`, which all images of a platform share.
SHARED_ARGUMENTS = ("BASE", "LOCK", "TORCH", "TORCH_BACKEND")
OCI = "org.opencontainers.image"
OWN = "dev.axolotl-attn"


def bake_file(matrix: Matrix) -> dict[str, Any]:
    """The bake document. Its paths count from the repository root, where bake must run."""
    groups = {"default": {"targets": [image.id for image in matrix.images]}}
    for image in matrix.images:
        groups.setdefault(image.platform, {"targets": []})["targets"].append(image.id)
    targets = {torch_target(image.platform): _torch(matrix, image) for image in matrix.images}
    return {"group": groups, "target": targets | {image.id: _target(matrix, image) for image in matrix.images}}


def torch_target(platform: str) -> str:
    """The target of the layers that all images of a platform share."""
    return f"torch-{platform}"


def _torch(matrix: Matrix, image: Image) -> dict[str, Any]:
    """A target of its own: built by itself once, where images that are built side by side would each build theirs."""
    given = arguments(matrix, image)
    shared = {name: given[name] for name in SHARED_ARGUMENTS}
    return {"context": ".", "dockerfile": DOCKERFILE, "target": "torch", "args": shared}


def _target(matrix: Matrix, image: Image) -> dict[str, Any]:
    return {
        "context": ".",
        "contexts": {"torch": f"target:{torch_target(image.platform)}"},
        "dockerfile": DOCKERFILE,
        "target": "image",
        "args": arguments(matrix, image),
        "tags": [matrix.tag(image)],
        "labels": labels(matrix, image),
    }


def arguments(matrix: Matrix, image: Image) -> dict[str, str]:
    """The build arguments of an image, by the names in ARGUMENTS."""
    return {
        "BASE": matrix.base(image).reference,
        "PLATFORM": image.platform,
        "LOCK": lock_path(image.platform),
        "TORCH": _requirements(matrix.shared(image.platform)),
        "TORCH_BACKEND": matrix.platforms[image.platform].torch_backend or "",
        "KERNELS": _requirements(matrix.kernels(image)),
        "COMPILE_FOR": " ".join(compiled_for(matrix, image)),
        "HEAD_DIMS": " ".join(prebuilt(matrix, image)),
        "IMAGE_ID": image.id,
        "SPEC": spec_path(image.id),
    }


def prebuilt(matrix: Matrix, image: Image) -> tuple[str, ...]:
    """The head dims whose kernels the image's build compiles."""
    return tuple(dict.fromkeys(dims for name in image.backends for dims in matrix.backends[name].prebuilt))


def compiled_for(matrix: Matrix, image: Image) -> tuple[str, ...]:
    """The GPU architectures that it compiles them for, by NVIDIA's names, such as sm_90; none without `prebuilt`."""
    backends = [name for name in image.backends if matrix.backends[name].prebuilt]
    names = dict.fromkeys(name for backend in backends for name in matrix.runs_on(backend, image.platform))
    wanted = [matrix.architectures[name] for name in names if image.architecture in (None, name)]
    return tuple(f"sm_{capability.replace('.', '')}" for each in wanted for capability in each.capabilities)


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
        f"{OCI}.base.digest": base.digest,
        f"{OWN}.id": image.id,
        f"{OWN}.platform": image.platform,
        f"{OWN}.backends": ",".join(image.backends),
        f"{OWN}.architectures": ",".join(matrix.supported(image)),
        f"{OWN}.packages": ",".join(_requirements(matrix.packages(image)).split()),
    }


def _requirements(packages: dict[str, str]) -> str:
    return " ".join(f"{package}=={version}" for package, version in packages.items())
