"""Mends: that each does what it says, with stubs of what it mends, and that they are put on when a module is imported.

The tests that images.yaml names fail without their mend: the stubs do what the packages do.
"""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from attn_matrix import ROOT
from attn_matrix.commands import inspection_rules as rules
from attn_matrix.matrix.load import FILE, read
from attn_matrix.rendered.bake import arguments
from attn_matrix.rendered.specs import image_specs
from inside.facts import Installed

from entrypoint.arguments import usage
from entrypoint.errors import ConfigError
from entrypoint.settings import read as read_settings

MATRIX = read(ROOT / FILE)
INSTALL = ROOT / "docker/scripts/install-mends"
SOURCE = ROOT / "docker/mends/attn_mends"


def mended(name: str, **stub: Any) -> ModuleType:
    """A module with what `stub` says, after the mend of this name."""
    module = ModuleType("stub")
    vars(module).update(stub)
    spec = importlib.util.spec_from_file_location(name, SOURCE / f"{name.replace('-', '_')}.py")
    assert spec is not None
    assert spec.loader is not None
    wrapper = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(wrapper)
    wrapper.mend(module)
    return module


class Scalar:
    """A tensor of one number, as far as `int` sees it."""

    def __int__(self) -> int:
        return 448


def flash_attn_varlen_func(q: str, *, max_seqlen_q: int | None = None, max_seqlen_k: int | None = None) -> str:
    """What CuTe DSL says to anything but an integer."""
    for length in (max_seqlen_q, max_seqlen_k):
        if not isinstance(length, int | None):
            raise ValueError("Expected IntTuple, whose leaves are integers")
    return f"{q} {max_seqlen_q} {max_seqlen_k}"


def test_flash_attention_4_gets_integers() -> None:
    """Tensors of one number become integers, integers and None stay, and the signature is the function's own."""
    function: Callable[..., str] = mended(
        "flash-attn-4-max-seqlen", flash_attn_varlen_func=flash_attn_varlen_func
    ).flash_attn_varlen_func
    assert function("q", max_seqlen_q=Scalar(), max_seqlen_k=Scalar()) == "q 448 448"
    assert function("q", max_seqlen_q=7) == "q 7 None"
    assert inspect.signature(function) == inspect.signature(flash_attn_varlen_func)


def test_axolotl_takes_flash_attention_4() -> None:
    """It is a value, and one that packs; what was there stays."""
    lists = {each: frozenset({"sdpa"}) for each in ("CANONICAL_ATTN_IMPLS", "ATTN_IMPLS_SUPPORTING_PACKING")}
    module = mended("axolotl-flash-attention-4", **lists)
    assert {name: getattr(module, name) for name in lists} == {name: {"sdpa", "flash_attention_4"} for name in lists}


class Builder:
    """Axolotl's, as far as its hook sees it: the hook has the last word on the training arguments."""

    def __init__(self, attention: str | None) -> None:
        self.cfg = SimpleNamespace(attn_implementation=attention)

    def hook_pre_create_training_args(self, given: dict[str, Any]) -> dict[str, Any]:
        return given


@pytest.mark.parametrize(
    ("attention", "packing", "dropped"),
    [("sdpa", True, True), ("eager", True, True), (None, True, True), ("sdpa", False, False), ("fp8", True, False)],
)
def test_axolotl_packs_without_a_mask(attention: str | None, packing: bool, dropped: bool) -> None:
    """Where documents are packed and the kernel takes a mask, there is none; anything else stays as it was."""
    builder = type("Builder", (Builder,), {})
    mended("axolotl-packing-without-mask", HFCausalTrainerBuilder=builder)
    given = {"sample_packing": packing, "sample_packing_drop_attention_mask": False}
    made = builder(attention).hook_pre_create_training_args(given)
    assert made == {"sample_packing": packing, "sample_packing_drop_attention_mask": dropped}


def get_kernel(repo_id: str, version: int = 1) -> str:
    return f"fetched {repo_id} {version}"


