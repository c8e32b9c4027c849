"""What a start says where a host has several GPUs: seconds beside one GPU, a bad GPU, collectives, a training on all.

    python -m tests.gpu.several PART… --out DIR [--all '--gpus all'] [--one '--gpus device=0'] [--ids sdpa-cu128 …]

Parts: `checks` (each image on one GPU and on all, in turn, fresh containers), `bad` (a load beside the check
of GPU 1; a kernel that is wrong on GPU 1), `collective` (`check --collective` beside tests/gpu/plain_collectives.py, in
turn), `faults` (a rank that hangs, and ranks that compute wrong), `training` (`axolotl train` on all GPUs, 20 steps).
It judges nothing: DIR/several.json holds what was seen, DIR/reports what each check said. Standard library and docker
only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.collective.seeded import plant
from tests.gpu.starts import checked, ran, reference

ROOT: Final = Path(__file__).resolve().parents[2]
# Keeps GPU 1 busy until its container is removed.
LOAD: Final = "import torch\na = torch.randn(8192, 8192, device='cuda:1', dtype=torch.bfloat16)\nwhile True: a @ a"
# In every Python of a start but its parent: torch's attention with a scale that is 5 % off, on GPU 1 alone.
WRONG: Final = """\
import torch.nn.functional as F
real = F.scaled_dot_product_attention
def wrong(q, k, v, **kwargs):
    return real(q * (1.05 if q.device.index == 1 else 1.0), k, v, **kwargs)
F.scaled_dot_product_attention = wrong
"""
# torchrun looks its own host's name up, which a container without a network cannot.
NAMED: Final = ("--hostname=attn", "--add-host=attn:127.0.0.1", "--shm-size=1g")
STEP: Final = re.compile(r"\{'loss': ")


@dataclass(frozen=True, kw_only=True)
class Host:
    """How `docker run` gets all GPUs and one of them, the images, and where everything goes."""

    every: tuple[str, ...]
    one: tuple[str, ...]
    ids: tuple[str, ...]
    out: Path
    turns: int

    def check(self, name: str, image: str, options: tuple[str, ...], *arguments: str) -> dict[str, Any]:
        """One check in a fresh container; its report goes to DIR/reports/<name>.json."""
        file = self.out / f"reports/{name}.json"
        row, report = checked(image, [*options, *NAMED, "--env=ATTN_CACHE="], file, arguments)
        row |= {key: report.get(key) for key in ("verdict", "reasons", "seconds", "collective") if report.get(key)}
        return {"name": name, "image": image, **row, "gpus": gpus_of(report)}


def gpus_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: gpu.get(key) for key in ("device", "verdict")} for gpu in report.get("gpus", [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--all", default="--gpus all", help="options of `docker run` (default: %(default)s)")
    parser.add_argument("--one", default="--gpus device=0", help="options of `docker run` (default: %(default)s)")
    parser.add_argument("--ids", nargs="+", default=["sdpa-cu128", "flex-cu128", "fa4-cu128"], metavar="ID")
    parser.add_argument("--turns", type=int, default=3, help="of `checks` and `collective` (default: %(default)s)")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    (out / "reports").mkdir(parents=True, exist_ok=True)
    every, one = (tuple(shlex.split(words)) for words in (arguments.all, arguments.one))
    host = Host(every=every, one=one, ids=tuple(arguments.ids), out=out, turns=arguments.turns)
    document: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat()}
    for part in arguments.parts:
        rows: list[dict[str, Any]] = []
        for row in PARTS[part](host):
            rows.append(row)
            document[part] = rows
            (out / "several.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            print(
                part, {key: row[key] for key in row if key not in {"collective", "said"}}, file=sys.stderr, flush=True
            )


def checks(host: Host) -> Iterator[dict[str, Any]]:
    """Each image on one GPU and on all of them, in turn: the ratio is of one go."""
    for turn in range(host.turns):
        for image in host.ids:
            yield host.check(f"{image}-one-{turn}", image, host.one)
            yield host.check(f"{image}-all-{turn}", image, host.every)


def bad(host: Host) -> Iterator[dict[str, Any]]:
    """GPU 1 has other work; GPU 1 computes wrong."""
    image = host.ids[0]
    name = f"load-{os.getpid()}"
    load = ["--rm", "--detach", f"--name={name}", *host.every, "--env=ATTN_CHECK=off", reference(image)]
    subprocess.run(["docker", "run", *load, "python", "-c", LOAD], check=True, capture_output=True)
    try:
        time.sleep(8)  # until it has imported torch
        yield host.check("beside-a-load", image, host.every)
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)
    folder = host.out / "wrong"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(WRONG, encoding="utf-8")
    yield host.check("wrong-on-one", image, (*host.every, *on_path(folder)))


def on_path(folder: Path) -> tuple[str, str]:
    """What makes every Python of a container but the parent, which is isolated, load the folder's sitecustomize."""
    return f"--volume={folder}:/planted:ro", "--env=PYTHONPATH=/planted"


