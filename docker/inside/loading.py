"""`python -P -m inside.loading DISTRIBUTION... [--also MODULE...]`: whether modules import and libraries load.

Torch is imported first, as a user's program does. Each attempt is a fork of that process, so that a crash or a hang of
one is a line about it, and none profits from what another has loaded. Libraries are loaded with every symbol bound
(RTLD_NOW), which is where a kernel that was compiled for another torch says which symbol it misses.

Without a GPU there is no driver, and what links to libcuda.so.1 does not load: an empty stand-in, compiled here, has
the symbols that these libraries want of it.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import mmap
import os
import select
import signal
import subprocess  # noqa: TID251 (that door is the host's; this runs in an image)
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from inside import elf, facts, records

DRIVER: Final = "libcuda.so.1"
# How long one import may take, in seconds.
PATIENCE: Final = 180


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("distributions", nargs="+")
    parser.add_argument("--also", nargs="*", default=[], metavar="DISTRIBUTION:MODULE")
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    first = attempt(lambda: importlib.import_module("torch"))  # in a fork: a crash here would end everything
    if first:
        found = facts.Loads(
            loads=(facts.Load(distribution="torch", name="torch", error=first),), torch="", architectures=()
        )
    else:
        found = everything(options.distributions, [tuple(each.split(":")) for each in options.also])
    print(facts.to_json(found))


def everything(names: Sequence[str], also: Sequence[Sequence[str]]) -> facts.Loads:
    import torch

    present = {name: found for name in names if (found := distribution(name))}
    absent = [
        facts.Load(distribution=name, name=name, error="is not installed") for name in names if name not in present
    ]
    loader = Loader(present)
    loads = [load for name in present for load in loader.of(name, [module for owner, module in also if owner == name])]
    # torch.cuda.get_arch_list() gives this too, but nothing at all where there is no GPU.
    flags = getattr(torch._C, "_cuda_getArchFlags", str)()  # noqa: SLF001
    return facts.Loads(
        loads=(*absent, *loads), torch=str(torch.__version__), architectures=tuple((flags or "").split())
    )


def distribution(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


class Loader:
    """Imports and loads what distributions hold, with a stand-in for the driver where that alone is missing."""

    def __init__(self, distributions: dict[str, metadata.Distribution]) -> None:
        self.distributions = distributions
        self._stand_in: str | None = None

    def of(self, name: str, also: Sequence[str]) -> Iterator[facts.Load]:
        distribution = self.distributions[name]
        for module in [*records.modules(distribution), *also]:
            yield self.load(name, module, lambda module=module: importlib.import_module(module))  # type: ignore[misc]
        for file in records.libraries(distribution):
            path = str(distribution.locate_file(file))
            yield self.load(name, str(file), lambda path=path: ctypes.CDLL(path, mode=os.RTLD_NOW))  # type: ignore[misc]

    def load(self, distribution: str, name: str, action: Callable[[], object]) -> facts.Load:
        error, note = attempt(action), ""
        if DRIVER in error and "cannot open" in error:
            try:
                stand_in = self.stand_in()
            except (OSError, subprocess.CalledProcessError) as problem:
                return facts.Load(distribution=distribution, name=name, error=error, note=f"no stand-in: {problem}")

            def with_stand_in() -> None:
                ctypes.CDLL(stand_in, mode=os.RTLD_GLOBAL)
                action()

            error, note = attempt(with_stand_in), "with a stand-in for the GPU's driver"
        return facts.Load(distribution=distribution, name=name, error=error, note=note)

    def stand_in(self) -> str:
        """The path of a library named as the driver's, with every symbol that ours want and that begins as its do."""
        if self._stand_in is None:
            folder = tempfile.mkdtemp()
            source = "".join(f"int {name}(void) {{ return 999; }}\n" for name in sorted(self.wanted_of_driver()))
            target = f"{folder}/{DRIVER}"
            command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{DRIVER}", "-o", target, "-x", "c", "-"]
            subprocess.run(command, input=source, text=True, check=True, capture_output=True)
            self._stand_in = target
        return self._stand_in

    def wanted_of_driver(self) -> set[str]:
        """cuInit and its like: `cu` and a capital letter, where cudaMalloc has a small one and cublas a longer name."""
        wanted: set[str] = set()
        for distribution in self.distributions.values():
            for file in records.libraries(distribution):
                with Path(str(distribution.locate_file(file))).open("rb") as opened:
                    data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
                if data.find(DRIVER.encode()) >= 0:
                    undefined = (symbol.name for symbol in elf.symbols(data) if not symbol.defined)
                    wanted |= {name for name in undefined if name.startswith("cu") and name[2:3].isupper()}
        return wanted


def attempt(action: Callable[[], object]) -> str:
    """What went wrong when `action` ran in a fork of this process; empty when nothing did."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run(action, writer)
    os.close(writer)
    with os.fdopen(reader) as said:
        ended = select.select([said], [], [], PATIENCE)[0]
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"did not end within {PATIENCE} seconds"
        text = said.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if text:
        return str(json.loads(text))
    return f"crashed: {signal.Signals(-code).name}" if code < 0 else f"ended the process with code {code}"


def _run(action: Callable[[], object], writer: int) -> None:
    """In the fork: write to `writer` what `action` raised, and end. What libraries print is thrown away."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    error = ""
    try:
        action()
    except BaseException as raised:  # noqa: BLE001 (also SystemExit: a module that ends the process does not import)
        error = f"{type(raised).__name__}: {raised}".strip()
    os.write(writer, json.dumps(error[:4000]).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
