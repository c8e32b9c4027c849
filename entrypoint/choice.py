"""Which backend is checked, and what can be refused before torch starts. Pure: facts in, a choice or an error out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from entrypoint.devices import Devices, older
from entrypoint.errors import ConfigError, MismatchError
from entrypoint.settings import AUTO, FORWARD_ONLY, Settings
from entrypoint.spec import BackendSpec, ImageSpec

if TYPE_CHECKING:
    from entrypoint.events import DeviceFacts


def refuse_early(spec: ImageSpec, settings: Settings, devices: Devices) -> None:
    """Raise what can be said without torch: ConfigError, or MismatchError when there is no usable GPU."""
    backend = chosen(spec, settings)
    if not may_start(backend, settings):
        raise ConfigError(
            f"{backend.name} has no gradients on {spec.platform}: a training run would start and learn nothing.",
            f"Use another image to train; if the forward pass is all you need, set ATTN_ALLOW={FORWARD_ONLY}.",
        )
    if spec.device == "cpu":
        return
    if devices.count == 0:
        raise MismatchError(*_no_gpu(spec, devices))
    if devices.driver and spec.driver and older(devices.driver, spec.driver):
        raise MismatchError(
            f"The NVIDIA driver here is {devices.driver}; {spec.platform} needs {spec.driver} or newer.",
            "Update the driver, or start the job on a node that has a newer one.",
        )


def _no_gpu(spec: ImageSpec, devices: Devices) -> tuple[str, str]:
    cpu_image = next((sibling.id for sibling in spec.siblings if sibling.platform == "cpu"), None)
    or_cpu = f" To try it without a GPU, use axolotl-attn:{cpu_image}." if cpu_image else ""
    if devices.listed or devices.driver:
        return (
            f"This machine has an NVIDIA driver ({devices.driver}), but the container was given no GPU.",
            "Add --gpus all to docker run (Kubernetes: resources.limits nvidia.com/gpu), and check that "
            f"CUDA_VISIBLE_DEVICES is not empty.{or_cpu}",
        )
    return (
        f"No NVIDIA GPU is in reach, and {spec.id} needs one.",
        "Start it on a node with an NVIDIA driver and the NVIDIA Container Toolkit, with --gpus all (Kubernetes: "
        f"resources.limits nvidia.com/gpu).{or_cpu}",
    )


def chosen(spec: ImageSpec, settings: Settings) -> BackendSpec:
    """The backend that is tried first; under `auto` the first that may start.

    The image's own stands for it where none may, and is refused with its reason.
    """
    if settings.backend != AUTO:
        return next(backend for backend in spec.backends if backend.name == settings.backend)
    return next((backend for backend in spec.backends if may_start(backend, settings)), spec.default)


def may_start(backend: BackendSpec, settings: Settings) -> bool:
    """Whether a start may use it: it has gradients, or the user accepts that it has none."""
    return backend.gradients or FORWARD_ONLY in settings.allow


def fits(spec: ImageSpec, backend: BackendSpec, gpu: DeviceFacts | None) -> bool:
    """Whether `backend` claims to run on this device; a GPU that nobody has seen fits none."""
    return spec.device == "cpu" or architecture_of(spec, gpu) in backend.architectures


def architecture_of(spec: ImageSpec, gpu: DeviceFacts | None) -> str | None:
    """The name of a GPU's architecture, such as hopper; None on a CPU and for a GPU that the image does not know."""
    return spec.architecture_of(gpu.capability) if gpu and gpu.capability else None


def fallback(spec: ImageSpec, settings: Settings, tried: str, gpu: DeviceFacts | None) -> BackendSpec | None:
    """The next backend of the image that fits the GPU and may start, when the user left the choice to us (`auto`)."""
    if settings.backend != AUTO:
        return None
    names = [backend.name for backend in spec.backends]
    rest = spec.backends[names.index(tried) + 1 :]
    return next((backend for backend in rest if may_start(backend, settings) and fits(spec, backend, gpu)), None)
