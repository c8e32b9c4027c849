"""Many rehearsals in one container: Axolotl's import, a minute on two busy cores, is paid once (see inside.py)."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.rehearsal.container import LIMIT, PLANTED, ROOT
from tests.rehearsal.families import Setting, write

INSIDE: Final = Path(__file__).resolve().parent / "inside.py"
# One thread for each of torch's loops: on busy cores they wait for each other far longer than they work.
THREADS: Final = {"OMP_NUM_THREADS": "1", "ATTN_CHECK": "off", "PYTHONPATH": "/opt/attn:/seeded"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A rehearsal; `seeded` names its defect, or is empty; `limit` is its ATTN_TIMEOUT, in seconds."""

    name: str
    setting: Setting
    seeded: str = ""
    limit: int = LIMIT


def rehearse(image: str, jobs: Iterable[Job], *, tree: bool = True) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Each job with what inside.py says of it, as it ends; with `tree` by this tree's entrypoint.

    Raises CalledProcessError when the container fails.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        given = list(jobs)
        lines = [json.dumps(_prepared(job, root / str(number))) for number, job in enumerate(given)]
        with subprocess.Popen(
            _command(image, root, tree=tree), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as run:
            assert run.stdin is not None
            assert run.stdout is not None
            run.stdin.write("\n".join(lines) + "\n")
            run.stdin.close()
            for job, line in zip(given, run.stdout, strict=False):
                yield job, json.loads(line)
        if run.returncode:
            raise subprocess.CalledProcessError(run.returncode, run.args)


def _prepared(job: Job, folder: Path) -> dict[str, Any]:
    """What inside.py reads, once the folder is written; in the container it is below /jobs."""
    write(job.setting, folder)
    place = f"/jobs/{folder.name}"
    return {"name": job.name, "folder": place, "seeded": job.seeded, "seed": job.setting.seed, "limit": job.limit}


def _command(image: str, root: Path, *, tree: bool) -> list[str]:
    mounted = {root: "/jobs", PLANTED: "/seeded/planted", INSIDE: "/inside.py"}
    mounted |= {ROOT / "entrypoint": "/opt/attn/entrypoint"} if tree else {}
    options = [f"--volume={source}:{target}:ro" for source, target in mounted.items()]
    options += [f"--env={name}={value}" for name, value in THREADS.items()]
    run = ["docker", "run", "--rm", "-i", "--network=none", *options, image]
    return [*run, "nice", "-n", "19", "python", "-P", "/inside.py"]
