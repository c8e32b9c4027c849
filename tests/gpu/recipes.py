"""Trains each recipe of an image on this machine's GPU, in the image as built, and records loss and gradient norm.

    python tests/gpu/recipes.py ID… --out DIR [--docker '--device nvidia.com/gpu=all']

For each recipe of the image's default backend (docker/specs/<id>.json) it runs `axolotl train` on the Llama of
tests/train/tiny_llama.py, 30 steps, the same data and seed each time; with --reference once more for each way of laying
out rows with tests/train/reference.py: plain attention, documents kept apart. --unmended takes the image's mends away.
It judges nothing: DIR/<id>.json holds what was logged, beside GPU, versions and date. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
STEP: Final = re.compile(r"\{'loss': '?([0-9.e+-]+|nan|inf)'?, 'grad_norm': '?([0-9.e+-]+|nan|inf)'?")
RUNTIME: Final = re.compile(r"'train_runtime': '?([0-9.e+]+)'?")
COMPILED: Final = re.compile(r"^FA4-CACHE (\d+)$", re.MULTILINE)
# What transformers calls the attention that a backend's recipe runs.
REGISTERED: Final = {
    "sdpa": "sdpa",
    "flex": "flex_attention",
    "fa2": "flash_attention_2",
    "fa3": "flash_attention_3",
    "fa4": "flash_attention_4",
}
# Takes the mends out of an image.
UNMENDED: Final = "--volume=/dev/null:/opt/venv/lib/python3.11/site-packages/axolotl_attn_mends.pth:ro"
FA4_KERNELS: Final = "find $FLASH_ATTENTION_CUTE_DSL_CACHE_DIR -name '*.o' -type f"
# Kernels that FlashAttention 4 had to compile: those in its cache that are no link to the image's own.
TRAIN: Final = f"axolotl train config.yml; code=$?; echo FA4-CACHE $({FA4_KERNELS} | wc -l); "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="+", metavar="ID", help="an image with Axolotl that the engine has")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where <id>.json goes")
    parser.add_argument("--docker", default="--gpus all", help="how `docker run` gets the GPU (default: %(default)s)")
    parser.add_argument("--reference", action="store_true", help="also train with plain attention")
    parser.add_argument("--unmended", action="store_true", help="without the image's mends")
    arguments = parser.parse_args()
    for image in arguments.ids:
        options = [*shlex.split(arguments.docker), *([UNMENDED] if arguments.unmended else [])]
        record = recorded(image, options, arguments.out, reference=arguments.reference)
        (arguments.out / f"{image}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def recorded(image: str, options: Sequence[str], out: Path, *, reference: bool) -> dict[str, Any]:
    """Everything about the training of one image."""
    spec = json.loads((ROOT / f"docker/specs/{image}.json").read_text(encoding="utf-8"))
    container = Container(image, options, out)
    default = spec["backends"][0]["name"]
    runs = [container.trained(recipe) for recipe in spec["recipes"] if recipe["backend"] == default]
    return {
        "image": image,
        "date": datetime.now(UTC).date().isoformat(),
        "gpu": container.gpu(),
        "packages": spec["packages"],
        "runs": [*runs, *(references(container, runs) if reference else ())],
    }


def references(container: Container, runs: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A run with plain attention for each way of laying out rows: that of the first recipe that can be replaced."""
    for packing in (False, True):
        like = next((run for run in runs if run["packing"] is packing and run["backend"] in REGISTERED), None)
        if like is not None:
            yield container.reference(like)


class Container:
    """Runs of one image, each in a container and a folder of its own."""

    def __init__(self, image: str, options: Sequence[str], out: Path) -> None:
        self._tag = f"axolotl-attn:{image}"
        self._options = options
        self._out = out

    def trained(self, recipe: dict[str, Any]) -> dict[str, Any]:
        """One recipe: what it logged, and the end of its output where it failed."""
        keys = recipe["keys"]
        command = ["sh", "-c", f"{TRAIN} exit $code"]
        return {**_of(recipe), **self._logged(f"{recipe['backend']}-{recipe['packing']}", keys, command)}

    def reference(self, like: dict[str, Any]) -> dict[str, Any]:
        command = ["python", "/train/reference.py", REGISTERED[like["backend"]], "config.yml"]
        logged = self._logged(f"reference-{like['packing']}", like["keys"], command)
        return {"backend": "reference", "packing": like["packing"], "keys": like["keys"], **logged}

    def gpu(self) -> str:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()

    def _logged(self, name: str, keys: dict[str, Any], command: Sequence[str]) -> dict[str, Any]:
        folder = (self._out / f"{self._tag.rpartition(':')[2]}-{name}").resolve()
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        written = ["python", "/train/tiny_llama.py", ".", "--shape=small", f"--keys={json.dumps(keys)}"]
        self._run(folder, ["--env=ATTN_CHECK=off"], written)
        started = time.monotonic()
        done = self._run(folder, ["--env=ATTN_CHECK=off"], command)
        seconds = round(time.monotonic() - started, 1)
        (folder.parent / f"{folder.name}.log").write_text(done.stdout, encoding="utf-8")
        steps = [{"loss": float(loss), "grad_norm": float(norm)} for loss, norm in STEP.findall(done.stdout)]
        runtime, compiled = RUNTIME.search(done.stdout), COMPILED.search(done.stdout)
        return {
            "code": done.returncode,
            "seconds": seconds,
            "train_runtime": float(runtime[1]) if runtime else None,
            "fa4_kernels_compiled": int(compiled[1]) if compiled else None,
            "steps": steps,
            **({} if not done.returncode else {"last": done.stdout.strip().splitlines()[-3:]}),
        }

    def _run(self, folder: Path, options: Sequence[str], command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        mounts = [f"--volume={folder}:/workspace", f"--volume={ROOT / 'tests/train'}:/train:ro"]
        argv = [
            "docker",
            "run",
            "--rm",
            "--network=none",
            "--env=HF_HUB_OFFLINE=1",
            *self._options,
            *mounts,
            *options,
            self._tag,
            *command,
        ]
        return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def _of(recipe: dict[str, Any]) -> dict[str, Any]:
    return {name: recipe[name] for name in ("backend", "packing", "keys")}


if __name__ == "__main__":
    main()
