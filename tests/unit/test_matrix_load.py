"""images.yaml as text in: a Matrix, or every mistake in it with its place."""

from pathlib import Path

import pytest
from attn_matrix import ROOT
from attn_matrix.errors import MatrixError
from attn_matrix.matrix.load import FILE, load, path, read
from pydantic import ValidationError

DATA = Path(__file__).parents[1] / "data"
VALID = (DATA / "valid.yaml").read_text(encoding="utf-8")
BROKEN = sorted((DATA / "broken").glob("*.yaml"))


def mistakes(text: str) -> tuple[str, ...]:
    with pytest.raises(MatrixError) as caught:
        load(text)
    return caught.value.lines


@pytest.mark.parametrize("broken", BROKEN, ids=lambda file: file.stem)
def test_a_broken_file_gets_exactly_its_messages(broken: Path) -> None:
    """Each file in data/broken is refused with the lines in the .txt beside it."""
    expected = broken.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    assert list(mistakes(broken.read_text(encoding="utf-8"))) == expected


def test_every_broken_file_has_its_own_first_message() -> None:
    """At least 25 different mistakes, told apart even without the place they are in."""
    first = [file.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[0] for file in BROKEN]
    assert len(first) >= 25
    assert len(set(first)) == len(first)


def test_the_images_of_this_repository() -> None:
    """The file at the root is valid, and holds the images that the README promises."""
    matrix = read(ROOT / FILE)
    ids = {image.id for image in matrix.images}
    assert {"sdpa-cpu", "flex-cpu", "sdpa-cu128", "flex-cu128", "fa4-cu128", "xformers-cu128"} <= ids


def test_its_first_line_names_the_rendered_schema() -> None:
    """An editor finds the schema by the comment in the first line."""
    first = (ROOT / FILE).read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=docker/images.schema.json"


def test_a_version_that_looks_like_a_number_stays_as_it_is_written() -> None:
    """YAML would read 2.10 as the number 2.1."""
    matrix = load(VALID.replace("torch: 2.10.0", "torch: 2.10"))
    assert matrix.platforms["cu128"].pins["torch"] == "2.10"


def test_the_matrix_is_frozen() -> None:
    """Nobody changes it after the parse."""
    with pytest.raises(ValidationError, match="frozen"):
        load(VALID).project.version = "2.0.0"


def test_an_absent_file(tmp_path: Path) -> None:
    """The message has the file's name and the system's reason."""
    with pytest.raises(MatrixError, match=r"^images\.yaml: cannot be read: No such file or directory$"):
        read(tmp_path / FILE)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    """A file in another encoding is a mistake like any other, and no traceback."""
    (tmp_path / FILE).write_bytes(b"project: \xff")
    with pytest.raises(MatrixError, match=r"^images\.yaml: not UTF-8 text: invalid start byte at byte 9$"):
        read(tmp_path / FILE)


def test_an_alias_that_holds_itself() -> None:
    """A loop in the document ends in a message."""
    assert mistakes("project: &loop [*loop]\n") == ("images.yaml:1: not usable YAML: an alias that holds itself",)


def test_two_documents() -> None:
    """One file holds one matrix."""
    (line,) = mistakes("a: 1\n---\nb: 2\n")
    assert "expected a single document" in line


@pytest.mark.parametrize("section", ["bases", "architectures", "platforms", "backends", "images", "exclusions"])
def test_a_section_of_the_wrong_kind(section: str) -> None:
    """A text where a section belongs is one mistake, and the other sections are still looked at."""
    lines = VALID.splitlines()
    start = next(index for index, line in enumerate(lines) if line == f"{section}:")
    end = next(index for index in range(start + 1, len(lines)) if not lines[index].startswith(" "))
    text = "\n".join([*lines[:start], f"{section}: something", *lines[end:]])
    kind = "a list" if section in ("images", "exclusions") else "a mapping"
    assert f"images.yaml:{start + 1}: {section}: must be {kind}, not the text 'something'" in mistakes(text)


def test_a_section_that_is_absent() -> None:
    """It is missing, once; what refers into it is not blamed for more than the name."""
    text = VALID[: VALID.index("images:")] + VALID[VALID.index("exclusions:") :]
    assert mistakes(text) == ("images.yaml:1: images: is missing",)


def test_a_broken_entry_is_still_known_by_its_name() -> None:
    """A platform with a mistake of its own is not also unknown to the images that name it."""
    assert mistakes(VALID.replace("device: cuda", "device: cudo")) == (
        "images.yaml:19: platforms.cu128.device: 'cudo' is not one of 'cpu' or 'cuda'",
    )


