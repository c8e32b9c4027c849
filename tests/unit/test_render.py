"""The generated files: what is in them, and that a stale one is noticed."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attn_matrix import ROOT
from attn_matrix.cli import main
from attn_matrix.commands.generated import document
from attn_matrix.errors import MatrixError
from attn_matrix.matrix.load import FILE, load, read
from attn_matrix.matrix.model import Matrix
from attn_matrix.rendered.bake import (
    ARGUMENTS,
    AXOLOTL_ARGUMENTS,
    DOCKERFILE,
    PREBUILT_ARGUMENTS,
    SHARED_ARGUMENTS,
    WHEEL_ARGUMENTS,
)
from attn_matrix.rendered.files import FROM_SOURCE, differences, render, rendered, write
from attn_matrix.rendered.specs import image_specs

from entrypoint.spec import from_json

DATA = Path(__file__).parents[1] / "data"
SMALL = read(DATA / "valid.yaml")
OURS = read(ROOT / FILE)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A directory with the small matrix, and nothing rendered yet."""
    shutil.copy(DATA / "valid.yaml", tmp_path / FILE)
    return tmp_path


def bake(matrix: Matrix) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(render(matrix, {})["docker/bake.json"])
    return parsed


def test_the_generated_files_of_this_repository_are_fresh() -> None:
    """What `nox -s render -- --check` says."""
    assert differences(ROOT, rendered(ROOT)) == {}


