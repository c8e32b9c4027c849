"""Which backend is checked, and what can be refused before torch starts. Pure: facts in, a choice or an error out."""

from __future__ import annotations

from typing import Any

from entrypoint.devices import Devices, older
from entrypoint.errors import ConfigError, MismatchError
from entrypoint.settings import AUTO, FORWARD_ONLY, Settings
from entrypoint.spec import BackendSpec, ImageSpec


def refuse_early(spec: ImageSpec, settings: Settings, devices: Devices) -> None:
    """Raise what can be said without torch: ConfigError, or MismatchError when there is no usable GPU."""
    backend = chosen(spec, settings)
    if not backend.gradients and FORWARD_ONLY not in settings.allow:
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
    """The backend that is tried first."""
    return spec.default if settings.backend == AUTO else next(b for b in spec.backends if b.name == settings.backend)


def fits(spec: ImageSpec, backend: BackendSpec, gpu: dict[str, Any]) -> bool:
    """Whether `backend` claims to run on the device with these facts (events.DEVICE_FIELDS)."""
    return spec.device == "cpu" or spec.architecture_of(str(gpu.get("capability"))) in backend.architectures


def fallback(spec: ImageSpec, settings: Settings, tried: str, gpu: dict[str, Any]) -> BackendSpec | None:
    """The next backend of the image that fits the GPU, when the user left the choice to us (`auto`)."""
    if settings.backend != AUTO:
        return None
    names = [backend.name for backend in spec.backends]
    return next((b for b in spec.backends[names.index(tried) + 1 :] if b.gradients and fits(spec, b, gpu)), None)
