"""AMD's GPUs: found by the kernel driver's files, counted as ROCm counts them, refused in the words of their maker."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attn_matrix import ROOT
from attn_matrix.host import engine, machine
from attn_matrix.host.container import Devices as Given
from attn_matrix.host.container import devices_for
from attn_matrix.host.machine import Gpu, Machine, NothingFits, choose
from attn_matrix.matrix.load import FILE, read

from entrypoint.arguments import usage
from entrypoint.children.outcome import Outcome
from entrypoint.choice import fits, refuse_early
from entrypoint.errors import MismatchError
from entrypoint.judge.verdict import judge
from entrypoint.kept import cache
from entrypoint.machine import devices, kfd
from entrypoint.machine.devices import AMD, NVIDIA, look
from entrypoint.settings import Settings
from entrypoint.spec import ImageSpec, from_json
from tests.unit import whole
from tests.unit.amd import CPU, MI300X, RAPHAEL, lay_out

OURS = read(ROOT / FILE)
IMAGES = {image.id: image for image in OURS.images}
SECOND = {**MI300X, "drm_render_minor": 129, "unique_id": 0x8AF705259683161C}
UUIDS = ["GPU-21b6d61638a86f8c", "GPU-8af705259683161c"]
SETTINGS = Settings(backend="fa2")


def spec(name: str = "fa2-rocm") -> ImageSpec:
    return from_json((ROOT / f"docker/specs/{name}.json").read_text())


@pytest.mark.parametrize(
    ("version", "name"),
    [(90402, "gfx942"), (90010, "gfx90a"), (90500, "gfx950"), (110000, "gfx1100"), (120001, "gfx1201")],
)
def test_the_drivers_number_is_an_architecture(version: int, name: str) -> None:
    """Two decimal digits each for minor and step, which the name has in base 16."""
    assert kfd.gfx(version) == name


def test_a_processor_is_no_gpu(tmp_path: Path) -> None:
    """Nodes in the order of their numbers, the tenth after the ninth; what cannot be read, or compute, is left out."""
    lay_out(tmp_path, CPU, {**MI300X, "simd_count": 0}, MI300X, *([CPU] * 7), SECOND)
    (tmp_path / kfd.TOPOLOGY / "11").mkdir()

    assert [(gpu.arch, gpu.uuid, gpu.render_minor) for gpu in kfd.gpus(tmp_path)] == [
        ("gfx942", UUIDS[0], 128),
        ("gfx942", UUIDS[1], 129),
    ]


@pytest.mark.parametrize(("version", "driver"), [("6.10.5", "6.10.5"), ("", "6.8.0-45-generic")])
def test_the_driver_of_linux_has_the_version_of_linux(tmp_path: Path, version: str, driver: str) -> None:
    assert kfd.driver(lay_out(tmp_path, MI300X, version=version)) == driver


def test_a_machine_without_amdgpu_has_no_driver_of_amd(tmp_path: Path) -> None:
    assert (kfd.driver(tmp_path), kfd.gpus(tmp_path)) == (None, ())


def test_a_container_with_both_gpus(tmp_path: Path) -> None:
    """Known by name and UUID, so a verdict can be kept for them."""
    here = look({}, lay_out(tmp_path, CPU, MI300X, SECOND, version="6.10.5"), AMD)

    assert (here.count, here.driver, here.identified) == (2, "6.10.5", True)
    assert [(gpu.name, gpu.uuid, gpu.minor) for gpu in here.usable] == [
        ("AMD gfx942", UUIDS[0], 128),
        ("AMD gfx942", UUIDS[1], 129),
    ]


def test_a_gpu_without_its_render_node_is_not_usable(tmp_path: Path) -> None:
    here = look({}, lay_out(tmp_path, MI300X, SECOND, render=(129,)), AMD)

    assert ([gpu.uuid for gpu in here.usable], here.count, len(here.listed)) == (UUIDS[1:], 1, 2)


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        ({"ROCR_VISIBLE_DEVICES": "0"}, 1),
        ({"HIP_VISIBLE_DEVICES": "1"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "1"}, 1),
        ({"HIP_VISIBLE_DEVICES": "0,1", "CUDA_VISIBLE_DEVICES": "0"}, 2),
        ({"ROCR_VISIBLE_DEVICES": "0,1", "HIP_VISIBLE_DEVICES": "0"}, 1),
        ({"ROCR_VISIBLE_DEVICES": ""}, 0),
        ({"HIP_VISIBLE_DEVICES": "-1"}, 0),
    ],
)
def test_rocms_variables_narrow(tmp_path: Path, environ: dict[str, str], count: int) -> None:
    """ROCr's first, then HIP's, which is heard in place of CUDA's."""
    assert look(environ, lay_out(tmp_path, MI300X, SECOND), AMD).count == count


def test_a_gpu_without_a_unique_id_is_not_identified(tmp_path: Path) -> None:
    """Its UUID would be the same on every node, so no verdict is kept."""
    here = look({}, lay_out(tmp_path, RAPHAEL), AMD)

    assert (here.count, here.identified) == (1, False)


