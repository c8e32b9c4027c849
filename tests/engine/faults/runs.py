"""All faults, each under both values of ATTN_CHECK, a few containers at a time."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.engine.faults.fault import Seen
from tests.engine.faults.listed import FAULTS
from tests.engine.faults.started import see

MODES: Final = ("enforce", "warn")
# Those that hang until their limit leave the processors to others.
AT_A_TIME: Final = 3


class Runs:
    """What is seen of the faults of these names. Use as a context manager: leaving it begins no further one."""

    def __init__(self, names: Iterable[str], image: str, folder: Path) -> None:
        self._pool = ThreadPoolExecutor(AT_A_TIME)
        self._futures: dict[tuple[str, str], Future[Seen]] = {}
        for name in names:
            for mode in MODES:
                place = folder / str(len(self._futures))
                self._futures[name, mode] = self._pool.submit(see, FAULTS[name], mode, place, image)

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def of(self, name: str) -> tuple[Seen, ...]:
        """Under each of MODES, once it has ended."""
        return tuple(self._futures[name, mode].result() for mode in MODES)
