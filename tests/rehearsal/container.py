"""One start of an image as a black box: a folder of a user's, `check --config config.yml`, and the report on stdout."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.patience import PATIENCE
from tests.rehearsal.families import Setting, write

ROOT: Final = Path(__file__).resolve().parents[2]
PLANTED: Final = Path(__file__).resolve().parent / "planted"
# What a start is given to come to an end, in seconds: two busy cores need a minute for Axolotl's import alone.
LIMIT: Final = 300
CHECK: Final = ("check", "--json", "--config", "config.yml")


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a container has ended. `report` is empty where none was printed."""

    code: int
    seconds: float
    report: dict[str, Any]
    stderr: str

    @property
    def rehearsal(self) -> dict[str, Any]:
        """The report's part, empty where nothing was rehearsed."""
        return self.report.get("rehearsal") or {}

    @property
    def reason(self) -> str:
        """All that the report says of the verdict."""
        return " ".join([*self.report.get("reasons", []), str(self.rehearsal.get("reason") or "")])

    @property
    def ratio(self) -> float | None:
        """The worst error, in budgets."""
        ratios = [row["ratio"] for row in self.rehearsal.get("differences", []) if row["ratio"] is not None]
        return max(ratios, default=None)


def mounts(*, tree: bool) -> list[str]:
    """The defects, and with `tree` this tree's entrypoint in the place of the image's."""
    options = [f"--volume={PLANTED}:/seeded/planted:ro", "--env=PYTHONPATH=/seeded"]
    options += [f"--volume={PLANTED / 'sitecustomize.py'}:/seeded/sitecustomize.py:ro"]
    return [*options, f"--volume={ROOT / 'entrypoint'}:/opt/attn/entrypoint:ro"] if tree else options


def start(  # noqa: PLR0913 (each is one thing that a test varies)
    image: str,
    setting: Setting,
    *,
    seeded: str = "",
    tree: bool = True,
    limit: int = LIMIT,
    options: Sequence[str] = (),
    command: Sequence[str] = CHECK,
) -> Start:
    """Run `command` in the folder of `setting`, with the defect `seeded`, without a network, as any user."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(setting, folder)
        folder.chmod(0o777)  # the container's user is another one
        run = ["docker", "run", "--rm", "--network=none", f"--volume={folder}:/workspace", f"--env=SEEDED={seeded}"]
        run += [f"--env=ATTN_TIMEOUT={limit}", "--env=ATTN_CACHE=", *mounts(tree=tree), *options, image, *command]
        began = time.monotonic()
        done = subprocess.run(run, capture_output=True, text=True, timeout=PATIENCE, check=False)
    report = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    return Start(code=done.returncode, seconds=time.monotonic() - began, report=report, stderr=done.stderr)
