"""What a Matrix says about its images."""

from pathlib import Path

import pytest
from attn_matrix.errors import UnknownImage
from attn_matrix.matrix.load import read
from attn_matrix.matrix.model import Image
from attn_matrix.matrix.select import pick
from attn_matrix.rendered.specs import image_specs

OURS = read(Path(__file__).parents[2] / "images.yaml")
SMALL = read(Path(__file__).parents[1] / "data" / "valid.yaml")


def image(name: str) -> Image:
    (found,) = pick(SMALL, [name])
    return found


def test_an_image_supports_what_its_default_backend_runs_on() -> None:
    """FlashAttention 4 narrows the platform, and a CPU has no architectures."""
    assert SMALL.image_architectures(image("sdpa-cu128")) == ("ampere", "hopper")
    assert SMALL.image_architectures(image("fa4-cu128")) == ("hopper",)
    assert SMALL.image_architectures(image("sdpa-cpu")) == ()


def test_an_image_narrowed_to_one_architecture() -> None:
    """Its own architecture is all that is left."""
    narrowed = Image(id="sdpa-cu128-hopper", platform="cu128", backends=("sdpa",), architecture="hopper")
    assert SMALL.image_architectures(narrowed) == ("hopper",)


def test_axolotl_brings_what_it_calls_and_a_base_variant_lacks_both() -> None:
    """FlashAttention 2 is beside SageAttention because Axolotl unpads with it; FlashAttention 4 needs none."""
    (whole, base, fa4) = (
        next(image for image in OURS.images if image.id == name)
        for name in ("sage-cu128", "sage-cu128-base", "fa4-cu128")
    )
    assert (whole.backends, base.backends) == (("sage", "fa2", "flex", "sdpa"), ("sage", "flex", "sdpa"))
    assert fa4.backends == ("fa4", "flex", "sdpa")
    assert "axolotl" in OURS.pinned_packages(whole)
    assert "axolotl" not in OURS.pinned_packages(base)
    assert (OURS.lock_name(whole), OURS.lock_name(base)) == ("cu128-axolotl", "cu128")


def test_what_is_compiled_is_not_installed_from_the_index() -> None:
    """What it needs is."""
    fa2 = next(image for image in OURS.images if image.id == "fa2-cu128-ada-base")
    assert set(OURS.compiled_wheels(fa2)) == {"flash-attn"}
    assert set(OURS.indexed_packages(fa2)) == {"einops"}
    assert "flash-attn" not in OURS.lock_pins("cu128")


def test_what_is_prebuilt_is_quick_and_no_index_has_it() -> None:
    """From source the same image compiles it; a narrowed one always does."""
    images = {image.id: image for image in OURS.images}
    fa2, hopper = images["fa2-cu128-base"], images["fa2-cu128-hopper-base"]
    assert set(OURS.prebuilt_wheels(fa2)) == set(OURS.held_wheels(fa2)) == {"flash-attn"}
    assert set(OURS.indexed_packages(fa2)) == {"einops"}
    assert OURS.quick(fa2)
    assert not OURS.quick(hopper)
    assert not OURS.from_source().quick(fa2)
    assert set(OURS.from_source().compiled_wheels(fa2)) == {"flash-attn"}
    assert not OURS.quick(images["all-cu128-base"])  # SageAttention


def test_a_prebuilt_wheel_serves_the_architectures_that_it_has_code_for() -> None:
    """Those that it lacks are cells without an image, which the matrix does not allow."""
    wheel = OURS.wheels["flash-attn"]
    less = wheel.prebuilt["cu128"].model_copy(update={"architectures": ("hopper",)})
    wheel = wheel.model_copy(update={"prebuilt": {"cu128": less}})
    matrix = OURS.model_copy(update={"wheels": {**OURS.wheels, "flash-attn": wheel}})
    images = {image.id: image for image in matrix.images}
    assert matrix.image_architectures(images["fa2-cu128"]) == ("hopper",)
    assert matrix.image_architectures(images["fa2-cu128-ada"]) == ("ada",)