def refusal(here: devices.Devices, name: str = "fa2-rocm") -> MismatchError:
    with pytest.raises(MismatchError) as caught:
        refuse_early(spec(name), SETTINGS, here)
    return caught.value


def test_two_gpus_are_not_refused(tmp_path: Path) -> None:
    """What 91 "No NVIDIA GPU is in reach" said of every AMD machine."""
    refuse_early(spec(), SETTINGS, look({}, lay_out(tmp_path, MI300X, SECOND), AMD))


def test_a_container_that_was_given_no_gpu_is_told_the_options(tmp_path: Path) -> None:
    """/sys is the machine's in a container, too: it shows the driver and the GPUs, and /dev has none of them."""
    error = refusal(look({}, lay_out(tmp_path, MI300X, control=False, render=(), version="6.10.5"), AMD))

    assert error.what == "This machine has an AMD driver (6.10.5), but the container was given no GPU."
    assert "--device /dev/kfd --device /dev/dri --group-add video" in error.advice
    assert "amd.com/gpu" in error.advice


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"ROCR_VISIBLE_DEVICES": ""}, "ROCR_VISIBLE_DEVICES="),
        ({"ROCR_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "-1"}, "HIP_VISIBLE_DEVICES=-1"),
        ({"ROCR_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1"}, "ROCR_VISIBLE_DEVICES=-1"),
    ],
)
def test_the_variable_that_hides_every_gpu_is_named(tmp_path: Path, environ: dict[str, str], named: str) -> None:
    """The first that leaves none."""
    error = refusal(look(environ, lay_out(tmp_path, MI300X), AMD))

    assert error.what == f"The container has an AMD GPU, but {named} hides it from every program."
    assert f"Unset {named.partition('=')[0]}" in error.advice


def test_devices_that_the_user_may_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --group-add: the group is named by its number, since its name may be the host's alone."""
    lay_out(tmp_path, MI300X, render=(128,))
    closed = tmp_path / "dev/kfd"
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != closed)
    group = closed.stat().st_gid

    error = refusal(look({}, tmp_path, AMD))

    assert error.what == "The container has /dev/kfd, but its user may not open it."
    assert f"--group-add {group} to docker run" in error.advice
    assert f"supplementalGroups: [{group}]" in error.advice


@pytest.mark.parametrize(("name", "maker"), [("fa2-rocm", "AMD"), ("sdpa-cu128", "NVIDIA")])
def test_another_makers_gpu_is_told_apart_from_none(tmp_path: Path, name: str, maker: str) -> None:
    """Each image says which maker it is for, on a machine that has the other one's."""
    if maker == "AMD":
        (tmp_path / "dev").mkdir()
        (tmp_path / "dev/nvidia0").touch()
    else:
        lay_out(tmp_path, MI300X)
    image = spec(name)

    with pytest.raises(MismatchError, match=f"No {maker} GPU is in reach, though another maker's is, and {name}"):
        refuse_early(image, Settings(backend="sdpa"), look({}, tmp_path, image.vendor))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fa2-rocm", "--device /dev/kfd --device /dev/dri"),
        ("fa2-cu128", "--gpus all "),
        ("sdpa-cpu", "axolotl-attn:ID"),
    ],
)
def test_help_shows_the_makers_options(name: str, options: str) -> None:
    assert usage(spec(name)).startswith(f"usage: docker run {options}")


def test_specs_name_the_maker() -> None:
    assert [spec(name).vendor for name in ("fa2-rocm", "sdpa-cu128", "sdpa-cpu")] == [AMD, NVIDIA, None]


def test_a_gfx_name_fits_what_the_backend_claims() -> None:
    """facts report the name without its features, and the specs have it so."""
    backend = spec().default

    assert fits(spec(), backend, replace(whole.DEVICE, capability="gfx942"))
    assert not fits(spec(), backend, replace(whole.DEVICE, capability="gfx1100"))


def amd_outcome(capability: str, ending: str, *events: dict[str, Any]) -> Outcome:
    result = Outcome(device="cuda:0", backend="fa2", ending=ending)  # type: ignore[arg-type]
    device = {"index": 0, "name": "AMD Radeon RX 7900 XTX", "capability": capability}
    for event in ({"event": "machine", "device": device}, *events):
        assert result.take(whole.line(event)) is not None
    return result


def test_an_architecture_without_the_backend_is_named_as_amd_does() -> None:
    finding, *_ = judge(spec(), SETTINGS, amd_outcome("gfx1100", "stopped")).findings

    assert "fa2 does not support AMD Radeon RX 7900 XTX (gfx1100)" in finding.what
    assert "ATTN_BACKEND=flex" in finding.advice


def test_a_crash_points_to_amds_own_log() -> None:
    """No Xid on an AMD GPU."""
    phase = {"event": "phase", "name": "correctness", "detail": "causal-d64"}
    finding, *_ = judge(spec(), SETTINGS, amd_outcome("gfx942", "exited", phase)).findings

    assert "dmesg | grep amdgpu" in finding.advice