def test_a_misspelt_key_is_told_once() -> None:
    """What was meant is not reported as missing as well."""
    assert mistakes(VALID.replace("id: sdpa-cpu, platform:", "id: sdpa-cpu, platfrom:")) == (
        "images.yaml:34: images[0].platfrom: unknown key; did you mean 'platform'?",
    )


def test_a_capability_of_two_architectures() -> None:
    """A GPU belongs to one architecture."""
    assert mistakes(VALID.replace('capabilities: ["9.0"]', 'capabilities: ["8.6", "9.0"]')) == (
        "images.yaml:8: architectures.hopper.capabilities: '8.6' belongs to architecture 'ampere' already",
    )


def test_a_cpu_with_gpus() -> None:
    """The two kinds of platform are not mixed up."""
    assert mistakes(VALID.replace("device: cuda", "device: cpu")) == (
        "images.yaml:23: platforms.cu128.architectures: a CPU has no GPU architectures",
    )


def test_a_gpu_platform_without_architectures() -> None:
    """Without any, no cell of it could ever be checked."""
    text = VALID.replace("    architectures: [ampere, hopper]\n    pins", "    pins")
    assert "images.yaml:17: platforms.cu128.architectures: names no GPU architecture" in mistakes(text)


def test_an_exclusion_for_an_architecture_that_the_platform_does_not_have() -> None:
    """The same rule as for images."""
    assert mistakes(VALID.replace("    architectures: [ampere]\n", "    architectures: [ampere, gfx942]\n")) == (
        "images.yaml:46: exclusions[1].architectures: no GPU of platform 'cu128' has architecture 'gfx942'; "
        "known: ampere, hopper",
    )


def test_a_backend_on_an_architecture_that_does_not_exist() -> None:
    """The names in a backend's own entry are checked as well."""
    assert mistakes(VALID.replace("architectures: [ampere, hopper, gfx942]", "architectures: [ampere, hoper]")) == (
        "images.yaml:28: backends.sdpa.architectures: unknown architecture 'hoper'; did you mean 'hopper'?",
    )


def test_forward_only_on_a_platform_that_does_not_exist() -> None:
    """So is where it has no gradients."""
    entry = "    title: SDPA\n    forward_only: {platforms: [gpu], reason: none, source: https://example.org/}\n"
    assert mistakes(VALID.replace("    title: SDPA\n", entry)) == (
        "images.yaml:28: backends.sdpa.forward_only.platforms: unknown platform 'gpu'; did you mean 'cpu'?",
    )


def test_a_second_baseline() -> None:
    """One floor for one GPU and backend."""
    again = VALID + VALID.splitlines()[-1] + "\n"
    assert mistakes(again) == ("images.yaml:53: baselines[1]: a second one for 'fa4' in 's8192' on 'NVIDIA H100'",)


def test_a_narrowed_image_covers_its_architecture_alone() -> None:
    """The other architectures of its cell still need an image or an exclusion."""
    narrowed = "id: sdpa-cu128-hopper, platform: cu128, backends: [sdpa], architecture: hopper}"
    text = VALID.replace("id: sdpa-cu128, platform: cu128, backends: [sdpa]}", narrowed)
    assert mistakes(text) == (
        "images.yaml:37: exclusions: cell sdpa x cu128 (ampere) is neither an image nor an exclusion",
    )


AXOLOTL = VALID.replace("pins: {torch: 2.10.0, ", "pins: {torch: 2.10.0, axolotl: 0.16.1, ")


def test_a_base_variant_comes_with_axolotl() -> None:
    """Where a platform pins it, each image has a variant without it; a CPU's here has none to leave out."""
    assert [image.id for image in load(VALID).images] == ["sdpa-cpu", "sdpa-cu128", "fa4-cu128"]
    assert [image.id for image in load(AXOLOTL).images] == [
        "sdpa-cpu",
        "sdpa-cu128",
        "sdpa-cu128-base",
        "fa4-cu128",
        "fa4-cu128-base",
    ]


def test_a_base_variant_is_no_row() -> None:
    """It is made of the row without it."""
    assert mistakes(VALID.replace("id: fa4-cu128", "id: fa4-cu128-base")) == (
        "images.yaml:36: images[2].id: 'fa4-cu128-base' does not fit its default backend 'fa4', platform 'cu128': "
        "expected 'fa4-cu128'",
    )


def test_a_row_narrowed_to_an_architecture_that_its_platform_lacks() -> None:
    """In the row's own words."""
    assert mistakes(VALID.replace("[fa4, sdpa]}", "[fa4, sdpa], narrowed: [hoper]}")) == (
        "images.yaml:36: images[2].narrowed: no GPU of platform 'cu128' has architecture 'hoper'; "
        "did you mean 'hopper'?",
    )


