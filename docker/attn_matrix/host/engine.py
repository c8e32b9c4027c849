"""The one door to Docker and to every other program that the host side starts.

docker-py runs containers; it has no BuildKit, so images are built by calling the `docker` program.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attn_matrix import ROOT
from attn_matrix.errors import AttnError, CommandFailed, EngineMissing, UsageError

if TYPE_CHECKING:  # docker-py takes 0.2 s to import: only what talks to the engine pays for it
    from docker.models.containers import Container
    from docker.types import DeviceRequest

    from docker import DockerClient

INSTALL_DOCKER: Final = "install Docker Engine 23 or newer: https://docs.docker.com/engine/install/"
START_DOCKER: Final = "if it is installed: start it, let this user use it (group `docker`), or set DOCKER_HOST"
INSTALL_BUILDX: Final = "install the buildx plugin, 0.17 or newer: https://docs.docker.com/build/install-buildx/"
INSTALL_GPUS: Final = (
    "install the NVIDIA Container Toolkit: "
    "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"
)
INSTALL: Final = {
    "docker": INSTALL_DOCKER,
    "uv": "pip install --require-hashes -r docker/locks/tools.txt",
    "git": "install git",
}
# How long an engine that is there may take to answer, in seconds.
ANSWER_TIMEOUT: Final = 20


def say(line: str) -> None:
    """Print one line to stderr. Stdout belongs to the program that is run."""
    print(line, file=sys.stderr, flush=True)


# ---- programs ----


def find(program: str) -> str:
    """The path of `program`: beside this Python, else on PATH. Raises EngineMissing (docker) or CommandFailed."""
    beside = Path(sys.executable).parent / program
    found = str(beside) if beside.is_file() else shutil.which(program)
    if found is None:
        error: type[AttnError] = EngineMissing if program == "docker" else CommandFailed
        raise error(f"there is no program {program!r} on PATH", INSTALL.get(program, f"install {program}"))
    return found


def call(command: Sequence[str], *, cwd: Path = ROOT) -> None:
    """Echo `command` and run it with its output streamed. Raises CommandFailed."""
    code = status(command, cwd=cwd)
    if code:
        raise CommandFailed(f"exit code {code} from {shlex.join(command[:3])}; its output is above")


def status(command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> int:
    """Echo `command`, run it with its output streamed; returns its exit code, 128+n when signal n ended it.

    `env` is added to our environment. SIGINT and SIGTERM are passed on.
    """
    say(f"+ {shlex.join(command)}")
    argv, environment = [find(command[0]), *command[1:]], {**os.environ, **(env or {})}
    with subprocess.Popen(argv, cwd=cwd, env=environment) as process, _forwarding(process.send_signal):
        code = process.wait()
    return code if code >= 0 else 128 - code


def capture(command: Sequence[str], *, stdin: str = "", env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """What `command` writes to stdout, stripped; `env` replaces our environment.

    Raises CommandFailed with what it wrote to stderr.
    """
    done = subprocess.run(
        [find(command[0]), *command[1:]], input=stdin, env=env, cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CommandFailed(f"exit code {done.returncode} from {shlex.join(command)}", done.stderr.strip())
    return done.stdout.strip()


def stream(command: Sequence[str], *, env: Mapping[str, str]) -> Generator[str]:
    """The lines that `command` writes to stdout, each as soon as it is there. Closing the iterator ends the command."""
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield from process.stdout
        finally:
            process.kill()


@contextmanager
def _forwarding(deliver: Callable[[int], object]) -> Iterator[None]:
    """Pass SIGINT and SIGTERM to the program in the foreground; the second signal kills it.

    Process 1 of a container ignores a signal that it has no handler for, so the first one may do nothing.
    """
    received: list[int] = []

    def handle(number: int, _frame: object) -> None:
        received.append(number)
        deliver(number if len(received) == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---- the engine ----


def require() -> None:
    """Raises EngineMissing when no engine answers or the `docker` program has no buildx; says what to install."""
    try:
        capture(["docker", "version", "--format", "{{.Server.Version}}"])
    except CommandFailed as error:
        raise EngineMissing(f"no Docker Engine answers: {error.lines[-1]}", INSTALL_DOCKER, START_DOCKER) from error
    try:
        capture(["docker", "buildx", "version"])
    except CommandFailed as error:
        raise EngineMissing("the `docker` program has no `buildx`", INSTALL_BUILDX) from error


@contextmanager
def connect() -> Iterator[DockerClient]:
    """A client of the engine that the `docker` program uses too. Raises EngineMissing, which says what was tried."""
    try:
        from docker.errors import DockerException

        import docker
    except ImportError as error:
        raise EngineMissing("docker-py is not installed", "pip install -r docker/locks/host.txt") from error
    host = os.environ.get("DOCKER_HOST") or _context_host()
    try:
        client = docker.DockerClient.from_env(environment={**os.environ, "DOCKER_HOST": host})
        client.ping()
    except (DockerException, OSError) as error:
        raise EngineMissing(f"no Docker Engine answers at {host}: {error}", INSTALL_DOCKER, START_DOCKER) from error
    try:
        yield client
    finally:
        client.close()


def _context_host() -> str:
    """The address in the current `docker context`, such as a rootless engine's; docker-py alone looks at none."""
    from docker.context import ContextAPI

    return str(ContextAPI.get_current_context().Host)


