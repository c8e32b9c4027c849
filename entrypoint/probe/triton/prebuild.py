"""`python -m entrypoint.probe.triton.prebuild` compiles the Triton kernels of a start for GPUs that are not there.

A start that knows nothing of the run that follows calls few variants of FlexAttention, always the same. Triton's part
of them is more than half of their time, and its key is the kernel's source, its options, the assembler and the target:
an image can bring it. What is compiled is what the check's own adapters call. entrypoint/kept/kernels_cache.py brings
the result to use.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from entrypoint.probe import ahead, schedule
from entrypoint.probe.ahead import GPUS, AbsentGpu
from entrypoint.probe.backends import Backend, flex, hardware, s2
from entrypoint.probe.triton import entries

if TYPE_CHECKING:
    from entrypoint.probe.triton.lowering import Compiler

BACKENDS: Final = ("flex", "s2")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A call of a backend's start, by the id of its case, and the architecture to compile it for."""

    arch: str
    backend: str
    case: str

    @property
    def id(self) -> str:
        return f"{self.arch} {self.backend} {self.case}"


def claiming(name: str, gpu: AbsentGpu) -> Backend:
    """A backend with what it claims on a GPU; nothing of it can be called. Raises UnsupportedChip."""
    claims = hardware.claims_on(
        "flex", gpu.capability, flex.capabilities(gpu.capability), ("compute capability 8.0 on",)
    )
    on_flex = Backend(name="flex", attention=NotImplemented, capabilities=claims)
    return on_flex if name == "flex" else replace(on_flex, name=name, capabilities=s2.capabilities(claims, "flex"))


def planned(backend: Backend) -> dict[str, schedule.Scheduled]:
    """The runs of a start that need a kernel of their own, by case; with and without room for the case of gigabytes."""
    asked = schedule.Asked(depth="start")
    plans = (schedule.plan(backend, "cuda", asked, far=far) for far in (False, True))
    runs = [run for plan in plans for run in plan.variants]
    return {run.case.id: run for run in schedule.variants(runs)}


def variants(backends: Sequence[str], arch: str) -> list[Variant]:
    """What is to be compiled for an architecture. Raises UnsupportedChip."""
    return [
        Variant(arch=arch, backend=name, case=case) for name in backends for case in planned(claiming(name, GPUS[arch]))
    ]


def aim(arch: str, directory: Path) -> None:
    """Make torch in this process compile for `arch` alone, and Triton into `directory`. Before either is imported.

    Inductor remembers what it was once told of a device, so no process is aimed twice.
    """
    os.environ |= {
        "CUDA_VISIBLE_DEVICES": "",
        "TRITON_CACHE_DIR": str(directory),
        "TORCHINDUCTOR_CACHE_DIR": tempfile.mkdtemp(),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        # What they keep would be found in place of a compilation.
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
        "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
    }
    warnings.simplefilter("ignore")
    from entrypoint.probe.triton import lowering

    lowering.prepare()


@functools.cache
def compiler(arch: str) -> tuple[Compiler, dict[str, Backend]]:
    """The compiler of this process, and the backends that call it, by their names."""
    from entrypoint.probe.triton.lowering import Compiler

    made = Compiler(GPUS[arch])
    training = flex.adapt_training(flex.compiled_flex_attention(made))
    on_flex = replace(claiming("flex", made.gpu), attention=training.out, logsumexp=training.logsumexp)
    return made, {"flex": on_flex, "s2": replace(claiming("s2", made.gpu), attention=s2.on_flex(on_flex.attention))}


def build(variant: Variant) -> tuple[float, int]:
    """Compile the kernels of one variant: the seconds, and how many of them Triton did not find in its cache.

    Raises whatever torch, Triton or the assembler raises, and RuntimeError where the kernels are another GPU's.
    """
    from entrypoint.probe.triton.lowering import compile_call

    started = time.monotonic()
    made, backends = compiler(variant.arch)
    backend = backends[variant.backend]
    with heard() as kernels:
        compile_call(backend, planned(backend)[variant.case].case, made)
    targets = {f"sm_{arch}" for arch, _ in kernels}
    if not targets <= {variant.arch}:  # (none at all where this process has had all of them from another variant)
        raise RuntimeError(f"Triton compiled for {' and '.join(sorted(targets))}")
    return time.monotonic() - started, sum(not hit for _, hit in kernels)


@contextlib.contextmanager
def heard() -> Iterator[list[tuple[int, bool]]]:
    """The kernels that Triton is asked for meanwhile: the target of each, and whether it was in the cache."""
    import triton

    kernels: list[tuple[int, bool]] = []

    def listen(*, metadata: dict[str, Any], cache_hit: bool, **_: Any) -> None:
        kernels.append((metadata["target"].arch, cache_hit))

    triton.knobs.compilation.listener = listen
    try:
        yield kernels
    finally:
        triton.knobs.compilation.listener = None


def fill(directory: Path, arch: str, wanted: Sequence[Variant], jobs: int) -> int:
    """Build the variants of one architecture, a line for each; how many kernels were compiled.

    Raises SystemExit that names the variant that fails.
    """
    spawn, compiled = multiprocessing.get_context("spawn"), 0
    with ProcessPoolExecutor(jobs, spawn, initializer=aim, initargs=(arch, directory)) as pool:
        results = ahead.built(pool, build, wanted, jobs=jobs, refusal="FlexAttention does not compile for")
        for count, (variant, (seconds, kernels)) in enumerate(results, start=1):
            compiled += kernels
            say(f"[{count}/{len(wanted)}] {variant.id}: {seconds:.1f} s, {kernels} kernels")
    return compiled


def main(argv: Sequence[str] | None = None) -> int:
    options, started = parse(argv), time.monotonic()
    with tempfile.TemporaryDirectory() as own:
        cache: Path = options.cache or Path(own)
        compiled = sum(fill(cache, arch, variants(options.backends, arch), options.jobs) for arch in options.arch)
        found = len(entries.groups(cache))
        size = entries.copy(cache, options.out) / 1e6 if options.out else 0.0
    say(f"{found} kernels, {size:.1f} MB, {time.monotonic() - started:.0f} s; {compiled} were compiled")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -P -m entrypoint.probe.triton.prebuild", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where a start finds the kernels; it must not move")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="TRITON_CACHE_DIR meanwhile; default: one for now")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=[*BACKENDS], help="default: both")
    parser.add_argument("--arch", nargs="+", choices=GPUS, default=[*GPUS], help="default: all of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; default: one for each core")
    return parser.parse_args(argv)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
