"""What a start and a deep check take in fresh containers on this machine's GPU, beside what they cannot do without.

    python tests/gpu/starts.py TAG… --out DIR [--docker '--device nvidia.com/gpu=all'] [--runs 3] [--deep N] [--kept N]

TAG is an image id, or any tag of an image of this project, such as one with an older entrypoint, to compare both in one
go. Each run is a container of its own with empty caches and no network; rounds go over all images before they begin
again. Of each id also: a Python that does nothing, and one that imports torch and the kernel's package. With --kept
come a check whose ATTN_CACHE holds all but its verdict, and N starts whose verdict is remembered. It judges nothing:
DIR/starts.json holds the seconds, DIR/reports what each check said. Standard library and docker only.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

# What a user's Python would import to call the kernel, by the image's default backend.
PACKAGES: Final = {
    "sdpa": "torch",
    "flex": "torch, torch.nn.attention.flex_attention",
    "s2": "torch, torch.nn.attention.flex_attention",
    "fa2": "torch, flash_attn",
    "fa3": "torch, flash_attn_interface",
    "fa4": "torch, flash_attn.cute",
    "xformers": "torch, xformers.ops",
}
IMPORT: Final = "import time; began = time.monotonic(); import {}; print(time.monotonic() - began)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tags", nargs="+", metavar="TAG", help="an image that the engine has: sdpa-cu128, NAME:TAG")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where starts.json and reports/ go")
    parser.add_argument("--docker", default="--gpus all", help="how `docker run` gets the GPU (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="fresh containers of each (default: %(default)s)")
    parser.add_argument("--deep", type=int, default=0, metavar="N", help="deep checks of each id (default: none)")
    parser.add_argument("--kept", type=int, default=0, metavar="N", help="remembered starts of each id (default: none)")
    arguments = parser.parse_args()
    out, options = arguments.out.resolve(), shlex.split(arguments.docker)
    (out / "reports").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for row in runs(arguments, out / "reports", options):
        rows.append(row)
        document = {"date": datetime.now(UTC).date().isoformat(), "runs": rows}
        (out / "starts.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def runs(arguments: argparse.Namespace, reports: Path, options: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every row, one after another."""
    ids = [tag for tag in arguments.tags if ":" not in tag]
    for number in range(arguments.runs):
        for tag in arguments.tags:
            if tag in ids:
                yield bare(tag, options)
                yield imports(tag, options)
            yield check(tag, [*options, "--env=ATTN_CACHE="], "start", reports / f"{file_name(tag)}-{number}.json")
    for number in range(arguments.deep):
        for tag in ids:
            variables = ["--env=ATTN_CACHE=", "--env=ATTN_DEPTH=deep"]
            yield check(tag, [*options, *variables], "deep", reports / f"{file_name(tag)}-deep-{number}.json")
    for tag in ids if arguments.kept else []:
        yield from kept(tag, options, reports, arguments.kept)


def file_name(tag: str) -> str:
    return tag.replace("/", "-").replace(":", "-")


def kept(tag: str, options: Sequence[str], reports: Path, times: int) -> Iterator[dict[str, Any]]:
    """A check that fills a folder, one that finds all but its verdict there, then starts that find that, too."""
    folder = reports.parent / f"cache-{file_name(tag)}"
    folder.mkdir()
    folder.chmod(0o777)
    shared = [*options, f"--volume={folder}:/cache", "--env=ATTN_CACHE=/cache"]
    yield check(tag, shared, "filling", reports / f"{file_name(tag)}-filling.json")
    for verdict in folder.glob("*.json"):
        verdict.unlink()
    yield check(tag, shared, "kept", reports / f"{file_name(tag)}-kept.json")
    for _ in range(times):
        yield bare(tag, options)
        seconds, done = ran([*shared, reference(tag), "true"])
        yield {"tag": tag, "how": "remembered", "container": seconds, "exit": done.returncode}


def reference(tag: str) -> str:
    return tag if ":" in tag else f"axolotl-attn:{tag}"


def bare(tag: str, options: Sequence[str]) -> dict[str, Any]:
    """The container alone, with a Python that does nothing."""
    seconds, _ = ran([*options, "--entrypoint=/opt/venv/bin/python", reference(tag), "-I", "-S", "-c", "pass"])
    return {"tag": tag, "how": "bare", "container": seconds}


def imports(tag: str, options: Sequence[str]) -> dict[str, Any]:
    """What importing torch and the kernel's package takes, as Python itself sees it."""
    backend = tag.rpartition(":")[2].partition("-")[0]
    script = IMPORT.format(PACKAGES[backend])
    seconds, done = ran([*options, "--entrypoint=/opt/venv/bin/python", reference(tag), "-P", "-c", script])
    return {"tag": tag, "how": "import", "container": seconds, "seconds": {"import": float(done.stdout)}}


def check(tag: str, options: Sequence[str], how: str, file: Path) -> dict[str, Any]:
    """One check in a row."""
    row, report = checked(tag, [*options, "--env=ATTN_TIMEOUT=300"], file)
    row = {"tag": tag, "how": how, **row}
    if report:
        row |= {"verdict": report["verdict"], "seconds": report["seconds"], "cases": len(report["cases"])}
        print(f"{tag} {how}: {row['container']} s, {row['verdict']}, {json.dumps(row['seconds'])}", flush=True)
    return row


def checked(
    tag: str, options: Sequence[str], file: Path, arguments: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """How a `check --json` ended, and its report, which also goes to `file`; without one, the end of what it said."""
    seconds, done = ran([*options, reference(tag), "check", "--json", *arguments])
    row: dict[str, Any] = {"container": seconds, "exit": done.returncode}
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {**row, "said": done.stderr[-2000:]}, {}
    file.write_text(done.stdout, encoding="utf-8")
    return row, report


def ran(command: Sequence[str]) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Seconds of a container that has no network, and what it said."""
    began = time.monotonic()
    argv = ["docker", "run", "--rm", "--network=none", "--env=HF_HUB_OFFLINE=1", *command]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return round(time.monotonic() - began, 3), done


if __name__ == "__main__":
    main()
