"""What of Triton is compiled for GPUs that are not there: which calls, for which GPU, and what is kept of it.

Inductor's last step and Triton itself are stand-ins here; tests/engine/test_triton_prebuild.py has the real ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from entrypoint.probe import ahead, schedule
from entrypoint.probe.backends import Backend, flex, hardware
from entrypoint.probe.triton import absent, entries, lowering, prebuild

# torch's own: of what Inductor's import calls, and of what Dynamo asks a tensor while it traces.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
ROOT = Path(__file__).resolve().parents[2]
HOPPER = ahead.GPUS["sm_90"]


# ---- which calls ----


def cases(backend: str, arch: str) -> set[str]:
    return {variant.case for variant in prebuild.variants([backend], arch)}


@pytest.mark.parametrize("backend", prebuild.BACKENDS)
def test_it_compiles_every_variant_of_a_start(backend: str) -> None:
    """With room for the case of gigabytes and without; a start that knows its run calls others."""
    claiming = prebuild.claiming(backend, HOPPER)
    for far in (False, True):
        plan = schedule.plan(claiming, "cuda", schedule.Asked(depth="start"), far=far)
        keys = {run.key for run in prebuild.planned(claiming).values()}
        assert {run.key for run in plan.variants} <= keys
    assert cases(backend, "sm_90") == {run.case.id for run in prebuild.planned(claiming).values()}


def test_a_gpu_gets_what_its_capability_claims() -> None:
    """Consumer GPUs of Blackwell have too little shared memory for a head dim of 192."""
    assert {case for case in cases("flex", "sm_90") if "d192" in case}
    assert not {case for case in cases("flex", "sm_120") if "d192" in case}


def test_a_gpu_without_flexattention_has_nothing_to_compile() -> None:
    """Triton has no matrix units to use there."""
    turing = ahead.AbsentGpu(name="T4", capability=(7, 5), multiprocessors=40, shared=64 << 10, threads=1024)
    with pytest.raises(hardware.UnsupportedChip):
        prebuild.claiming("flex", turing)


def test_a_variant_that_does_not_compile_ends_it_and_is_named(tmp_path: Path) -> None:
    """The build of the image fails, with the compiler's own words above."""
    wanted = prebuild.Variant(arch="sm_90", backend="flex", case="of-nobody")
    with pytest.raises(SystemExit, match="FlexAttention does not compile for sm_90 flex of-nobody"):
        prebuild.fill(tmp_path, "sm_90", [wanted], jobs=1)


# ---- for which GPU ----


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Where Triton, which is not here, would keep its driver."""
    place = types.SimpleNamespace(_active=None)
    monkeypatch.setattr(absent, "drivers", lambda: place)
    return place


def test_inside_there_is_one_gpu_and_outside_none(drivers: types.SimpleNamespace) -> None:
    """All that asks gets the same answer, and torch is as before."""
    before = torch.cuda.is_available()
    with absent.pretended(HOPPER):
        assert (torch.cuda.is_available(), torch.cuda.device_count()) == (True, 1)
        assert torch.cuda.get_device_capability(0) == (9, 0)
        assert torch.cuda.get_device_properties(0).multi_processor_count == 132
        assert drivers._active.get_device_capability() == (9, 0)
    assert torch.cuda.is_available() == before
    assert drivers._active is None


class Lowered:
    """In place of Inductor's last step: the devices of every tensor in the graphs that it is given."""

    def __init__(self) -> None:
        self.devices: list[set[str]] = []

    def __call__(self, graph: Any, inputs: Any, **_: Any) -> None:
        found = {str(each.device) for each in inputs if isinstance(each, torch.Tensor)}
        for module in graph.modules():
            for node in getattr(getattr(module, "graph", None), "nodes", ()):
                found |= {str(part) for part in node.kwargs.values() if isinstance(part, torch.device)}
                if isinstance(value := node.meta.get("val"), torch.Tensor):
                    found.add(str(value.device))
        self.devices.append(found)


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch, drivers: types.SimpleNamespace) -> Iterator[Lowered]:
    import torch._functorch.config
    import torch._inductor.compile_fx
    from torch.nn.attention import flex_attention

    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    stand_in = Lowered()
    monkeypatch.setattr(torch._inductor.compile_fx, "compile_fx_inner", stand_in)
    with torch._functorch.config.patch(force_non_lazy_backward_lowering=True):
        yield stand_in


