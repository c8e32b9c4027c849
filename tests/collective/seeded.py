"""Faults of one rank, planted into torch.distributed from outside: the product has no switch that could select one.

`plant(folder, fault)` writes a sitecustomize.py for PYTHONPATH, which every Python of a start loads but the parent (it
runs with -I). It waits for torch.distributed to be imported, and acts in the rank of FAULTY alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

FAULTY: Final = 1
# What replaces a function of torch.distributed, or torch.add: `real` is the function itself.
FAULTS: Final = {
    "gives-wrong": """
def all_reduce(tensor, *args, **kwargs):
    tensor[7] += 1
    return real(tensor, *args, **kwargs)
""",
    "gathers-wrong": """
def all_gather_into_tensor(result, given, *args, **kwargs):
    given = given.clone()
    given[7] += 1
    return real(result, given, *args, **kwargs)
""",
    "gets-wrong": """
def all_reduce(tensor, *args, **kwargs):
    work = real(tensor, *args, **{**kwargs, "async_op": False})
    tensor[7] += 1
    return Done()
""",
    "adds-wrong": """
def add(*args, out=None, **kwargs):
    real(*args, out=out, **kwargs)
    out[7] += 1
    return out
""",
    "hangs": """
def all_gather_into_tensor(*args, **kwargs):
    calls.append(1)
    if len(calls) == 3:
        time.sleep(600)
    return real(*args, **kwargs)
""",
    "stops": """
def reduce_scatter_tensor(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGSTOP)
    return real(*args, **kwargs)
""",
    "crashes": """
def all_reduce(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGSEGV)
""",
    "raises": """
def all_reduce(*args, **kwargs):
    raise RuntimeError("NCCL error: unhandled cuda error")
""",
    "is-late": """
def all_reduce(*args, **kwargs):
    time.sleep(0.2)
    return real(*args, **kwargs)
""",
    "is-slow": """
def add(*args, **kwargs):
    time.sleep(0.1)
    return real(*args, **kwargs)
""",
}

_SITECUSTOMIZE: Final = '''\
import importlib.abc
import importlib.util
import os
import signal
import sys
import time

calls = []


class Done:
    def wait(self):
        return True


class Planter(importlib.abc.MetaPathFinder):
    """Replaces the function once its module has been executed."""

    def find_spec(self, name, path=None, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            global real
            execute(module)
            real = getattr(module, FUNCTION.__name__)
            setattr(module, FUNCTION.__name__, FUNCTION)

        spec.loader.exec_module = exec_module
        return spec

'''


def plant(folder: Path, fault: str) -> Path:
    """Write the fault into `folder`, which is for PYTHONPATH; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    code = FAULTS[fault]
    name = code.split("def ", 1)[1].split("(", 1)[0]
    module = "torch" if name == "add" else "torch.distributed"
    planted = f"MODULE, FUNCTION = {module!r}, {name}\nif os.environ.get('RANK') == '{FAULTY}':\n"
    planted += "    sys.meta_path.insert(0, Planter())\n"
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE + code + planted)
    return folder