@pytest.mark.parametrize("name", ["HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION"])
def test_a_verdict_depends_on_amds_variables(tmp_path: Path, name: str) -> None:
    """Another selection, or a GPU that passes for another one, is another key."""
    here = look({}, lay_out(tmp_path / "root", MI300X), AMD)
    home = tmp_path / "attn"
    (home / "entrypoint").mkdir(parents=True)
    (home / "image.json").touch()
    plain, changed = (cache.key_of(spec(), home, here, SETTINGS, environ) for environ in ({}, {name: "0"}))

    assert plain is not None
    assert plain["hardware"] == UUIDS[:1]
    assert plain["driver"] == "6.8.0-45-generic"
    assert plain != changed


def test_facts_of_an_amd_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The architecture without its features; rocminfo's UUID, which torch shows as the bytes of its text."""
    torch = pytest.importorskip("torch")
    from entrypoint.probe import facts

    text = b"21b6d61638a86f8c".hex()
    uuid = "-".join([text[:8], text[8:12], text[12:16], text[16:20], text[20:]])
    properties = SimpleNamespace(name="AMD Instinct MI300X", uuid=uuid, gcnArchName="gfx942:sramecc+:xnack-")
    monkeypatch.setattr(torch.version, "hip", "7.1.0")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (100, 192))
    monkeypatch.setattr(facts, "driver_version", lambda: "6.10.5")
    described = facts.cuda_device(torch.device("cuda:0"))

    assert (described.capability, described.uuid) == ("gfx942", UUIDS[0])


def test_amds_sensors_are_unknown_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML is not even asked."""
    torch = pytest.importorskip("torch")
    from entrypoint.judge.health import state
    from entrypoint.probe import sensors

    monkeypatch.setattr(torch.version, "hip", "7.1.0")

    assert state(sensors.sensors_of(UUIDS[0]).facts()).startswith(
        "sensors not readable: they are read through NVIDIA's"
    )


def test_the_host_finds_amd_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any program of ROCm."""
    monkeypatch.setattr(machine, "PROC", tmp_path / "none")
    monkeypatch.setattr(machine, "ROOT", lay_out(tmp_path, CPU, MI300X, version="6.10.5"))

    assert machine.look() == Machine((Gpu("AMD gfx942", "gfx942", "6.10.5", AMD),))


@pytest.mark.parametrize("arch", ["gfx942", "gfx1036"])
def test_a_gpu_without_an_image_leaves_the_cpu(arch: str) -> None:
    """No AMD image can be built yet, and a small GPU in a processor never has one: the check runs, and says why."""
    choice = choose(OURS, Machine((Gpu(f"AMD {arch}", arch, None, AMD),)))

    assert choice.image.id == "sdpa-cpu-base"
    assert f"no image that can be built runs on this machine's AMD {arch}" in choice.reason


def test_nvidias_gpus_are_refused_amds_images() -> None:
    with pytest.raises(NothingFits) as caught:
        choose(OURS, Machine((Gpu("NVIDIA GeForce GTX 980", "5.2"),)))

    assert "fa2-rocm: is for GPUs of amd" in caught.value.lines
    assert "sdpa-cu128: does not run on compute capability 5.2" in caught.value.lines


def grouped(found: os.stat_result, group: int | None) -> os.stat_result:
    """The same file, of another group: only root could change the file's own."""
    return found if group is None else os.stat_result([*found[:5], group, *found[6:10]])


def test_a_container_is_given_amds_devices_and_their_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The groups by number, each once and never group 0, the image's own; no request for NVIDIA's runtime."""
    lay_out(tmp_path, MI300X, SECOND, {**SECOND, "drm_render_minor": 130}, render=(128, 129, 130))
    numbers = {"dev/kfd": 109, "dev/dri/renderD128": 44, "dev/dri/renderD129": 109, "dev/dri/renderD130": 0}
    stat = Path.stat
    monkeypatch.setattr(
        Path, "stat", lambda path, **_: grouped(stat(path), numbers.get(str(path.relative_to(tmp_path))))
    )
    here = Machine((Gpu("AMD gfx942", "gfx942", None, AMD),))

    given = devices_for(OURS, IMAGES["sdpa-rocm"], here, tmp_path)

    assert given == Given(gpus=False, paths=("/dev/kfd", "/dev/dri"), groups=("109", "44"))
    assert devices_for(OURS, IMAGES["sdpa-cu128"], here, tmp_path) == Given()
    assert devices_for(OURS, IMAGES["sdpa-cpu"], here, tmp_path) == Given()


def test_the_shown_docker_run_has_devices_and_groups() -> None:
    request = engine.Request("axolotl-attn:sdpa-rocm", devices=("/dev/kfd", "/dev/dri"), groups=("109", "44"))

    assert " ".join(request.as_docker_run()) == (
        "docker run --rm --device /dev/kfd --device /dev/dri --group-add 109 --group-add 44 axolotl-attn:sdpa-rocm"
    )