def test_forward_and_backward_are_lowered_as_the_gpus(lowered: Lowered) -> None:
    """The adapter's own call, with its mask, traced on a CPU: every tensor of both graphs is on the GPU."""
    compiler = lowering.Compiler(HOPPER)
    training = flex.adapt_training(flex.compiled_flex_attention(compiler))
    backend = Backend(name="flex", attention=training.out)
    case = next(run.case for run in prebuild.planned(prebuild.claiming("flex", HOPPER)).values() if run.case.causal)

    lowering.compile_call(backend, case, compiler)

    assert lowered.devices == [{"cuda:0"}, {"cuda:0"}]


def test_what_a_graph_makes_is_made_on_the_gpu() -> None:
    """Also a tensor that comes from no input."""
    graph = torch.fx.Graph()
    made = graph.call_function(torch.zeros, ((2,),), {"device": torch.device("cpu")})
    graph.output(made)
    lowering.retarget(torch.fx.GraphModule({}, graph))
    assert made.kwargs == {"device": torch.device("cuda", 0)}


def test_a_call_that_is_not_compiled_is_an_error(lowered: Lowered) -> None:
    """Else the image would be without its kernels, and nobody would know."""
    compiler = lowering.Compiler(HOPPER)
    eager = Backend(name="flex", attention=lambda arguments: arguments.q)
    case = next(iter(prebuild.planned(prebuild.claiming("flex", HOPPER)).values())).case
    with pytest.raises(RuntimeError, match="nothing was compiled"):
        lowering.compile_call(eager, case, compiler)
    launched = Backend(name="flex", attention=lowering.launch)
    with pytest.raises(RuntimeError, match="0 graphs were compiled"):
        lowering.compile_call(launched, case, compiler)


# ---- what is kept ----


def entry(cache: Path, key: str, *suffixes: str) -> Path:
    """An entry of Triton's cache, as it writes one."""
    (cache / key).mkdir(parents=True)
    named = {}
    for suffix in suffixes:
        path = cache / key / f"kernel{suffix}"
        path.write_text(f"{key}{suffix}")
        named[path.name] = str(path)
    (cache / key / "__grp__kernel.json").write_text(json.dumps({"child_paths": named}))
    return cache / key


def test_code_and_description_are_kept_and_named_by_where_they_stay(tmp_path: Path) -> None:
    """And nothing of what Triton went through on the way; an entry that was not finished is none."""
    entry(tmp_path / "cache", "KEY", ".source", ".ttir", ".ptx", ".cubin", ".json")
    (tmp_path / "cache/UNFINISHED").mkdir()
    out = tmp_path / "out"

    size = entries.copy(tmp_path / "cache", out)

    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {
        *("KEY/kernel.cubin", "KEY/kernel.json", "KEY/__grp__kernel.json")
    }
    named = json.loads((out / "KEY/__grp__kernel.json").read_text())["child_paths"]
    assert named == {name: str(out / "KEY" / name) for name in ("kernel.json", "kernel.cubin")}
    assert size == len("KEY.cubin" + "KEY.json")


def test_an_entry_without_its_code_is_refused(tmp_path: Path) -> None:
    """A Triton that names its files differently."""
    entry(tmp_path, "KEY", ".json")
    with pytest.raises(entries.Incomplete, match=r"KEY is without kernel\.cubin"):
        entries.copy(tmp_path, tmp_path / "out")


# ---- the build ----


def test_the_build_mounts_all_that_it_imports() -> None:
    """The Dockerfile names single files, so that a change of the others compiles nothing again."""
    code = "import sys; from entrypoint.probe import cases, memory; "
    code += "from entrypoint.probe.triton import lowering, prebuild; "
    code += "print(*(name for name in sys.modules if name.startswith('entrypoint')))"
    command = [sys.executable, "-P", "-c", code]
    names = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True).stdout
    text = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    step = text[text.index("ARG START_FOR") : text.index("entrypoint.probe.triton.prebuild")]
    for name in names.split():
        path = name.replace(".", "/")
        path += "/__init__.py" if (ROOT / path).is_dir() else ".py"
        assert any(f"source={each},target=/run/attn/{each}" in step for each in (path, str(Path(path).parent))), path
