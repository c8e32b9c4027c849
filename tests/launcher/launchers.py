"""Start the entrypoint as its users do, and keep what came out: exit code, stdout, stderr, report."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
FAKE_PROBE = Path(__file__).with_name("fake_probe.py")
FAKE_RACE = Path(__file__).with_name("fake_race.py")
SPEC = ROOT / "docker" / "specs" / "sdpa-cpu.json"


@dataclass(frozen=True)
class Result:
    code: int
    stdout: bytes
    stderr: str


class Launcher(ABC):
    """`behaviour` selects what the fake child does; `spec` replaces fields of the image's spec."""

    shell: str = "/bin/sh"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(mode=0o777)
        self.data.chmod(0o777)
        self.probe = folder / "probe"
        self.probe.mkdir()
        shutil.copy(FAKE_PROBE, self.probe / "__main__.py")
        (self.probe / "__init__.py").touch()
        self.rehearsal = Path(__file__).with_name("fake_rehearsal.py")
        self.spec: dict[str, Any] = json.loads(SPEC.read_text())
        self.appended: dict[str, str] = {}  # code that changes a file of the entrypoint, for a plain process
        self.times: dict[str, float | str] = {}  # what fake_race.py tells, by backend
        self.behave("healthy")

    def behave(self, behaviour: str) -> None:
        (self.probe / "behaviour").write_text(behaviour)

    def run(self, *command: str, **env: str) -> Result:
        """Run to the end. Keyword arguments are environment variables."""
        process = self.start(*command, **env)
        out, err = process.communicate(timeout=PATIENCE)
        return Result(process.returncode, out, err.decode())

    def start(self, *command: str, **env: str) -> subprocess.Popen[bytes]:
        defaults = {"ATTN_REPORT": f"{self.inside}/report.json", "ATTN_CACHE": ""}
        return self.popen(command, {**defaults, **env})

    def report(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.data / "report.json").read_text())
        return document

    @property
    @abstractmethod
    def inside(self) -> str:
        """`data` as the launched process sees it."""

    @abstractmethod
    def popen(self, command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]: ...

    @abstractmethod
    def signal(self, process: subprocess.Popen[bytes], signum: signal.Signals) -> None: ...

    def processes(self) -> list[str]:
        """Command lines that name this launcher's folder: its child and the child's workers, on this machine."""
        listing = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        return [line for line in listing.splitlines() if str(self.folder) in line]


class ProcessLauncher(Launcher):
    """The image's layout in a folder: `attn/entrypoint` and `attn/image.json`, run by this Python or another."""

    python: str = sys.executable

    @property
    def inside(self) -> str:
        return str(self.data)

    def popen(self, command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        home = self.folder / "attn"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(ROOT / "entrypoint", home / "entrypoint", ignore=shutil.ignore_patterns("probe", "__pycache__"))
        shutil.copytree(self.probe, home / "entrypoint" / "probe")
        shutil.copy2(self.rehearsal, home / "entrypoint" / "rehearsal" / "__main__.py")
        shutil.copy2(FAKE_RACE, home / "entrypoint" / "race" / "__main__.py")
        (home / "entrypoint" / "race" / "times").write_text(json.dumps(self.times))
        for name, code in self.appended.items():
            with (home / "entrypoint" / name).open("a") as file:
                file.write(code)
        (home / "image.json").write_text(json.dumps(self.spec))
        environ = {"PATH": os.environ["PATH"], **env}
        argv = [self.python, "-I", "-S", str(home / "entrypoint/__main__.py"), *command]
        return subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def signal(self, process: subprocess.Popen[bytes], signum: signal.Signals) -> None:
        process.send_signal(signum)


class ContainerLauncher(Launcher):
    """`docker run` of a built image, with the fake child and the spec mounted over the image's own."""

    def __init__(self, folder: Path, image: str) -> None:
        super().__init__(folder)
        self.image = image
        self.options: list[str] = []
        self.name = f"axolotl-attn-test-{uuid.uuid4().hex[:12]}"

    @property
    def inside(self) -> str:
        return "/data"

    def popen(self, command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.argv(command, env), stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def argv(self, command: Sequence[str], env: Mapping[str, str]) -> list[str]:
        (self.folder / "image.json").write_text(json.dumps(self.spec))
        variables = [f"--env={name}={value}" for name, value in env.items()]
        run = ["docker", "run", "--rm", "--network=none", f"--name={self.name}", *self.mounts(), *variables]
        return [*run, *self.options, self.image, *command]

    def mounts(self) -> list[str]:
        return [
            f"--volume={self.probe}:/opt/attn/entrypoint/probe:ro",
            f"--volume={self.folder / 'image.json'}:/opt/attn/image.json:ro",
            f"--volume={self.data}:/data",
        ]

    def give_gpus(self, count: int) -> None:
        """Let the container seem to hold GPUs, of which its image supports Hopper alone.

        Docker makes their device nodes of /dev/null, and the driver's library is empty.
        """
        self.options += [f"--device=/dev/null:/dev/nvidia{index}" for index in range(count)]
        self.options += ["--volume=/dev/null:/usr/lib/libcuda.so.1:ro"]
        self.spec |= {"device": "cuda", "vendor": "nvidia"}
        self.spec |= {"architectures": {"hopper": ["9.0"], "ada": ["8.9"]}, "supported": ["hopper"]}
        self.spec["backends"][0]["architectures"] = ["hopper"]
        self.spec["siblings"] = [{"id": "other-cu128", "platform": "cu128", "architectures": ["ada"]}]

    def signal(self, process: subprocess.Popen[bytes], signum: signal.Signals) -> None:
        subprocess.run(["docker", "kill", f"--signal={signum.name}", self.name], check=True, capture_output=True)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens outside this process; fails after PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
