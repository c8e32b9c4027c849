"""A container that something is done to while it runs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.launcher.launchers import ContainerLauncher, wait_until

# Run in the container, which has no `pkill`: a signal to the child that is module argv[2].
SIGNALLER: Final = """
import os, signal, sys
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{pid}/cmdline").read().split(chr(0))
    except OSError:  # it has ended
        continue
    if "-m" in words and sys.argv[2] in words:
        os.kill(int(pid), signal.Signals["SIG" + sys.argv[1]])
        break
else:
    sys.exit("there is no such child")
"""


class Box(ContainerLauncher):
    """Its output goes to files, where it can be read while it runs."""

    own = False  # whether the image's own children run
    rehearses = False

    def mounts(self) -> list[str]:
        fake = f"--volume={self.rehearsal}:/opt/attn/entrypoint/rehearsal/__main__.py:ro"
        mounts = [*super().mounts(), *([fake] if self.rehearses else [])]
        return [mount for mount in mounts if not (self.own and "entrypoint/" in mount)]

    def popen(self, command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(self.argv(command, env), stdout=subprocess.DEVNULL, stderr=file)
        return self.process

    @property
    def output(self) -> Path:
        return self.folder / f"{self.name}.txt"

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def reaches(self, word: str) -> None:
        """Wait until it says `word`."""
        wait_until(lambda: word in self.text or self.process.poll() is not None)
        assert self.process.poll() is None, f"it ended without {word!r}: {self.text}"

    def signal_child(self, name: str, module: str = "entrypoint.probe") -> None:
        python = ["/opt/venv/bin/python", "-I", "-S", "-c", SIGNALLER, name, module]
        docker("exec", self.name, *python)

    def pause(self, seconds: float) -> None:
        """All its processes stand still, as on a machine that is suspended."""
        docker("pause", self.name)
        time.sleep(seconds)
        docker("unpause", self.name)


def docker(*arguments: str) -> None:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- what is done while a container runs ----


def signalled(name: str, at: str, *, child: str = "") -> Callable[[Box], None]:
    """A signal to the container once it says `at`, or to its child of this module."""

    def act(box: Box) -> None:
        box.reaches(at)
        if child:
            box.signal_child(name, child)
        else:
            docker("kill", f"--signal={name}", box.name)

    return act


def paused(seconds: float, at: str) -> Callable[[Box], None]:
    def act(box: Box) -> None:
        box.reaches(at)
        box.pause(seconds)

    return act