def test_a_backend_serves_what_its_wheel_has_code_for() -> None:
    """Composable Kernel has none for Radeon; Triton's kernels, which nothing compiles, serve it. Sage's for Hopper are
    broken on CUDA 13.
    """
    images = {image.id: image for image in OURS.images}
    assert OURS.image_architectures(images["fa2-rocm"]) == ("gfx90a", "gfx942", "gfx950")
    assert OURS.image_architectures(images["fa2-rocm-gfx1100"]) == ("gfx1100",)
    assert OURS.backend_architectures(images["all-rocm"], "fa2") == ("gfx90a", "gfx942", "gfx950")
    assert OURS.image_architectures(images["fa2-cu128-ada"]) == ("ada",)
    assert "hopper" in OURS.image_architectures(images["sage-cu128"])
    assert "hopper" not in OURS.image_architectures(images["sage-cu130"])


def test_packages_are_torch_and_what_the_backends_need() -> None:
    """A kernel package is in no image whose backends do not need it."""
    assert SMALL.pinned_packages(image("sdpa-cu128")) == {"torch": "2.10.0"}
    assert SMALL.pinned_packages(image("fa4-cu128")) == {"torch": "2.10.0", "flash-attn-4": "4.0.0b36"}


def test_a_pinned_package_of_no_backend_is_shared_by_the_platform() -> None:
    """So numpy goes into the layer of torch, and flash-attn-4 does not."""
    platform = SMALL.platforms["cu128"].model_copy(update={"pins": {"torch": "2.10.0", "numpy": "2.4.6"}})
    matrix = SMALL.model_copy(update={"platforms": {"cu128": platform}})
    assert matrix.common_packages("cu128") == {"torch": "2.10.0", "numpy": "2.4.6"}
    assert SMALL.common_packages("cu128") == {"torch": "2.10.0"}


def test_the_base_by_digest() -> None:
    """A tag alone can move."""
    assert SMALL.base(image("sdpa-cpu")).reference == f"example.org/plain:1@sha256:{'1' * 64}"


def test_pick_by_glob_keeps_the_order_of_the_file() -> None:
    """Each image once, whatever the order of the patterns."""
    assert [found.id for found in pick(SMALL, ["fa4-*", "*-cu128"])] == ["sdpa-cu128", "fa4-cu128"]
    assert pick(SMALL, []) == SMALL.images


def test_pick_names_the_closest_for_each_unknown_id() -> None:
    """All of them at once."""
    with pytest.raises(UnknownImage) as caught:
        pick(SMALL, ["sdpa-cu129", "sdpa-cpu", "fa4cu128"])
    assert caught.value.lines == (
        "no image 'sdpa-cu129'; did you mean 'sdpa-cu128'?",
        "no image 'fa4cu128'; did you mean 'fa4-cu128'?",
    )


def test_pick_says_why_an_excluded_id_is_not_built() -> None:
    """The reason is worth more than the nearest name."""
    with pytest.raises(UnknownImage) as caught:
        pick(SMALL, ["fa4-cpu"])
    assert caught.value.lines == (
        "no image 'fa4-cpu', it is excluded (unsupported): CUDA kernels only (https://example.org/fa4)",
    )


def test_a_spec_has_the_gpus_of_its_platform() -> None:
    """Floors are the margin of what was measured, peaks are as they are; what nobody measured is null."""
    specs = image_specs(OURS)
    gpus = {gpu.name: gpu for gpu in specs["fa4-cu128"].gpus}
    h200, rtx = gpus["NVIDIA H200"], gpus["NVIDIA GeForce RTX 4090"]

    assert (h200.matmul, h200.bandwidth) == (628.1, 3708.0)
    assert (h200.peak, h200.peak_eight_bit) == (989, 1979)
    assert (rtx.matmul, rtx.bandwidth) == (None, None)
    assert not [name for name in gpus if name.startswith("AMD")]
    assert specs["sdpa-cpu"].gpus == ()
