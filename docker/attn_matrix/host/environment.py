"""An image's check without a Docker Engine: the same packages from the same lock in a virtual environment.

The environment of an image is `.venv/<id>`, laid out as the image has it: `attn/entrypoint` and `attn/image.json`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Final

from attn_matrix.errors import UsageError
from attn_matrix.host import dockerfile, engine
from attn_matrix.host.sources import Sources, torch_backend
from attn_matrix.matrix.model import Image, Matrix, lock_path, spec_path
from attn_matrix.rendered.bake import DOCKERFILE, arguments

STAMP: Final = "attn/installed"
# Folders of an image, and the variables that name the first one.
VENV: Final = "/opt/venv"
CACHE: Final = "/tmp/attn"
VENVS: Final = ("PATH", "VIRTUAL_ENV")
# Variables that an image sets because its user may have no entry in /etc/passwd.
USERS: Final = ("HOME", "USER", "LOGNAME")


def check(root: Path, matrix: Matrix, image: Image, sources: Sources, argv: Sequence[str]) -> int:
    """Run the check of `image` in its environment, which is made first if need be; returns the check's exit code."""
    venv = prepare(root, matrix, image, sources)
    command = [str(venv / "bin/python"), "-I", "-S", str(venv / "attn/entrypoint/__main__.py"), "check", *argv]
    environ = variables(root, venv, arguments(matrix, image), os.environ)
    return engine.status(command, env=environ, cwd=root)


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
    """A hash of everything that decides what is installed, so that a change of it installs again."""
    chosen = [*(build_arguments[name] for name in ("TORCH", "TORCH_BACKEND", "KERNELS")), *wheels]
    return hashlib.sha256("\n".join([lock, *chosen]).encode()).hexdigest()


def install_commands(venv: Path, matrix: Matrix, image: Image, sources: Sources) -> list[list[str]]:
    """The calls of uv that install what docker/Dockerfile does in its layers; prebuilt wheels have one."""
    given = arguments(matrix, image)
    python = matrix.platforms[image.platform].python
    wheels = ["--find-links", str(sources.wheelhouse.resolve())] if sources.wheelhouse else []
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


def variables(root: Path, venv: Path, given: Mapping[str, str], caller: Mapping[str, str]) -> dict[str, str]:
    """What docker/Dockerfile sets in an image that is built with the arguments `given`, for a program here.

    The image's folders become folders of the environment: caches too, since nothing here is thrown away. What the
    `caller` has set stays, as with `docker run -e`, and so does who calls.
    """
    text = (root / DOCKERFILE).read_text(encoding="utf-8")
    known = defaultdict(str, {**caller, **given})
    kept = {*caller, *USERS} - {*VENVS}
    return {
        name: Template(value.replace(VENV, str(venv)).replace(CACHE, str(venv / "cache"))).substitute(known)
        for name, value in dockerfile.of_stage(text, "image").items()
        if name not in kept
    }


def _copy(root: Path, venv: Path, image: Image) -> None:
    target = venv / "attn"
    shutil.rmtree(target / "entrypoint", ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "entrypoint", target / "entrypoint", ignore=ignore)
    shutil.copyfile(root / spec_path(image.id), target / "image.json")
