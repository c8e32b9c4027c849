# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2026"]
# ///
"""The index of what can be done here: `nox -l`. Every session is thin; the work is in docker/attn_matrix and tests/.

Sessions share environments, so nox makes none: .venv/host, .venv/tests and .venv/lint hold what docker/locks say.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).resolve().parent
LOCKS = ROOT / "docker/locks"
VENVS = ROOT / ".venv"
# What is installed into each environment, by lock.
HOST = ("host", "tools")
TESTS = (*HOST, "tests", "cpu")
LINT = (*HOST, "tests", "lint")
# docker/locks/cpu.txt holds torch for this Python alone.
PYTHON = "3.11"
TYPED = ("docker/attn_matrix", "docker/inside", "docker/mends", "entrypoint", "tests", "noxfile.py")
WORKFLOWS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / ".github/workflows").glob("*.yml"))
# The programs of the lint environment for what is not Python; none of them asks a network for anything.
LINTERS = (
    ("hadolint", "docker/Dockerfile"),
    ("shellcheck", ".ci/run"),
    ("check-jsonschema", "--quiet", "--builtin-schema=vendor.github-workflows", *WORKFLOWS),
    # A file that it cannot read is a mistake, not one to leave out.
    ("zizmor", "--quiet", "--offline", "--strict-collection", "--persona=pedantic", ".github"),
)
# How long a container may take to end after Ctrl-C, in seconds; nox's own limit is 0.3.
PATIENCE = 15.0

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "tests"]


@nox.session
def check(session: nox.Session) -> None:
    """Check attention on this machine: nox -s check [-- ID ARGS...]"""
    matrix(session, "check", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run everything that can be tested on this machine: nox -s tests [-- PYTEST ARGS...]"""
    python = environment(session, "tests", *TESTS)
    run_in(session, python, "-P", "-m", "pytest", *session.posargs)


@nox.session
def plan(session: nox.Session) -> None:
    """Show what would be built, and why the rest is not: nox -s plan [-- PATTERN... --json]"""
    matrix(session, "plan", *session.posargs)


@nox.session
def render(session: nox.Session) -> None:
    """Write the generated files from images.yaml: nox -s render [-- --check]"""
    matrix(session, "render", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build and load images with docker buildx bake: nox -s build -- ID... [--base IMAGE] [--wheelhouse DIR]"""
    matrix(session, "build", *session.posargs)


@nox.session
def run(session: nox.Session) -> None:
    """Run an image with the GPUs of this machine: nox -s run -- ID [CMD...]"""
    matrix(session, "run", *session.posargs)


@nox.session
def inspect(session: nox.Session) -> None:
    """Prove what can be proved about built images without a GPU: nox -s inspect [-- PATTERN... --json]"""
    matrix(session, "inspect", *session.posargs)


@nox.session
def sizes(session: nox.Session) -> None:
    """Show what images take on disk, each and together: nox -s sizes [-- PATTERN... --json]"""
    matrix(session, "sizes", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, the Dockerfile, the workflows, and that the generated files are what images.yaml says."""
    python = environment(session, "lint", *LINT)
    run_in(session, python, "-m", "ruff", "check", ".")
    run_in(session, python, "-m", "ruff", "format", "--check", ".")
    run_in(session, python, "-m", "mypy", *TYPED)
    run_in(session, python, "-P", "-m", "attn_matrix", "render", "--check")
    for command in LINTERS:
        session.run(str(python.with_name(command[0])), *command[1:])


@nox.session
def lock(session: nox.Session) -> None:
    """Resolve and hash the requirements in docker/locks again: nox -s lock [-- NAME... --upgrade]"""
    matrix(session, "lock", *session.posargs)


@nox.session
def pins(session: nox.Session) -> None:
    """Write the digests that the base images have now into images.yaml."""
    matrix(session, "pins", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what this project promises of its own speed."""
    matrix(session, "bench", *session.posargs)


def matrix(session: nox.Session, *arguments: str) -> None:
    """One command of docker/attn_matrix. Its exit code is nox's: an orchestrator can tell the verdicts apart."""
    python = environment(session, "host", *HOST)
    try:
        run_in(session, python, "-P", "-m", "attn_matrix", *arguments)
    except CommandFailed as error:
        raise SystemExit(error.return_code or 1) from error


def run_in(session: nox.Session, python: Path, *arguments: str) -> None:
    """Run Python with docker/ on its path: it is no package, since as one it would hide docker-py."""
    env = {
        "PATH": os.pathsep.join((str(python.parent), os.environ.get("PATH", os.defpath))),
        "PYTHONPATH": os.pathsep.join((str(ROOT / "docker"), str(ROOT))),
    }
    # nox puts stderr into stdout unless told otherwise; stdout belongs to what is run.
    session.run(str(python), *arguments, env=env, stderr=None, interrupt_timeout=PATIENCE, terminate_timeout=PATIENCE)


def environment(session: nox.Session, name: str, *locks: str) -> Path:
    """The Python of the environment `.venv/<name>`, installed once for each state of its locks."""
    venv = VENVS / name
    files = [LOCKS / f"{lock}.txt" for lock in locks]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    stamp = venv / "installed"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != digest:
        requirements = [argument for file in files for argument in ("--requirement", str(file))]
        if name == "host":
            install_with_pip(session, venv, requirements)
        else:
            install_with_uv(session, venv, requirements)
        stamp.write_text(digest, encoding="utf-8")
    return venv / "bin/python"


def install_with_pip(session: nox.Session, venv: Path, requirements: list[str]) -> None:
    """All that this needs comes with nox."""
    session.run(sys.executable, "-m", "virtualenv", "--quiet", "--clear", str(venv))
    session.run(str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--require-hashes", *requirements)


def install_with_uv(session: nox.Session, venv: Path, requirements: list[str]) -> None:
    """uv is in the host's environment. It takes torch from PIP_FIND_LINKS or from PyTorch's CPU index."""
    uv = str(environment(session, "host", *HOST).parent / "uv")
    wheelhouse = Path(os.environ.get("PIP_FIND_LINKS") or os.devnull)
    links = ["--find-links", str(wheelhouse)] if wheelhouse.is_dir() else []
    backend = [] if any(wheelhouse.glob("torch-[0-9]*.whl")) else ["--torch-backend=cpu"]
    session.run(uv, "venv", "--quiet", "--clear", "--python", PYTHON, str(venv))
    pip = (uv, "pip", "install", "--quiet", "--python", str(venv), "--require-hashes")
    session.run(*pip, *links, *backend, *requirements)


if __name__ == "__main__":
    nox.main()
