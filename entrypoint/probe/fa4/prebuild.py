"""`python -m entrypoint.probe.fa4.prebuild` fills FlashAttention 4's cache with kernels for GPUs that are not there.

FA4 compiles from shapes and types alone, so it is called with torch's fake tensors; its own variables say for which
architecture. The build of an image does this for each one that the image supports, and fails where a kernel does not
compile: that needs no GPU of any kind. entrypoint/kept/kernels_cache.py brings the result to use.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import multiprocessing
import os
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from entrypoint.probe import ahead, cases, schedule
from entrypoint.probe.ahead import GPUS, AbsentGpu
from entrypoint.probe.backends import Backend, fa4

if TYPE_CHECKING:
    from torch import Tensor


# Only a scheduler's grid depends on the number of multiprocessors, and a kernel is right with any: FA4's own cache does
# not tell GPUs of one architecture apart either.
TARGETS: Final = {arch: GPUS[arch] for arch in ("sm_90", "sm_100", "sm_120")}
# Query heads for each key head. 1: plain multi-head attention; 4: Llama 3 8B, Mistral 7B, Qwen3 8B; 8: Llama 3 70B,
# Qwen3 32B.
GROUPS: Final = (1, 4, 8)
# By head dim, the groups of fewer models, for the GPUs that most are trained on: kernels of all for all would make the
# build of an image take twice as long. 2: Qwen3 0.6B, Gemma; 7: Qwen2.5; 96: Phi-3 mini; 256: Qwen3-Next, Gemma.
ALSO: Final = {"sm_90": {64: (2, 7), 96: (1,), 128: (2, 7), 256: (2, 4, 8)}}
# Longer than every tile, since kernels for one tile are compiled apart; no kernel depends on more of it than that. (So
# training whose documents are all shorter than a tile of 64 to 128, or more than 256 to a batch, compiles its own.)
SEQLEN: Final = 1024


@dataclass(frozen=True, kw_only=True)
class Training:
    """A call as training makes it, in bf16 and causal: dense, or of many lengths (varlen), padded or packed."""

    head_dim: int
    head_dim_v: int
    group: int
    packed: bool

    @property
    def id(self) -> str:
        dims = f"d{self.head_dim}" if self.head_dim == self.head_dim_v else f"d{self.head_dim}-{self.head_dim_v}"
        words = ("causal", dims, f"group{self.group}", *(["packed"] if self.packed else []))
        return "-".join(words)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A call as the check of a start makes it: `backend` is the name of FA4's, or of one of its forced kernels."""

    backend: str
    case: cases.Case

    @property
    def id(self) -> str:
        return f"the check's {self.case.id}"


Variant = Training | Checked


class Recorder:
    """Stands for autograd's context: its own backward wants a CUDA device even where every tensor is fake."""

    saved_tensors: tuple[Tensor | None, ...] = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors

    def set_materialize_grads(self, value: bool) -> None:
        pass


def training(head_dims: Sequence[tuple[int, int]], arch: str) -> list[Training]:
    """What training calls with these head dims (of q and k, of v), and with those of few models."""
    wanted = {(qk, v, group): None for qk, v in head_dims for group in GROUPS}
    wanted |= {(dim, dim, group): None for dim, groups in ALSO.get(arch, {}).items() for group in groups}
    return [
        Training(head_dim=qk, head_dim_v=v, group=group, packed=packed)
        for qk, v, group in wanted
        for packed in (False, True)
    ]


def checked(backend: Backend) -> list[Checked]:
    """What the check of a start calls, once for each kernel that it needs."""
    runs = [*schedule.always(backend, "cuda"), *schedule.checked(backend, "cuda", far=False)]
    return [Checked(backend=run.backend.name, case=run.case) for run in schedule.variants(runs)]


def aim(arch: str, directory: Path) -> None:
    """Make FA4 and CuTe DSL in this process compile for `arch` into `directory`. Before either is imported."""
    target = TARGETS[arch]
    os.environ |= {
        "CUDA_VISIBLE_DEVICES": "",
        "FLASH_ATTENTION_ARCH": arch,
        "FLASH_ATTENTION_NUM_SMS": str(target.multiprocessors),
        "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1",
        fa4.CACHE: str(directory),
        "CUTE_DSL_ARCH": target.compiles_to,
    }
    warnings.simplefilter("ignore")
    _pretend(target)


def _pretend(target: AbsentGpu) -> None:
    """Answer what only a device could: FA4's persistent scheduler asks CuTe DSL, and not FLASH_ATTENTION_NUM_SMS."""
    import torch

    hardware = importlib.import_module("cutlass.utils").HardwareInfo
    torch.cuda.get_device_capability = lambda *_: target.capability
    torch.cuda.current_device = lambda: 0
    hardware.__init__ = lambda self, device_id=0: None
    hardware.get_device_multiprocessor_count = lambda self: target.multiprocessors


def build(variant: Variant) -> tuple[float, float]:
    """Compile the kernels of one variant that are not cached yet; the seconds of its forward and of its backward.

    Raises whatever FlashAttention 4, CuTe DSL or the assembler raises.
    """
    import torch
    from flash_attn.cute import interface

    seconds: list[tuple[float, float]] = []
    for function in (interface.FlashAttnFunc, interface.FlashAttnVarlenFunc):
        function.apply = functools.partial(forward_backward, function, seconds)
    with fake_tensors(), torch.no_grad():
        if isinstance(variant, Training):
            # Without gradients first, as in evaluation, and where gradient checkpointing runs the forward twice.
            train(variant, interface, gradients=False)
            train(variant, interface, gradients=True)
        else:
            check(variant.case, kernels(loaded())[variant.backend])
    forward, backward = zip(*seconds, strict=True)
    return sum(forward), sum(backward)