def test_rendering_is_deterministic() -> None:
    """The same bytes in a process with another hash seed."""
    code = "import sys; from pathlib import Path; from attn_matrix.matrix.load import read"
    code += "; from attn_matrix.rendered.files import render"
    code += f"; sys.stdout.write(repr(render(read(Path({str(ROOT / FILE)!r})), {{}})))"
    outputs = [
        subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={"PYTHONPATH": f"{ROOT / 'docker'}:{ROOT}", "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] == repr(render(OURS, {}))


def test_a_target_for_each_image_and_a_group_for_each_platform() -> None:
    """`docker buildx bake cpu` builds the images of that platform, and no name at all builds every one."""
    document = bake(SMALL)
    assert list(document["target"]) == ["torch-cpu", "torch-cu128", "sdpa-cpu", "sdpa-cu128", "fa4-cu128"]
    assert document["group"] == {
        "default": {"targets": ["sdpa-cpu", "sdpa-cu128", "fa4-cu128"]},
        "cpu": {"targets": ["sdpa-cpu"]},
        "cu128": {"targets": ["sdpa-cu128", "fa4-cu128"]},
    }


def test_images_of_a_platform_start_from_one_target() -> None:
    """Built side by side, each would install torch for itself, and they would share no layer."""
    targets = bake(SMALL)["target"]
    for name in ("sdpa-cu128", "fa4-cu128"):
        assert targets[name]["contexts"] == {"stack": "target:torch-cu128"}
    shared = targets["torch-cu128"]["args"]
    assert shared.items() <= targets["fa4-cu128"]["args"].items()
    assert shared.keys() == set(SHARED_ARGUMENTS)


def test_axolotl_is_between_torch_and_the_kernels() -> None:
    """In a layer that all images share but the `-base` ones, from a lock that the torch layer does not read."""
    targets = bake(OURS)["target"]
    axolotl = targets["axolotl-cu128"]
    assert axolotl["contexts"] == {"torch": "target:torch-cu128"}
    assert axolotl["args"]["AXOLOTL"] == f"axolotl=={OURS.platforms['cu128'].pins['axolotl']}"
    assert axolotl["args"]["LOCK"] == "docker/locks/cu128-axolotl.txt"
    assert targets["torch-cu128"]["args"]["LOCK"] == "docker/locks/cu128.txt"
    assert "axolotl" not in targets["torch-cu128"]["args"]["TORCH"]
    assert targets["sdpa-cu128"]["contexts"]["stack"] == "target:axolotl-cu128"
    assert targets["sdpa-cu128-base"]["contexts"]["stack"] == "target:torch-cu128"


def test_a_wheel_is_one_target_for_all_images_that_hold_it() -> None:
    """Compiled once; narrowed images have one of their own, with that architecture's code alone."""
    targets = bake(OURS)["target"]
    held = {name: targets[name]["contexts"].get("fa2") for name in ("fa2-cu128", "sage-cu128", "all-cu128-base")}
    assert set(held.values()) == {"target:fa2-wheel-cu128"}
    compiled = bake(OURS.from_source())["target"]
    assert compiled["fa2-wheel-cu128"]["args"]["ARCHS"] == "80;90;100;120"
    assert targets["fa2-cu128-hopper"]["contexts"]["fa2"] == "target:fa2-wheel-cu128-hopper"
    assert targets["fa2-wheel-cu128-hopper"]["args"]["ARCHS"] == "90"
    assert compiled["fa2-wheel-cu128"]["contexts"] == {"torch": "target:torch-cu128"}
    assert bake(OURS)["group"]["wheels"]["targets"] == [name for name in targets if "-wheel-" in name]


def test_a_wheel_is_made_from_what_is_pinned() -> None:
    """A source distribution by hash, a tree by commit, and a compiler by digest or from the lock."""
    targets = bake(OURS.from_source())["target"]
    fa2, fa3, sage = (targets[f"{name}-wheel-cu128"] for name in ("fa2", "fa3", "sage"))
    assert re.fullmatch(r"flash-attn==[0-9.]+(post[0-9]+)?", fa2["args"]["SOURCE"])
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", fa2["args"]["SOURCE_HASH"])
    assert re.fullmatch(r"https://github.com/Dao-AILab/flash-attention.git#[0-9a-f]{40}", fa3["contexts"]["source"])
    assert re.fullmatch(r"https://github.com/thu-ml/SageAttention.git#[0-9a-f]{40}", sage["contexts"]["source"])
    assert fa3["args"]["SOURCE"] == fa3["contexts"]["source"]
    assert sage["args"]["ARCHS"] == "8.0;8.6;8.9;9.0a"
    assert re.search(r"/nvidia/cuda:12\.8\.[0-9].*@sha256:[0-9a-f]{64}$", fa2["args"]["BUILDER"])
    cu130 = targets["fa2-wheel-cu130"]["args"]
    assert cu130["BUILDER"] == "toolkit"
    assert "nvidia-cuda-nvcc==13.0." in cu130["TOOLKIT"]


def test_a_prebuilt_wheel_is_downloaded_by_hash() -> None:
    """By a target of the same name, that needs neither torch nor a compiler; a narrowed image compiles its own."""
    targets = bake(OURS)["target"]
    for name in ("fa2-wheel-cu128", "fa2-wheel-cu130", "fa3-wheel-cu128", "fa3-wheel-cu130"):
        target = targets[name]
        assert target["target"] == "prebuilt"
        assert "contexts" not in target
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", target["args"]["WHEEL_HASH"])
        assert target["args"]["WHEEL_URL"].startswith("https://github.com/mjun0812/")
        assert re.fullmatch(r"flash_attn(_3)?-[0-9.]+\+cu1[23].+\.whl", target["args"]["WHEEL_FILE"])
    assert targets["fa2-cu128"]["contexts"]["fa2"] == "target:fa2-wheel-cu128"
    assert targets["fa2-wheel-cu128-hopper"]["target"] == "fa2-wheel"
    assert targets["sage-wheel-cu128"]["target"] == "sage-wheel"


def test_from_source_is_merged_over_the_bake_file() -> None:
    """It compiles what is prebuilt, and gives its images the label and the spec of what they hold then."""
    ours, compiled = bake(OURS)["target"], bake(OURS.from_source())["target"]
    over = json.loads(render(OURS, {})[FROM_SOURCE])["target"]
    assert over["fa2-cu128"]["labels"] == compiled["fa2-cu128"]["labels"]
    assert "flash-attn==2.8.3.post2" in over["fa2-cu128"]["labels"]["dev.axolotl-attn.packages"]
    assert "flash-attn==2.8.3+cu128torch2.10" in ours["fa2-cu128"]["labels"]["dev.axolotl-attn.packages"]
    assert ours["fa2-cu128"]["labels"]["dev.axolotl-attn.prebuilt"].startswith("flash-attn@sha256:")
    assert over["fa2-cu128"]["labels"]["dev.axolotl-attn.prebuilt"] == ""
    assert over["fa2-cu128"]["args"] == {"SPEC": "docker/specs/fa2-cu128.from-source.json"}
    differing = {name for name, target in ours.items() if target != compiled[name]}
    assert set(over) == differing


def test_the_spec_names_the_version_that_the_image_holds_and_what_is_wrong_with_it() -> None:
    """2.8.3 as prebuilt; compiled from source, the newer one, of which nothing is known to be wrong."""
    specs = {
        name: from_json((ROOT / f"docker/specs/{name}.json").read_text(encoding="utf-8"))
        for name in (
            "fa2-cu128",
            "fa2-cu128.from-source",
            "fa2-cu128-hopper",
            "fa3-cu130",
        )
    }
    held = {name: spec.packages.get("flash-attn") for name, spec in specs.items()}
    newer = OURS.platforms["cu128"].pins["flash-attn"]
    assert held == {
        "fa2-cu128": "2.8.3+cu128torch2.10",
        "fa2-cu128.from-source": newer,
        "fa2-cu128-hopper": newer,
        "fa3-cu130": None,
    }
    (known,) = specs.pop("fa2-cu128").limitations
    assert (known.package, known.version) == ("flash-attn", "2.8.3+cu128torch2.10")
    assert "2^31" in known.what
    assert [spec.limitations for spec in specs.values()] == [(), (), ()]


def test_amd_gets_composable_kernel_or_triton() -> None:
    """The plain wheel holds both; one for a GPU without Composable Kernel's code compiles nothing."""
    targets = bake(OURS)["target"]
    assert targets["fa2-wheel-rocm"]["args"]["ARCHS"] == "gfx90a;gfx942;gfx950"
    assert targets["fa2-wheel-rocm-gfx1100"]["args"]["ARCHS"] == ""
    assert targets["fa2-rocm"]["args"]["TRITON_AMD"] == "FALSE"
    assert targets["fa2-rocm-gfx1100"]["args"]["TRITON_AMD"] == "TRUE"
    assert targets["fa2-wheel-rocm"]["args"]["COMPILER"] == "/opt/rocm"


def test_an_extra_is_asked_for_with_its_package() -> None:
    """FlashAttention 4's compiler has one part for CUDA 12 and one for CUDA 13."""
    targets = bake(OURS)["target"]
    assert targets["fa4-cu128-base"]["args"]["KERNELS"] == "flash-attn-4==4.0.0b36"
    assert targets["fa4-cu130-base"]["args"]["KERNELS"] == "flash-attn-4[cu13]==4.0.0b36"


def test_the_arguments_of_an_image() -> None:
    """Every version that its build uses."""
    assert bake(SMALL)["target"]["fa4-cu128"]["args"] == {
        "BASE": f"example.org/plain:1@sha256:{'1' * 64}",
        "PYTHON": "3.11",
        "PLATFORM": "cu128",
        "LOCK": "docker/locks/cu128.txt",
        "TORCH": "torch==2.10.0",
        "TORCH_BACKEND": "",
        "KERNELS": "flash-attn-4==4.0.0b36",
        "MENDS": "",
        "CHOICES": "",
        "COMPILE_FOR": "",
        "HEAD_DIMS": "",
        "START_FOR": "",
        "TRITON_AMD": "FALSE",
        "IMAGE_ID": "fa4-cu128",
        "SPEC": "docker/specs/fa4-cu128.json",
    }


def test_an_image_compiles_kernels_for_what_its_backend_runs_on() -> None:
    """By NVIDIA's names of the architectures; an image without such a backend compiles none."""
    targets = bake(OURS)["target"]
    given = {
        name: [targets[name]["args"][key] for key in ("COMPILE_FOR", "HEAD_DIMS")]
        for name in (image.id for image in OURS.images)
    }
    assert given["fa4-cu128"] == given["all-cu130-base"] == ["sm_90 sm_100 sm_120", "64 128"]
    assert given["fa4-cu128-hopper"] == ["sm_90", "64 128"]
    assert all(each == ["", ""] for name, each in given.items() if name.partition("-")[0] not in ("fa4", "all"))
    assert given["all-rocm"] == ["", ""]


def test_an_image_compiles_the_start_of_what_triton_compiles() -> None:
    """For all GPUs that FlexAttention runs on in it; nobody does for a CPU, for AMD's GPUs or without FlexAttention."""
    targets = bake(OURS)["target"]
    given = {image.id: targets[image.id]["args"]["START_FOR"] for image in OURS.images}
    assert given["flex-cu128"] == given["s2-cu128-base"] == "sm_80 sm_86 sm_89 sm_90 sm_100 sm_120"
    assert given["fa4-cu128-hopper"] == "sm_90"
    assert "sm_103" in given["flex-cu130"].split()
    assert [given[name] for name in ("sdpa-cu128", "flex-cpu", "flex-rocm", "all-rocm")] == [""] * 4


def test_the_cpu_build_of_torch_comes_from_pytorchs_index() -> None:
    """Where the package index has only the CUDA build."""
    assert bake(OURS)["target"]["sdpa-cpu"]["args"]["TORCH_BACKEND"] == "cpu"


def test_the_dockerfile_declares_every_argument() -> None:
    """An argument that it does not know would be dropped in silence."""
    text = (ROOT / DOCKERFILE).read_text(encoding="utf-8")
    declared = set(re.findall(r"^ARG (\w+)", text, re.MULTILINE))
    targets = bake(OURS)["target"]
    assert set(targets["sdpa-cpu"]["args"]) == set(ARGUMENTS)
    assert set(targets["axolotl-cpu"]["args"]) == set(AXOLOTL_ARGUMENTS)
    assert set(targets["sage-wheel-cu128"]["args"]) == set(WHEEL_ARGUMENTS)
    assert set(targets["fa2-wheel-cu128"]["args"]) == set(PREBUILT_ARGUMENTS)
    assert declared == {*ARGUMENTS, *AXOLOTL_ARGUMENTS, *WHEEL_ARGUMENTS, *PREBUILT_ARGUMENTS}


@pytest.mark.parametrize("name", ["contexts", "target"])
def test_the_dockerfile_has_every_stage_that_bake_names(name: str) -> None:
    """A context by another name would replace nothing, and an image would be without its wheel."""
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", (ROOT / DOCKERFILE).read_text(encoding="utf-8"), re.MULTILINE))
    targets = bake(OURS)["target"].values()
    named = {each["target"] for each in targets} if name == "target" else {c for t in targets for c in t.get(name, ())}
    assert named <= stages


def test_the_labels_of_an_image() -> None:
    """A registry's user sees what is inside without pulling it."""
    labels = bake(SMALL)["target"]["fa4-cu128"]["labels"]
    assert labels["org.opencontainers.image.title"] == "small fa4-cu128"
    assert labels["org.opencontainers.image.base.digest"] == f"sha256:{'1' * 64}"
    assert labels["dev.axolotl-attn.backends"] == "fa4,sdpa"
    assert labels["dev.axolotl-attn.architectures"] == "hopper"
    assert labels["dev.axolotl-attn.packages"] == "torch==2.10.0,flash-attn-4==4.0.0b36"


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker program with buildx")
def test_buildx_merges_what_is_compiled_over_what_is_downloaded() -> None:
    """Then the targets of wheels are those of a matrix with nothing prebuilt, and their images have its labels."""
    command = ["docker", "buildx", "bake", "-f", "docker/bake.json", "-f", FROM_SOURCE, "--print", "fa2-cu128"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    merged, compiled = json.loads(done.stdout)["target"], bake(OURS.from_source())["target"]
    wheel, expected = merged["fa2-wheel-cu128"], compiled["fa2-wheel-cu128"]
    assert (wheel["target"], wheel["contexts"]) == (expected["target"], expected["contexts"])
    assert wheel["args"] == {"WHEEL_URL": "", "WHEEL_HASH": "", "WHEEL_FILE": ""} | expected["args"]
    assert merged["fa2-cu128"]["labels"] == compiled["fa2-cu128"]["labels"]


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker program with buildx")
def test_buildx_accepts_the_bake_file() -> None:
    """And reads from it what we wrote."""
    targets = [*bake(OURS)["target"]]
    command = ["docker", "buildx", "bake", "-f", "docker/bake.json", "--print", *targets]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(json.loads(printed)["target"]) == set(targets)


@pytest.mark.parametrize("name", [image.id for image in OURS.images])
def test_the_container_reads_back_the_spec(name: str) -> None:
    """What is written is what the entrypoint's own parser gets."""
    assert from_json(render(OURS, {})[f"docker/specs/{name}.json"]) == image_specs(OURS)[name]


def test_the_claims_of_a_spec() -> None:
    """Its backends with what they run on, the driver, and the architectures of the whole platform."""
    spec = image_specs(SMALL)["fa4-cu128"]
    assert (spec.device, spec.driver, spec.supported) == ("cuda", "525.60.13", ("hopper",))
    assert spec.architectures == {"ampere": ("8.0", "8.6"), "hopper": ("9.0",)}
    assert [(backend.name, backend.architectures) for backend in spec.backends] == [
        ("fa4", ("hopper",)),
        ("sdpa", ("ampere", "hopper")),
    ]


def test_a_backend_without_gradients_says_so() -> None:
    """FlexAttention on a CPU, and there only."""
    specs = image_specs(OURS)
    assert [backend.gradients for backend in specs["flex-cpu"].backends] == [False, True]
    assert [backend.gradients for backend in specs["flex-cu128"].backends] == [True, True]


def test_a_floor_is_the_margin_of_what_was_measured() -> None:
    """0.6 of 0.5 and of 0.25, with the source of the numbers."""
    (floor,) = image_specs(SMALL)["fa4-cu128"].floors
    assert (floor.gpu, floor.backend, floor.forward, floor.backward) == ("NVIDIA H100", "fa4", 0.3, 0.15)
    assert floor.source == "0.6 of what was measured: an example"


def test_floors_are_for_the_backends_of_an_image_on_a_gpu() -> None:
    """Neither another image's backend nor a CPU has one."""
    assert image_specs(SMALL)["sdpa-cu128"].floors == ()
    assert "sdpa" in {baseline.backend for baseline in OURS.baselines}
    assert image_specs(OURS)["sdpa-cpu"].floors == ()


def test_siblings_are_the_nearest_image_for_each_other_machine() -> None:
    """For FlashAttention 4: SDPA on an older GPU, and on a machine without one, where FlexAttention cannot train."""
    siblings = image_specs(SMALL)["fa4-cu128"].siblings
    assert [(other.id, other.architectures) for other in siblings] == [
        ("sdpa-cu128", ("ampere", "hopper")),
        ("sdpa-cpu", ()),
    ]
    assert [other.id for other in image_specs(OURS)["flex-cu128"].siblings] == [
        "sdpa-cu128",
        "flex-cu130",
        "sdpa-cpu",
    ]


def test_siblings_are_of_the_same_kind_and_can_be_built() -> None:
    """A `-base` variant names others without Axolotl, and nobody is sent to an image that has no lock."""
    specs = image_specs(OURS)
    assert [other.id for other in specs["flex-cu128-base"].siblings] == [
        "sdpa-cu128-base",
        "flex-cu130-base",
        "sdpa-cpu-base",
    ]
    assert not [other.id for spec in specs.values() for other in spec.siblings if other.platform == "rocm"]


def test_a_spec_knows_the_gpus_that_its_platform_does_not_run_on() -> None:
    """So that a start on a B300 says what it is, and which image runs there."""
    spec = image_specs(OURS)["fa4-cu128"]
    assert spec.architecture_of("10.3") == "blackwellultra"
    assert "blackwellultra" not in spec.supported
    assert "fa4-cu130" in [other.id for other in spec.siblings]


def test_the_schema_refuses_unknown_keys() -> None:
    """So an editor underlines them."""
    schema = json.loads(render(SMALL, {})["docker/images.schema.json"])
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Row"]["additionalProperties"] is False
    assert set(schema["required"]) >= {"project", "platforms", "images", "exclusions"}


def test_every_generated_json_says_that_it_is_generated() -> None:
    """Nobody edits it by hand."""
    files = render(SMALL, {})
    for name in (name for name in files if name.endswith(".json")):
        assert "Generated from images.yaml" in files[name].splitlines()[1], name


def test_the_page_of_images_has_every_image_every_cell_and_every_reason() -> None:
    """It is generated whole."""
    text = render(SMALL, {})["docker/IMAGES.md"]
    assert text.startswith("# Images\n\n<!-- Generated from images.yaml")
    assert "| `fa4-cu128` | fa4, sdpa | torch 2.10.0, flash-attn-4 4.0.0b36 | hopper |  |  |" in text
    assert "GPU architectures: ampere (A100), hopper (H100).\n" in text
    assert "| cu128 | ampere | hopper |" in text
    assert "| fa4 | no: 2 | `fa4-cu128` |" in text
    assert "| 1 | fa4 x cpu | unsupported: CUDA kernels only ([source](https://example.org/fa4)) | 2027-11-22 |" in text


def test_a_measured_size_is_in_the_table() -> None:
    """Only when it was measured."""
    text = (DATA / "valid.yaml").read_text(encoding="utf-8")
    matrix = load(text + "sizes: {fa4-cu128: {gigabytes: 7.95, measured: 2026-11-22}}\n")
    assert "| hopper | 7.95 GB |" in render(matrix, {})["docker/IMAGES.md"]


def test_a_lock_that_does_not_hold_the_pins() -> None:
    """images.yaml and the lock must not say different things."""
    lock = "torch==2.10.1 \\\n    --hash=sha256:00\n"
    with pytest.raises(MatrixError) as caught:
        render(SMALL, {"cu128": lock})
    place = "images.yaml: platforms.cu128.pins"
    assert caught.value.lines == (
        f"{place}.torch: 2.10.0 is pinned, but docker/locks/cu128.txt has 2.10.1",
        f"{place}.flash-attn-4: 4.0.0b36 is pinned, but docker/locks/cu128.txt has no version of it",
    )


def test_a_lock_that_does() -> None:
    """Markers and hashes do not matter."""
    lock = "# a comment\ntorch==2.10.0 \\\n    --hash=sha256:00\nflash-attn-4==4.0.0b36 ; sys_platform == 'linux' \\\n"
    assert "docker/bake.json" in render(SMALL, {"cu128": lock})


def test_write_changes_what_differs_and_removes_what_no_image_owns(repository: Path) -> None:
    """A second run has nothing to do."""
    stranger = repository / "docker" / "specs" / "fa9-cu128.json"
    stranger.parent.mkdir(parents=True)
    stranger.write_text("{}", encoding="utf-8")
    files = rendered(repository)
    changes = write(repository, files)
    assert "wrote docker/bake.json" in changes
    assert "removed docker/specs/fa9-cu128.json" in changes
    assert not stranger.exists()
    assert write(repository, files) == []


def test_check_finds_stale_absent_and_foreign_files(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One diff for each, exit code 1, and nothing is written."""
    assert main(["--root", str(repository), "render"]) == 0
    assert main(["--root", str(repository), "render", "--check"]) == 0
    specs = repository / "docker" / "specs"
    stale, absent, foreign = specs / "fa4-cu128.json", specs / "sdpa-cpu.json", specs / "other.json"
    stale.write_text(stale.read_text(encoding="utf-8").replace("4.0.0b36", "4.0.0b35"), encoding="utf-8")
    absent.unlink()
    foreign.write_text("{}\n", encoding="utf-8")
    capsys.readouterr()
    assert main(["--root", str(repository), "render", "--check"]) == 1
    out, err = capsys.readouterr()
    assert '-    "flash-attn-4": "4.0.0b35"' in out
    assert '+    "flash-attn-4": "4.0.0b36"' in out
    assert err.splitlines() == [
        "error: docker/specs/sdpa-cpu.json is not what images.yaml says",
        "error: docker/specs/fa4-cu128.json is not what images.yaml says",
        "error: docker/specs/other.json is not what images.yaml says",
        "error: run: nox -s render",
    ]
    assert foreign.exists()
    assert not absent.exists()


@pytest.mark.parametrize("count", [1, 40, 45])
def test_the_generator_of_the_benchmark_makes_valid_matrices(count: int) -> None:
    """As many images as asked for, each rendered."""
    matrix = load(document(count))
    assert len(matrix.images) == count
    assert sum(name.startswith("docker/specs/") for name in render(matrix, {})) == count