@pytest.mark.parametrize("value", ["0", "off", "no"])
def test_a_switched_off_hub_is_not_asked(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Whatever transformers would fetch: the request is refused by name, before anything is asked."""
    module = mended("kernels-of-the-hub", get_kernel=get_kernel)
    monkeypatch.setenv("USE_HUB_KERNELS", value)

    with pytest.raises(RuntimeError, match=f"org/flash-attn2 is not fetched: USE_HUB_KERNELS={value} keeps"):
        module.get_kernel("org/flash-attn2", version=3)


@pytest.mark.parametrize("value", [None, "1", "yes"])
def test_a_switched_on_hub_is_asked(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    """As transformers reads it: without the variable, or with a true value, kernels come from the hub."""
    module = mended("kernels-of-the-hub", get_kernel=get_kernel)
    monkeypatch.delenv("USE_HUB_KERNELS", raising=False)
    if value is not None:
        monkeypatch.setenv("USE_HUB_KERNELS", value)

    assert module.get_kernel("org/flash-attn2", version=3) == "fetched org/flash-attn2 3"


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment with a package `thing` 1.0, whose module says what it is; its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv/bin/python"
    site = tmp_path / f"venv/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (site / "thing").mkdir()
    (site / "thing/__init__.py").touch()
    (site / "thing/part.py").write_text("VALUE = 'broken'\n")
    (site / "thing-1.0.dist-info").mkdir()
    (site / "thing-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
    source = tmp_path / "attn_mends"
    source.mkdir()
    (source / "__init__.py").write_bytes((SOURCE / "__init__.py").read_bytes())
    (source / "thing_value.py").write_text("def mend(module):\n    module.VALUE += ' no more'\n")
    (source / "thing_fast.py").write_text("def choose(module):\n    module.VALUE += ', fast'\n    return 'fast now'\n")
    return python


def install(python: Path, *mends: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), str(INSTALL), str(python.parents[2] / "attn_mends"), *mends]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def said(python: Path, code: str, *options: str, asked: str = "thing") -> subprocess.CompletedProcess[str]:
    """What a Python says that was started with ATTN_BACKEND=`asked`."""
    command = [str(python), *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={"ATTN_BACKEND": asked})


def test_a_module_is_mended_when_it_is_imported(venv: Path) -> None:
    """By whatever imports it; its loader stays Python's own, and modules that no mend names are left alone."""
    assert install(venv, "thing-value:thing.part:thing==1.0").returncode == 0
    code = "from thing.part import VALUE; import thing.part as p; print(VALUE, type(p.__spec__.loader).__name__)"
    assert said(venv, code).stdout == "broken no more SourceFileLoader\n"
    assert said(venv, "import sys, thing; print('thing.part' in sys.modules)").stdout == "False\n"


def test_waiting_for_a_module_imports_next_to_nothing(venv: Path) -> None:
    """Every start of Python pays for it; typing alone would be ten times the rest."""
    code = "import sys; print(*sys.modules)"
    before = set(said(venv, code).stdout.split())
    assert install(venv, "thing-value:thing.part:thing==1.0").returncode == 0
    added = set(said(venv, code).stdout.split()) - before
    assert "attn_mends" in added
    assert {
        name for name in added if not name.startswith(("attn_mends", "importlib", "_abc", "warnings", "__future__"))
    } == set()


def test_without_site_there_is_none(venv: Path) -> None:
    """As the entrypoint's own Python starts."""
    install(venv, "thing-value:thing.part:thing==1.0")
    assert said(venv, "import sys; print('attn_mends' in sys.modules)", "-I", "-S").stdout == "False\n"


@pytest.mark.parametrize("requirement", ["thing==2.0", "other==1.0"])
def test_another_version_is_refused_at_the_build(venv: Path, requirement: str) -> None:
    """So is a package that is not there; nothing is installed then."""
    done = install(venv, f"thing-value:thing.part:{requirement}")
    package, _, version = requirement.partition("==")
    found = "1.0" if package == "thing" else "not installed"
    assert done.returncode == 1
    assert f"thing-value is for {package} {version}, which is {found} here" in done.stderr
    assert said(venv, "import thing.part; print(thing.part.VALUE)").stdout == "broken\n"


def test_another_version_at_run_time_is_not_mended_and_said(venv: Path) -> None:
    """Somebody has installed it over the image's."""
    assert install(venv, "thing-value:thing.part:thing==1.0").returncode == 0
    metadata = next(venv.parents[1].glob("lib/*/site-packages/thing-1.0.dist-info/METADATA"))
    metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
    done = said(venv, "import thing.part; print(thing.part.VALUE)")
    assert done.stdout == "broken\n"
    assert "is not mended (thing_value): that is for thing 1.0, not 1.1" in done.stderr


def test_every_file_is_recorded(venv: Path) -> None:
    """As a distribution that `inspect` finds whole; and an image without a mend gets none of it."""
    site = next(venv.parents[1].glob("lib/*/site-packages"))
    assert install(venv).returncode == 0
    assert not [*site.glob("*attn_mends*")]
    assert install(venv, "thing-value:thing.part:thing==1.0").returncode == 0
    code = "from importlib.metadata import files\nfor f in files('axolotl-attn-mends'): print(f, f.locate().is_file())"
    recorded = {line.removesuffix(" True") for line in said(venv, code).stdout.splitlines()}
    there = {str(path.relative_to(site)) for path in site.glob("*attn_mends*/*") if path.is_file()}
    assert recorded == {*there, "axolotl_attn_mends.pth"}
    assert {f"attn_mends/{name}.py" for name in ("__init__", "_table", "thing_value")} < recorded


def test_a_choice_is_made_where_it_is_asked_for(venv: Path) -> None:
    """After the mends of the same module, and said on stderr; with another ATTN_BACKEND, or none, nothing happens."""
    assert install(venv, "thing-fast:thing.part", "thing-value:thing.part:thing==1.0").returncode == 0
    code = "import thing.part; print(thing.part.VALUE)"
    done = said(venv, code, asked="thing-fast")
    assert done.stdout == "broken no more, fast\n"
    assert done.stderr == "axolotl-attn: ATTN_BACKEND=thing-fast: fast now\n"
    for other in ("thing", ""):
        done = said(venv, code, asked=other)
        assert (done.stdout, done.stderr) == ("broken no more\n", "")


def test_a_choice_alone_is_installed_too(venv: Path) -> None:
    """As in an image without Axolotl; a module whose choice nobody asks for keeps Python's own loading."""
    assert install(venv, "thing-fast:thing.part").returncode == 0
    code = "import thing.part as p; print(p.VALUE, 'exec_module' in vars(p.__spec__.loader))"
    assert said(venv, code, asked="thing-fast").stdout == "broken, fast True\n"
    assert said(venv, code, asked="thing").stdout == "broken False\n"


def test_torch_prefers_cudnn() -> None:
    """With the torch that is here: cuDNN first, the others after it in the order that they had; then torch's again."""
    import torch

    before = torch._C._get_sdp_priority_order()
    cudnn = int(torch.nn.attention.SDPBackend.CUDNN_ATTENTION)
    spec = importlib.util.spec_from_file_location("sdpa_cudnn", SOURCE / "sdpa_cudnn.py")
    assert spec is not None
    assert spec.loader is not None
    choice = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(choice)
    assert before[0] != cudnn
    try:
        assert "torch prefers cuDNN's attention" in choice.choose(torch)
        assert torch._C._get_sdp_priority_order() == [cudnn, *(kernel for kernel in before if kernel != cudnn)]
    finally:
        torch._C._set_sdp_priority_order(before)


def test_every_wrapper_is_named_and_every_mend_has_its_test() -> None:
    """Under the names that images.yaml gives to mends and kernels, and no wrapper is left that nothing names."""
    wrappers = {path.stem.replace("_", "-") for path in SOURCE.glob("[a-z]*.py")}
    kernels = {f"{name}-{kernel}" for name, backend in MATRIX.backends.items() for kernel in backend.kernels}
    assert kernels == {"sdpa-cudnn"}
    assert wrappers == MATRIX.mends.keys() | kernels
    for mend in MATRIX.mends.values():
        path, _, test = mend.test.partition("::")
        assert f"\ndef {test}(" in (ROOT / path).read_text(encoding="utf-8")


def test_the_kernel_is_offered_where_it_runs() -> None:
    """In every image with SDPA for NVIDIA's GPUs from Ampere on, its build included; ROCm and a CPU have no cuDNN."""
    offered = {image.id: MATRIX.image_kernels(image) for image in MATRIX.images}
    specs = image_specs(MATRIX)
    for image in MATRIX.images:
        names = ["sdpa-cudnn"] if MATRIX.vendor(image.platform) == "nvidia" and "sdpa" in image.backends else []
        assert [kernel.name for kernel in specs[image.id].kernels] == [*offered[image.id]] == names
        assert arguments(MATRIX, image)["CHOICES"] == "".join(f"{name}:torch" for name in names)
        assert not {"sdpa-cudnn"} & {backend.name for backend in specs[image.id].backends}
    assert offered["sdpa-cu128-base"]["sdpa-cudnn"].architectures == ("ampere", "ada", "hopper", "blackwell")
    assert offered["fa2-cu128-hopper"]["sdpa-cudnn"].architectures == ("hopper",)
    assert {"sdpa-cpu", "sdpa-rocm"} <= {name for name, kernels in offered.items() if not kernels}


def test_the_kernel_is_a_value_of_its_variable() -> None:
    """As --help lists it, and never what an image runs by itself."""
    specs = image_specs(MATRIX)
    spec = specs["sdpa-cu128"]
    assert read_settings({"ATTN_BACKEND": "sdpa-cudnn"}, spec).backend == "sdpa-cudnn"
    assert read_settings({}, spec).backend == "sdpa"
    assert "(sdpa, sdpa-cudnn)" in usage(spec)
    with pytest.raises(ConfigError, match="expected one of auto, sdpa"):
        read_settings({"ATTN_BACKEND": "sdpa-cudnn"}, specs["sdpa-rocm"])


def test_inspect_wants_the_kernels_wrapper() -> None:
    """An image without Axolotl has it too; one that lost it is wrong."""
    image = next(image for image in MATRIX.images if image.id == "sdpa-cu128-base")
    nothing: dict[str, Any] = dict.fromkeys(("broken", "unrecorded", "contested", "uncompiled", "stub"), ())
    found = Installed(versions={rules.MENDS: "1"}, sources=0, kernels={}, mends=("sdpa-cudnn",), **nothing)
    assert rules.mends(MATRIX, image, found).verdict == "pass"
    lost = rules.mends(MATRIX, image, replace(found, mends=()))
    assert (lost.verdict, lost.reason) == ("fail", "has none; images.yaml has sdpa-cudnn")