@functools.cache
def fake_tensors() -> Any:
    """One mode for all variants of a process: adapters keep tensors, such as cu_seqlens, and modes do not mix."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode()


def forward_backward(function: Any, seconds: list[tuple[float, float]], *arguments: Any) -> tuple[Tensor, Tensor]:
    """In place of `function.apply`: both directions at once, with the arguments that the public function passes on.

    The forward alone where nothing asks for gradients: that is a kernel of its own, which keeps no logsumexp.
    """
    import torch

    context, started = Recorder(), time.monotonic()
    out, logsumexp = function.forward(context, *arguments)
    middle = time.monotonic()
    if any(isinstance(each, torch.Tensor) and each.requires_grad for each in arguments):
        function.backward(context, torch.empty_like(out), None)
    seconds.append((middle - started, time.monotonic() - middle))
    return out, logsumexp


def train(variant: Training, interface: Any, *, gradients: bool) -> Tensor:
    """The output of the package's public function, called as transformers calls it."""
    import torch

    batch, heads = 2, 8 * variant.group
    tokens = (batch * SEQLEN,) if variant.packed else (batch, SEQLEN)

    def empty(heads: int, head_dim: int) -> Tensor:
        return torch.empty(*tokens, heads, head_dim, device="cuda", dtype=torch.bfloat16, requires_grad=gradients)

    kv_heads = heads // variant.group
    q, k, v = empty(heads, variant.head_dim), empty(kv_heads, variant.head_dim), empty(kv_heads, variant.head_dim_v)
    options = {"causal": True, "softmax_scale": variant.head_dim**-0.5, "deterministic": False}
    if not variant.packed:
        dense: tuple[Tensor, Tensor] = interface.flash_attn_func(q, k, v, **options)
        return dense[0]
    starts = torch.arange(0, (batch + 1) * SEQLEN, SEQLEN, dtype=torch.int32, device="cuda")
    lengths = {"cu_seqlens_q": starts, "cu_seqlens_k": starts, "max_seqlen_q": SEQLEN, "max_seqlen_k": SEQLEN}
    packed: tuple[Tensor, Tensor] = interface.flash_attn_varlen_func(q, k, v, **lengths, **options)
    return packed[0]


def check(case: cases.Case, backend: Backend) -> None:
    """The adapter's call for a case. Its inputs are made on a CPU, whose random generators exist without a GPU."""
    import torch

    arguments, _ = cases.make_inputs(replace(case, inputs="normal"), torch.device("cpu"))
    backend.attention(arguments.map(lambda tensor: torch.empty_like(tensor, device="cuda", requires_grad=True)))


def loaded() -> Backend:
    import torch

    return fa4.load(torch.device("cuda"))


def kernels(backend: Backend) -> dict[str, Backend]:
    """The backend itself and its forced kernels, by their names."""
    return {each.name: each for each in (backend, *backend.kernels.values())}


def checked_here() -> list[Checked]:
    """`checked` for the GPU that this process compiles for."""
    return checked(loaded())


def fill(directory: Path, arch: str, wanted: Sequence[Variant], jobs: int) -> None:
    """Build the variants and what the check calls, a line for each. Raises SystemExit that names the one that fails."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, initializer=aim, initargs=(arch, directory)) as pool:
        every = [*wanted, *pool.submit(checked_here).result()]
        results = ahead.built(
            pool, build, every, jobs=jobs, refusal="FlashAttention 4 does not compile", where=f"{arch}: "
        )
        for count, (variant, (forward, backward)) in enumerate(results, start=1):
            say(f"[{count}/{len(every)}] {arch} {variant.id}: forward {forward:.1f} s, backward {backward:.1f} s")


def looked_up(directory: Path) -> list[Path]:
    """The kernels that FA4 has looked up since the last call, whether they are there or not.

    It makes a lock file for every key. This removes them: at run time another directory has its own.
    """
    locks = [*directory.glob("**/*.lock")]
    for lock in locks:
        lock.unlink()
    return [lock.with_suffix(".o") for lock in locks]


def copy(kernels: Sequence[Path], source: Path, target: Path) -> None:
    for kernel in kernels:
        copied = target / kernel.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kernel, copied)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    cache: Path = options.cache or options.out
    looked_up(cache)  # what a run that was broken off left
    for arch in options.arch:
        started = time.monotonic()
        fill(cache, arch, training(options.head_dims, arch), options.jobs)
        kernels = looked_up(cache)
        if missing := [kernel for kernel in kernels if not kernel.is_file()]:
            # FA4 keeps silent when it cannot write one.
            raise SystemExit(f"{arch}: {len(missing)} kernels were compiled and cannot be stored in {cache}")
        if options.cache:
            copy(kernels, options.cache, options.out)
        size = sum(kernel.stat().st_size for kernel in kernels) / 1e6
        say(f"{arch}: {len(kernels)} kernels, {size:.1f} MB, {time.monotonic() - started:.0f} s")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -P -m entrypoint.probe.fa4.prebuild", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="FLASH_ATTENTION_CUTE_DSL_CACHE_DIR")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="compile there, and copy to --out what was asked for")
    parser.add_argument("--arch", nargs="+", choices=TARGETS, default=[*TARGETS], help="default: all of them")
    parser.add_argument("--head-dims", nargs="+", type=head_dims, default=[(64, 64), (128, 128)], metavar="D or D/V")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; default: one for each core")
    return parser.parse_args(argv)


def head_dims(text: str) -> tuple[int, int]:
    """The head_dim of q and k, and that of v: "128", or "192/128" where they differ. Raises ValueError."""
    qk, _, v = text.partition("/")
    return int(qk), int(v or qk)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