@dataclass(frozen=True)
class Request:
    """A container to run: `gpus` hands NVIDIA GPUs of the host to it, those that `which_gpus` names.

    A variable without a value (None) has that of our own environment, if any, and is not shown: it may be a secret.
    `devices` are device files or folders of them, and `groups` the numbers of further groups that its user is in, such
    as those that may open the devices. `which_gpus` is a value of docker's `--gpus`: `all`, a number, or `device=` and
    GPUs by comma. `volumes` are values of docker's `-v` with absolute paths or the names of volumes. `user` is
    `UID:GID`; empty: the image's own.
    """

    image: str
    command: Sequence[str] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)
    gpus: bool = False
    devices: Sequence[str] = ()
    groups: Sequence[str] = ()
    which_gpus: str = "all"
    volumes: Sequence[str] = ()
    user: str = ""

    def variables(self, ours: Mapping[str, str]) -> dict[str, str]:
        """The container's variables; `ours` are those of our environment."""
        known = {name: ours.get(name) if value is None else value for name, value in self.environment.items()}
        return {name: value for name, value in known.items() if value is not None}

    def as_docker_run(self) -> list[str]:
        """The `docker run` that does the same: it is echoed, so that a person can repeat it."""
        given = (name if value is None else f"{name}={value}" for name, value in self.environment.items())
        variables = [part for variable in given for part in ("-e", variable)]
        # docker reads --gpus as a row of CSV, in which a value with a comma stands in quotes.
        which = f'"{self.which_gpus}"' if "," in self.which_gpus else self.which_gpus
        gpus = ["--gpus", which] if self.gpus else []
        gpus += [part for path in self.devices for part in ("--device", path)]
        gpus += [part for group in self.groups for part in ("--group-add", group)]
        volumes = [part for volume in self.volumes for part in ("-v", volume)]
        user = ["--user", self.user] if self.user else []
        return ["docker", "run", "--rm", *gpus, *user, *volumes, *variables, self.image, *self.command]


def run(request: Request) -> int:
    """Run a container in the foreground, its stdout to ours and its stderr to ours; returns its exit code.

    SIGINT and SIGTERM go to the container, and it is removed in every case. Raises EngineMissing when there is no
    engine, or none that can hand out GPUs, and CommandFailed when there is no such image.
    """
    say(f"+ {shlex.join(request.as_docker_run())}")
    with connect() as client, created(client, request) as container:
        output = container.attach(stream=True, logs=True, demux=True)
        with _forwarding(lambda number: _kill(container, number)):
            _start(container)
            for out, err in output:
                _write(sys.stdout.fileno(), out)
                _write(sys.stderr.fileno(), err)
            return int(container.wait()["StatusCode"])


@contextmanager
def created(client: DockerClient, request: Request) -> Iterator[Container]:
    """A container that has not been started yet and is removed at the end, whatever happens."""
    from docker.errors import ImageNotFound

    try:
        container = client.containers.create(
            request.image,
            list(request.command),
            environment=request.variables(os.environ),
            device_requests=[_device_request(request.which_gpus)] if request.gpus else [],
            volumes=list(request.volumes),
            user=request.user or None,
            devices=[f"{path}:{path}:rwm" for path in request.devices],
            group_add=list(request.groups),
        )
    except ImageNotFound as error:
        name = request.image.rpartition(":")[2]
        raise CommandFailed(f"the engine has no image {request.image}", f"nox -s build -- {name}") from error
    try:
        yield container
    finally:
        container.remove(force=True)


def _device_request(which: str) -> DeviceRequest:
    """What docker makes of `--gpus WHICH`. Raises UsageError for what is no value of it."""
    from docker.types import DeviceRequest

    if which.startswith("device="):
        return DeviceRequest(device_ids=which.removeprefix("device=").split(","), capabilities=[["gpu"]])
    if which != "all" and not which.isdecimal():
        raise UsageError(f"--gpus: {which!r} is not `all`, a number of GPUs, or `device=` and their indices by comma")
    return DeviceRequest(count=-1 if which == "all" else int(which), capabilities=[["gpu"]])


def is_rootless() -> bool:
    """Whether the engine runs as its user, whose files then belong to user 0 of a container. Raises EngineMissing."""
    with connect() as client:
        return "name=rootless" in client.info().get("SecurityOptions", [])


def _start(container: Container) -> None:
    from docker.errors import APIError

    try:
        container.start()
    except APIError as error:
        if "could not select device driver" in str(error):
            raise EngineMissing("this Docker Engine cannot hand GPUs to a container", INSTALL_GPUS) from error
        # The engine creates the container before it finds out that there is no such program in it.
        raise CommandFailed(f"the engine cannot start the container: {error.explanation}") from error


def _kill(container: Container, number: int) -> None:
    from docker.errors import APIError

    try:
        container.kill(signal.Signals(number).name)
    except APIError as error:  # it does not run yet, or no more
        raise KeyboardInterrupt from error


def _write(descriptor: int, data: bytes | None) -> None:
    """Write all of `data`, undecoded, to a file descriptor."""
    while data:
        data = data[os.write(descriptor, data) :]


def identity(reference: str) -> str | None:
    """The engine's own id (`sha256:...`) of the image `reference`; None when it has none, or there is no engine."""
    try:
        return capture(["docker", "image", "inspect", "--format", "{{.Id}}", reference])
    except (CommandFailed, EngineMissing):
        return None


def in_registry(reference: str) -> bool:
    """Whether a registry answers the engine for `reference` within ANSWER_TIMEOUT."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    with connect() as client:
        client.api.timeout = ANSWER_TIMEOUT
        try:
            client.images.get_registry_data(reference)
        except (DockerException, RequestException):
            return False
    return True
