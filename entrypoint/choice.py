"""Which backend is checked, and what can be refused before torch starts. Pure: facts in, a choice or an error out."""

from __future__ import annotations

from entrypoint.errors import ConfigError, MismatchError
from entrypoint.light import TYPE_CHECKING, dataclass
from entrypoint.machine.devices import AMD, NVIDIA, older
from entrypoint.settings import AUTO, FORWARD_ONLY

if TYPE_CHECKING:
    from typing import Final

    from entrypoint.events import DeviceFacts
    from entrypoint.machine.devices import Closed, Devices
    from entrypoint.settings import Settings
    from entrypoint.spec import BackendSpec, ImageSpec


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """How a container gets GPUs of one maker: `options` of docker run, Kubernetes' `resource`, what a node needs.

    `tool` shows what a GPU does, and `log` its errors.
    """

    name: str
    options: str
    resource: str
    node: str
    tool: str
    log: str


VENDORS: Final = {
    NVIDIA: Vendor(
        name="NVIDIA",
        options="--gpus all",
        resource="nvidia.com/gpu",
        node="an NVIDIA driver and the NVIDIA Container Toolkit",
        tool="nvidia-smi",
        log="dmesg | grep Xid",
    ),
    # By number: the image need not have a group of the name that the host gives it.
    AMD: Vendor(
        name="AMD",
        options="--device /dev/kfd --device /dev/dri --group-add video --group-add $(stat -c %g /dev/kfd)",
        resource="amd.com/gpu",
        node="AMD's amdgpu driver",
        tool="rocm-smi",
        log="dmesg | grep amdgpu",
    ),
}


def vendor_of(spec: ImageSpec) -> Vendor:
    """The maker of the GPUs that the image is for; the caller knows that it is for GPUs."""
    return VENDORS[spec.vendor or NVIDIA]


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
        maker = vendor_of(spec).name
        raise MismatchError(
            f"The {maker} driver here is {devices.driver}; {spec.platform} needs {spec.driver} or newer.",
            "Update the driver, or start the job on a node that has a newer one.",
        )


def _no_gpu(spec: ImageSpec, devices: Devices) -> tuple[str, str]:
    """What is missing, and what to do: a driver without a device, a device without leave to open it, or no GPU."""
    vendor = vendor_of(spec)
    cpu_image = next((sibling.id for sibling in spec.siblings if sibling.platform == "cpu"), None)
    or_cpu = f" To try it without a GPU, use axolotl-attn:{cpu_image}." if cpu_image else ""
    if devices.closed:
        return _closed(devices.closed)
    if devices.hidden:
        return (
            f"The container has an {vendor.name} GPU, but {devices.hidden} hides it from every program.",
            f"Unset {devices.hidden.partition('=')[0]}, or name GPUs that are here: they count from 0.{or_cpu}",
        )
    if devices.listed or devices.driver:
        return (
            f"This machine has an {vendor.name} driver ({devices.driver}), but the container was given no GPU.",
            f"Add {vendor.options} to docker run (Kubernetes: resources.limits {vendor.resource}).{or_cpu}",
        )
    others = ", though another maker's is" if devices.others else ""
    return (
        f"No {vendor.name} GPU is in reach{others}, and {spec.id} needs one.",
        f"Start it on a node with {vendor.node}, with {vendor.options} (Kubernetes: "
        f"resources.limits {vendor.resource}).{or_cpu}",
    )


def _closed(nodes: tuple[Closed, ...]) -> tuple[str, str]:
    groups = list(dict.fromkeys(node.group for node in nodes))
    return (
        f"The container has {', '.join(node.path for node in nodes)}, but its user may not open "
        f"{'it' if len(nodes) == 1 else 'them'}.",
        f"Add {' '.join(f'--group-add {group}' for group in groups)} to docker run (Kubernetes: "
        f"securityContext.supplementalGroups: [{', '.join(map(str, groups))}]).",
    )


def chosen(spec: ImageSpec, settings: Settings) -> BackendSpec:
    """The backend (or single kernel) that is tried first; under `auto` the first that may start.

    The image's own stands for it where none may, and is refused with its reason.
    """
    if settings.backend != AUTO:
        return next(choice for choice in spec.choices if choice.name == settings.backend)
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
