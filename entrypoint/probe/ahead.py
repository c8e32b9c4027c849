"""Compiling ahead for GPUs that are not there: which one stands for an architecture, and variants side by side."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Final, Protocol, TypeVar

WARP: Final = 32


@dataclass(frozen=True, kw_only=True)
class AbsentGpu:
    """What kernels may depend on. `shared` is the most shared memory of a block in bytes, `threads` the most resident
    threads of a multiprocessor (CUDA C++ Programming Guide, Technical Specifications per Compute Capability).

    Inductor splits long reductions by the number of multiprocessors, so another GPU of the same capability may compile
    such a kernel anew; all others are the same.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared: int
    threads: int

    @property
    def arch(self) -> str:
        """NVIDIA's name of the architecture, such as sm_90."""
        return "sm_{}{}".format(*self.capability)

    @property
    def compiles_to(self) -> str:
        """What CuTe DSL compiles to: the architecture with the instructions that it alone has."""
        return f"{self.arch}a"

    @property
    def properties(self) -> SimpleNamespace:
        """The same by the names of torch.cuda.get_device_properties."""
        major, minor = self.capability
        return SimpleNamespace(
            name=self.name,
            major=major,
            minor=minor,
            multi_processor_count=self.multiprocessors,
            regs_per_multiprocessor=65536,
            max_threads_per_multi_processor=self.threads,
            max_threads_per_block=1024,
            warp_size=WARP,
            shared_memory_per_block=48 << 10,
            shared_memory_per_block_optin=self.shared,
            shared_memory_per_multiprocessor=self.shared + 1024,
            total_memory=16 << 30,
            L2_cache_size=32 << 20,
            is_integrated=0,
            gcnArchName="",
            uuid="",
        )


_EVERY: Final = (
    AbsentGpu(name="A100", capability=(8, 0), multiprocessors=108, shared=163 << 10, threads=2048),
    AbsentGpu(name="GeForce RTX 3090", capability=(8, 6), multiprocessors=82, shared=99 << 10, threads=1536),
    AbsentGpu(name="L40S", capability=(8, 9), multiprocessors=142, shared=99 << 10, threads=1536),
    AbsentGpu(name="H200", capability=(9, 0), multiprocessors=132, shared=227 << 10, threads=2048),  # and H100 SXM
    AbsentGpu(name="B200", capability=(10, 0), multiprocessors=148, shared=227 << 10, threads=2048),
    # (148 is the B200's number; nobody here has asked a B300.)
    AbsentGpu(name="B300", capability=(10, 3), multiprocessors=148, shared=227 << 10, threads=2048),
    AbsentGpu(name="GeForce RTX 5090", capability=(12, 0), multiprocessors=170, shared=99 << 10, threads=1536),
)
GPUS: Final = {gpu.arch: gpu for gpu in _EVERY}


class Named(Protocol):
    """A variant, by the id that a line of progress shows."""

    @property
    def id(self) -> str: ...


V = TypeVar("V", bound=Named)
R = TypeVar("R")


def built(  # noqa: PLR0913 - what is built, where, and how a failure reads
    pool: ProcessPoolExecutor,
    build: Callable[[V], R],
    wanted: Sequence[V],
    *,
    jobs: int,
    refusal: str,
    where: str = "",
) -> Iterator[tuple[V, R]]:
    """Each variant and what `build` gave for it in a process of the pool, which has `jobs`, as soon as it is done.

    Raises SystemExit that names the variant that fails, after `where` and `refusal`.
    """
    running = {pool.submit(build, variant): variant for variant in wanted}
    for future in as_completed(running):
        try:
            result = future.result()
        except BrokenProcessPool as error:
            suspects = " or ".join(_left(running)[:jobs])
            raise SystemExit(f"{where}{suspects} ended its process: {error}") from error
        except Exception as error:
            pool.shutdown(wait=False, cancel_futures=True)
            traceback.print_exception(error)
            raise SystemExit(f"{where}{refusal} {running[future].id}") from error
        yield running[future], result


def _left(running: dict[Future[R], V]) -> list[str]:
    """What is not done, in the order in which it began: once a process has ended, every future that is left says so."""
    return [variant.id for future, variant in running.items() if not future.done() or future.exception()]