def test_a_row_narrowed_to_what_its_backend_has_no_kernels_for() -> None:
    """An image that could never pass is no image."""
    assert mistakes(VALID.replace("[fa4, sdpa]}", "[fa4, sdpa], narrowed: [ampere]}")) == (
        "images.yaml:36: images[2].narrowed: 'fa4' has no kernels for 'ampere' in 'fa4-cu128-ampere'",
    )


def test_an_image_of_all_backends_holds_them_all() -> None:
    """Each that its platform has an image of."""
    row = "  - {id: all-cu128, platform: cu128, backends: [sdpa]}\nexclusions:\n"
    assert mistakes(VALID.replace("exclusions:\n", row)) == (
        "images.yaml:37: images[3].backends: 'all-cu128' is to hold every backend of its platform, and lacks 'fa4'",
    )


def test_two_backends_that_need_a_third() -> None:
    """xFormers beside FlashAttention 4 without FlashAttention 2 cannot be imported."""
    text = VALID.replace("    title: SDPA\n", "    title: SDPA\n    beside: {fa4: flex}\n")
    flex = "backends:\n  flex: {title: Flex, architectures: [hopper]}\n"
    (line, *_) = mistakes(text.replace("backends:\n", flex, 1))
    assert line.endswith("images[2].backends: 'sdpa' and 'fa4' in one image need 'flex' there too")


def test_gpus_beyond_a_platform_have_cells_and_no_image() -> None:
    """Somebody has to say why."""
    text = VALID.replace(
        "architectures: [ampere, hopper]\n    pins", "architectures: [hopper]\n    beyond: [ampere]\n    pins"
    )
    lines = mistakes(text)
    assert lines == ("images.yaml:38: exclusions: cell sdpa x cu128 (ampere) is neither an image nor an exclusion",)


def test_a_base_without_a_digest_is_for_what_cannot_be_built() -> None:
    """A tag alone can move under an image."""
    text = VALID.replace("    digest: sha256:" + "1" * 64 + "\n", "")
    assert mistakes(text)[0] == "images.yaml:3: bases.plain: has no digest, and platform 'cpu' is built from it"


def test_the_size_of_no_image() -> None:
    """An id that has gone takes its size with it."""
    text = VALID + "sizes: {fa4-cu129: {gigabytes: 8, measured: 2026-11-22}}\n"
    assert mistakes(text) == (
        "images.yaml:53: sizes.fa4-cu129: there is no image 'fa4-cu129'; did you mean 'fa4-cu128'?",
    )


WHEEL = """\
wheels:
  flash-attn-4:
    backend: fa4
    platforms: [cu128]
    sdist: {hash}
    architectures: {{hopper: ["90"]}}
"""
COMPILED = VALID.replace("    pins: {torch: 2.10.0", "    builder: plain\n    pins: {torch: 2.10.0")
COMPILED += WHEEL.format(hash="2" * 64)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "    sdist: " + "2" * 64,
            "    sdist: 2222",
            "wheels.flash-attn-4.sdist: '2222' is not a SHA-256: 64 hexadecimal",
        ),
        ("    sdist: " + "2" * 64 + "\n", "", "wheels.flash-attn-4: needs one source: either sdist or git"),
        (
            "    builder: plain\n",
            "",
            "wheels.flash-attn-4.platforms: platform 'cu128' needs one compiler for it: either",
        ),
        ("    backend: fa4\n", "    backend: sdpa\n", "wheels.flash-attn-4: is no package of backend 'sdpa'"),
        (
            "    backend: fa4\n",
            "    backend: fa5\n",
            "wheels.flash-attn-4.backend: unknown backend 'fa5'; did you mean 'fa4'?",
        ),
        (
            '{hopper: ["90"]}',
            '{hoper: ["90"]}',
            "wheels.flash-attn-4.architectures: unknown architecture 'hoper'; did you",
        ),
        (
            "    sdist:",
            "    needs: [einops]\n    sdist:",
            "wheels.flash-attn-4.needs: platform 'cu128' pins no version of 'einops'",
        ),
        ('{hopper: ["90"]}', '{ampere: ["80"]}', "cell fa4 x cu128 (hopper) is neither an image nor an exclusion"),
    ],
)
def test_a_compiled_package_with_a_mistake(before: str, after: str, said: str) -> None:
    """One source, pinned; one compiler; code for what its images claim."""
    assert "fa4-cu128" in {image.id for image in load(COMPILED).images}
    assert before in COMPILED
    assert said in "\n".join(mistakes(COMPILED.replace(before, after)))


def test_a_path_as_a_person_writes_it() -> None:
    """Keys by dots, list items by brackets."""
    assert path(("images", 2, "platform")) == "images[2].platform"