def collective(host: Host) -> Iterator[dict[str, Any]]:
    """Ours and the plain loop, in turn."""
    image = host.ids[0]
    mount = f"--volume={ROOT / 'tests/gpu'}:/plain:ro"
    options = [*host.every, *NAMED, "--env=ATTN_CHECK=off", mount, reference(image)]
    sizes = ["4"] if "cpu" in image else ["256", "1024"]
    loop = ["torchrun", f"--nproc-per-node={count(host)}", "/plain/plain_collectives.py", *sizes]
    for turn in range(host.turns):
        yield host.check(f"collective-{turn}", image, host.every, "--collective")
        seconds, done = ran([*options, *loop])
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        yield {"name": f"plain-{turn}", "container": seconds, "exit": done.returncode, "bandwidth": lines}


def count(host: Host) -> int:
    """How many GPUs torch sees in a container of all."""
    script = "import torch; print(torch.cuda.device_count() or 2)"
    _, done = ran([*host.every, "--env=ATTN_CHECK=off", reference(host.ids[0]), "python", "-c", script])
    return int(done.stdout)


def faults(host: Host) -> Iterator[dict[str, Any]]:
    """Rank 1 hangs, or computes wrong; `tests.collective.seeded` plants it."""
    for fault in ("hangs", "gives-wrong", "gathers-wrong", "adds-wrong", "crashes", "is-late"):
        options = (*host.every, *on_path(plant(host.out / fault, fault)), "--env=ATTN_TIMEOUT=40")
        yield host.check(f"rank-{fault}", host.ids[0], options, "--collective")


def training(host: Host) -> Iterator[dict[str, Any]]:
    """20 steps through the entrypoint on all GPUs, as `axolotl train` starts them; how often the check spoke."""
    for image in host.ids:
        folder = host.out / f"training-{image}"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
        shape, keys = "tiny" if "cpu" in image else "small", recipe(image) | {"max_steps": 20}
        mounts = [f"--volume={folder}:/workspace", f"--volume={ROOT / 'tests/train'}:/train:ro", *NAMED]
        written = ["python", "/train/tiny_llama.py", ".", f"--shape={shape}", f"--keys={json.dumps(keys)}"]
        ran([*host.every, *mounts, "--env=ATTN_CHECK=off", reference(image), *written])
        variables = ["--env=ATTN_REPORT=/workspace/report.json"]
        seconds, done = ran([*host.every, *mounts, *variables, reference(image), "axolotl", "train", "config.yml"])
        (folder / "said.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
        said = done.stdout + done.stderr
        report = json.loads((folder / "report.json").read_text()) if (folder / "report.json").exists() else {}
        yield {
            "name": f"training-{image}",
            "keys": keys,
            "container": seconds,
            "exit": done.returncode,
            "steps": len(STEP.findall(said)),
            "checks": said.count("axolotl-attn: checking"),
            **{key: report.get(key) for key in ("verdict", "reasons", "seconds", "rehearsal")},
            "gpus": gpus_of(report),
            "last": said.strip().splitlines()[-4:] if done.returncode else [],
        }


def recipe(image: str) -> dict[str, Any]:
    """The keys of the image's packed recipe, as its README names it."""
    spec = json.loads((ROOT / f"docker/specs/{image}.json").read_text(encoding="utf-8"))
    packed: dict[str, Any] = next(each["keys"] for each in spec["recipes"] if each["packing"])
    return packed


PARTS: Final[dict[str, Callable[[Host], Iterator[dict[str, Any]]]]] = {
    "checks": checks,
    "bad": bad,
    "collective": collective,
    "faults": faults,
    "training": training,
}


if __name__ == "__main__":
    main()
