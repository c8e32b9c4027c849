"""An image's check without a Docker Engine: the same packages from the same lock in a virtual environment.

The environment of an image is `.venv/<id>`, laid out as the image has it: `attn/entrypoint` and `attn/image.json`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from attn_matrix.errors import UsageError
from attn_matrix.host import engine
from attn_matrix.host.sources import Sources, torch_backend
from attn_matrix.matrix.model import Image, Matrix, lock_path, spec_path
from attn_matrix.rendered.bake import arguments

STAMP: Final = "attn/installed"


def check(root: Path, matrix: Matrix, image: Image, sources: Sources, argv: Sequence[str]) -> int:
    """Run the check of `image` in its environment, which is made first if need be; returns the check's exit code."""
    venv = prepare(root, matrix, image, sources)
    command = [str(venv / "bin/python"), "-I", "-S", str(venv / "attn/entrypoint"), "check", *argv]
    return engine.status(command, env=variables(venv, os.environ), cwd=root)


def prepare(root: Path, matrix: Matrix, image: Image, sources: Sources) -> Path:
    """The environment of `image`: installed once for each state of the lock, its own files as they are now.

    Without Axolotl, which no check needs; prebuilt wheels by their hashes. Raises UsageError for an image that holds
    what is compiled from source.
    """
    if compiled := ", ".join(matrix.compiled_wheels(image)):
        raise UsageError(
            f"{image.id} holds {compiled}, compiled from source: that takes a Docker Engine",
            f"start one, or check an image without it: nox -s plan -- '*-{image.platform}-base'",
        )
    venv = root / ".venv" / image.id
    lock = root / lock_path(image.platform)
    wheels = prebuilt(matrix, image)
    made_from = fingerprint(lock.read_text(encoding="utf-8"), arguments(matrix, image), wheels)
    stamp = venv / STAMP
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != made_from:
        for command in install_commands(venv, matrix, image, sources):
            engine.call(command, cwd=root)
        stamp.parent.mkdir()
        stamp.write_text(made_from, encoding="utf-8")
    _copy(root, venv, image)
    return venv


def prebuilt(matrix: Matrix, image: Image) -> list[str]:
    """The image's prebuilt wheels as requirements that are verified by hash."""
    wheels = matrix.prebuilt_wheels(image)
    return [f"{package} @ {wheel.url}#sha256={wheel.sha256}" for package, wheel in wheels.items()]


def fingerprint(lock: str, build_arguments: Mapping[str, str], wheels: Sequence[str] = ()) -> str:
    """Changes with everything that decides what is installed."""
    chosen = [*(build_arguments[name] for name in ("TORCH", "TORCH_BACKEND", "KERNELS")), *wheels]
    return hashlib.sha256("\n".join([lock, *chosen]).encode()).hexdigest()


def install_commands(venv: Path, matrix: Matrix, image: Image, sources: Sources) -> list[list[str]]:
    """The calls of uv, which do what the layers of docker/Dockerfile do; one more where there are prebuilt wheels."""
    given = arguments(matrix, image)
    python = matrix.platforms[image.platform].python
    wheels = ["--find-links", str(sources.wheelhouse)] if sources.wheelhouse else []
    backend = torch_backend(given["TORCH_BACKEND"], sources.wheelhouse)
    locked = ["--python", str(venv), "--constraints", given["LOCK"]]
    packages = [*given["TORCH"].split(), *given["KERNELS"].split()]
    install = ["uv", "pip", "install", "--quiet", "--require-hashes"]
    downloaded = prebuilt(matrix, image)
    return [
        ["uv", "venv", "--quiet", "--clear", "--python", python, str(venv)],
        [*install, *locked, *wheels, *backend, *packages],
        *([[*install, "--no-deps", "--python", str(venv), *downloaded]] if downloaded else []),
    ]


def variables(venv: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """What the image sets, for a program of the environment; caches go into it, since nothing here is thrown away."""
    cache = venv / "cache"
    return {
        "PATH": f"{venv / 'bin'}{os.pathsep}{environment.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": str(venv),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "CUDA_CACHE_PATH": str(cache / "cuda"),
        "TORCH_CUDNN_SDPA_DEPRIORITIZED": environment.get("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1"),
        "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1",
        "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": str(cache / "fa4"),
    }


def _copy(root: Path, venv: Path, image: Image) -> None:
    target = venv / "attn"
    shutil.rmtree(target / "entrypoint", ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "entrypoint", target / "entrypoint", ignore=ignore)
    shutil.copyfile(root / spec_path(image.id), target / "image.json")
