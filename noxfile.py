# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2026"]
# ///
"""The index of what can be done here: `nox -l` lists the sessions, `nox -s NAME -- --help` says what one takes.

Every session is thin: the work is in docker/attn_matrix, whose commands are sessions of the same names, and in tests/.
Sessions share environments, so nox makes none: .venv/host, .venv/tests and .venv/lint hold what docker/locks say.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).resolve().parent
# The host side is no package that could be installed. These two modules need nothing but Python.
sys.path.insert(0, str(ROOT / "docker"))

from attn_matrix.cli import COMMANDS  # noqa: E402
from attn_matrix.host.sources import default_wheelhouse, torch_backend  # noqa: E402

LOCKS = ROOT / "docker/locks"
VENVS = ROOT / ".venv"
# What is installed into each environment, by lock.
HOST = ("host", "tools")
TESTS = (*HOST, "tests", "cpu")
LINT = (*HOST, "tests", "lint")
TYPED = ("docker/attn_matrix", "docker/inside", "docker/mends", "entrypoint", "tests", "noxfile.py")
WORKFLOWS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / ".github/workflows").glob("*.yml"))
SLURM = ("prolog", "health-check", "check-node", "settings.sh", "job.sh", "job-pyxis.sh")
SCRIPTS = (".ci/run", ".github/sign", *(f"docker/slurm/{name}" for name in SLURM))
# The programs that check what is not Python. They are in the lint environment, and none of them uses a network.
LINTERS = (
    ("hadolint", "docker/Dockerfile"),
    ("shellcheck", "--external-sources", "--source-path=docker/slurm", *SCRIPTS),
    ("check-jsonschema", "--quiet", "--builtin-schema=vendor.github-workflows", *WORKFLOWS),
    # --strict-collection: a file that it cannot read is an error.
    ("zizmor", "--quiet", "--offline", "--strict-collection", "--persona=pedantic", ".github"),
)
# How long a container may take to end after Ctrl-C, in seconds; nox's own limit is 0.3.
PATIENCE = 15.0

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "tests"]


@nox.session
def tests(session: nox.Session) -> None:
    """run everything that can be tested on this machine; arguments go to pytest"""
    python = environment(session, "tests", *TESTS)
    run_in(session, python, "-P", "-m", "pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """check style, types, the Dockerfile, the workflows, and that the generated files are what images.yaml says"""
    python = environment(session, "lint", *LINT)
    run_in(session, python, "-m", "ruff", "check", ".")
    run_in(session, python, "-m", "ruff", "format", "--check", ".")
    run_in(session, python, "-m", "mypy", *TYPED)
    run_in(session, python, "-P", "-m", "attn_matrix", "render", "--check")
    for command in LINTERS:
        session.run(str(python.with_name(command[0])), *command[1:])


def add_session(name: str, summary: str) -> None:
    """Make a session of a command of docker/attn_matrix; what stands after `--` goes to the command."""

    def session_of(session: nox.Session) -> None:
        matrix(session, name, *session.posargs)

    session_of.__doc__ = summary
    nox.session(name=name)(session_of)


for command_name, command_summary in COMMANDS.items():
    add_session(command_name, command_summary)


def matrix(session: nox.Session, *arguments: str) -> None:
    """Run one command of docker/attn_matrix. Its exit code is nox's: an orchestrator can tell the verdicts apart."""
    python = environment(session, "host", *HOST)
    try:
        # nox has gone to this folder; paths among the arguments are those of whoever called it.
        with session.chdir(session.invoked_from):
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
    """Install with pip and virtualenv, which nox brings: uv is not there yet."""
    session.run(sys.executable, "-m", "virtualenv", "--quiet", "--clear", str(venv))
    session.run(str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--require-hashes", *requirements)


def install_with_uv(session: nox.Session, venv: Path, requirements: list[str]) -> None:
    """Install with the uv of the host's environment; torch comes from PIP_FIND_LINKS or from PyTorch's CPU index."""
    uv = str(environment(session, "host", *HOST).parent / "uv")
    wheelhouse = default_wheelhouse(os.environ)
    links = ["--find-links", str(wheelhouse)] if wheelhouse else []
    backend = torch_backend("cpu", wheelhouse)
    session.run(uv, "venv", "--quiet", "--clear", "--python", python_of_cpu(), str(venv))
    pip = (uv, "pip", "install", "--quiet", "--python", str(venv), "--require-hashes")
    session.run(*pip, *links, *backend, *requirements)


def python_of_cpu() -> str:
    """The Python that docker/locks/cpu.txt holds torch for: images.yaml says it, and the bake file as JSON.

    Only what installs torch reads it, so that a bake file that a merge has broken can be rendered again.
    """
    bake = json.loads((ROOT / "docker/bake.json").read_text(encoding="utf-8"))
    return str(bake["target"]["torch-cpu"]["args"]["PYTHON"])


if __name__ == "__main__":
    nox.main()
