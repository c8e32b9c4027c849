"""What prebuilt kernels save on the GPU here: `python -m tests.gpu.first_calls --home DIR --arch sm_90`.

Compiles, in processes that see no GPU, into DIR/fa4-cache, as the build of an image does; links that into an empty
cache, as a start does; and times the first calls and the whole check with an empty cache and with that one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from entrypoint.kept.kernels_cache import DIRECTORY, PREBUILT, compiled, seed

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = "causal-d128-group1", "causal-d128-group4-packed", "full-d64-group4"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="where fa4-cache is filled, if it is not there yet")
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--call", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        call(options.call)
        return
    if not (options.home / PREBUILT).is_dir():
        prebuild = (
            "-m",
            "entrypoint.probe.fa4.prebuild",
            "--out",
            str(options.home / PREBUILT),
            "--arch",
            options.arch,
        )
        python(*prebuild, CUDA_VISIBLE_DEVICES="")
    for home, name in ((Path(os.devnull), "empty cache"), (options.home, "prebuilt")):
        for variant in VARIANTS:
            again = ("-m", "tests.gpu.first_calls", "--home", str(home), "--call", variant)
            show(name, home, *again)
        show(name, home, "-m", "entrypoint.probe", "--backend", "fa4", "--device", "cuda:0")


def show(name: str, home: Path, *arguments: str) -> None:
    """Run a process that uses FA4 with a cache of its own; its last line, and how many kernels it compiled."""
    with tempfile.TemporaryDirectory() as cache:
        environ = {DIRECTORY: cache, "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1"}
        assert seed(home, environ) is None
        last: dict[str, Any] = json.loads(python(*arguments, **environ).splitlines()[-1])
        print(f"{name}: {len(compiled(environ))} kernels compiled: {json.dumps(last)}", flush=True)


def python(*arguments: str, **environ: str) -> str:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])} | environ
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout


def call(name: str) -> None:
    """The first forward and backward of a variant of training, after import and CUDA's own start."""
    import torch
    from flash_attn.cute import interface

    from entrypoint.probe.fa4 import prebuild

    variant = next(each for each in prebuild.training([(64, 64), (128, 128)], "sm_90") if each.id == name)
    torch.zeros(1, device="cuda")
    seconds: list[float] = []

    def timed(function: Any) -> Any:
        started = time.monotonic()
        result = function()
        torch.cuda.synchronize()
        seconds.append(round(time.monotonic() - started, 3))
        return result

    out = timed(lambda: prebuild.train(variant, interface, gradients=True))
    timed(lambda: out.backward(torch.ones_like(out)))
    print(json.dumps({"variant": name, "forward": seconds[0], "backward": seconds[1]}))


if __name__ == "__main__":
    main()
