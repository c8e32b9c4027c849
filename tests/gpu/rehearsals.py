"""What a start says of each recipe before it trains, on this machine's GPU: kernel check, rehearsal, and two faults.

    python tests/gpu/rehearsals.py ID… --out DIR [--docker '--device nvidia.com/gpu=all'] [--side-by-side N] [--kept]

For each recipe of an image it runs `check --config` in a fresh container, without a network, on the Llama of
tests/train/tiny_llama.py; then packed documents that see each other, by the image without its mends or by a
configuration that asks for no attention, and the crash of FlashAttention 4, by an empty mend in the place of the one
that makes max_seqlen an integer. --kept runs the first of them three times more with a kept ATTN_CACHE. It judges
nothing: DIR/rehearsals.json holds what the reports say. Standard library and docker only.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
SITE: Final = "/opt/venv/lib/python3.11/site-packages"
# What is kept of a report.
PARTS: Final = ("verdict", "code", "reasons", "seconds", "rehearsal", "gpus", "cached")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One start: a recipe's keys in an image, what of the image is covered by something else, and the rules that
    are allowed."""

    name: str
    image: str
    keys: dict[str, Any]
    covered: tuple[tuple[str, str], ...] = ()
    allowed: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="+", metavar="ID", help="an image with Axolotl that the engine has")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where rehearsals.json goes")
    parser.add_argument("--docker", default="--gpus all", help="how `docker run` gets the GPU (default: %(default)s)")
    parser.add_argument("--side-by-side", type=int, default=1, metavar="N", help="starts at a time; their seconds grow")
    parser.add_argument("--only", metavar="NAME", help="this run alone, such as fa4-packed")
    parser.add_argument("--kept", action="store_true", help="the first run three times with a kept ATTN_CACHE")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    options = shlex.split(arguments.docker)
    wanted = [run for image in arguments.ids for run in runs(image, out) if arguments.only in {None, run.name}]
    rows = kept(wanted[0], options, out) if arguments.kept else []
    with ThreadPoolExecutor(arguments.side_by_side) as pool:
        rows += pool.map(lambda run: started(run, options, out), wanted if not arguments.kept else wanted[1:])
    document = {"date": datetime.now(UTC).date().isoformat(), "side_by_side": arguments.side_by_side, "runs": rows}
    (out / "rehearsals.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def runs(image: str, out: Path) -> list[Run]:
    """Each recipe of the image, then the faults that can be made in it."""
    spec = json.loads((ROOT / f"docker/specs/{image}.json").read_text(encoding="utf-8"))
    mends = {mend["name"] for mend in spec["mends"]}
    found = [
        Run(name=f"{each['backend']}-{'packed' if each['packing'] else 'padded'}", image=image, keys=each["keys"])
        for each in spec["recipes"]
    ]
    if "axolotl-packing-without-mask" in mends:
        without = (("/dev/null", f"{SITE}/axolotl_attn_mends.pth"),)
        keys = {"attn_implementation": "sdpa", "sample_packing": True}
        found.append(Run(name="leak", image=image, keys=keys, covered=without))
    else:
        found += [Run(name="leak", image=image, keys={"sample_packing": True}, allowed=rule) for rule in ("", "P03")]
    if "flash-attn-4-max-seqlen" in mends:
        empty = out / "empty.py"
        empty.write_text("def mend(module):\n    pass\n", encoding="utf-8")
        tensor = ((str(empty), f"{SITE}/attn_mends/flash_attn_4_max_seqlen.py"),)
        found.append(Run(name="crash", image=image, keys={"attn_implementation": "flash_attention_4"}, covered=tensor))
    return found


def started(run: Run, options: Sequence[str], out: Path) -> dict[str, Any]:
    """One start in a folder of its own, with empty caches."""
    folder = written(run, options, out / f"{run.image}-{run.name}{run.allowed}")
    return checked(run, options, folder)


def kept(run: Run, options: Sequence[str], out: Path) -> list[dict[str, Any]]:
    """Three starts that share ATTN_CACHE: with nothing in it, with all but verdicts, and with everything."""
    folder = written(run, options, out / f"{run.image}-{run.name}-kept")
    cache = folder / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    shared = [*options, "--env=ATTN_CACHE=/workspace/cache"]
    cold = checked(run, shared, folder)
    for verdict in cache.glob("*.json"):
        verdict.unlink()
    warm, remembered = (checked(run, shared, folder) for _ in range(2))
    bare = timed([*docker(options, folder), "--entrypoint=/opt/venv/bin/python", tag(run), "-I", "-S", "-c", "pass"])[0]
    named = zip(("cold", "kept", "remembered"), (cold, warm, remembered), strict=True)
    return [{**row, "caches": name, "bare": bare} for name, row in named]


def written(run: Run, options: Sequence[str], folder: Path) -> Path:
    """The model, its data and its configuration, written in the image itself."""
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    script = ["python", "/train/tiny_llama.py", ".", "--shape=small", f"--keys={json.dumps(run.keys)}"]
    mount = f"--volume={ROOT / 'tests/train'}:/train:ro"
    timed([*docker(options, folder), mount, "--env=ATTN_CHECK=off", tag(run), *script])
    return folder


def checked(run: Run, options: Sequence[str], folder: Path) -> dict[str, Any]:
    """What one `check --config` says, and how long the container took."""
    covers = [f"--volume={source}:{target}:ro" for source, target in run.covered]
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    environ = ["--env=ATTN_REPORT=/workspace/report.json", "--env=HF_HUB_OFFLINE=1", f"--env=ATTN_ALLOW={run.allowed}"]
    command = [*docker(options, folder), *covers, *environ, tag(run), "check", "--config", "config.yml"]
    seconds, code, said = timed(command)
    (folder / "said.txt").write_text(said, encoding="utf-8")
    document = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    parts = {name: document.get(name) for name in PARTS}
    known = {"name": run.name, "image": run.image, "keys": run.keys, "allowed": run.allowed}
    return {**known, "exit": code, "container": seconds, **parts}


def docker(options: Sequence[str], folder: Path) -> list[str]:
    return ["docker", "run", "--rm", "--network=none", *options, f"--volume={folder}:/workspace"]


def tag(run: Run) -> str:
    return f"axolotl-attn:{run.image}"


def timed(command: Sequence[str]) -> tuple[float, int, str]:
    """Seconds, exit code, and all that it printed."""
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return round(time.monotonic() - began, 2), done.returncode, done.stdout


if __name__ == "__main__":
    main()
