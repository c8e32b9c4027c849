"""Check images on the GPU at hand with the kernels that this Python has, and keep their reports.

    python -m tests.gpu.record --out DIR [--repeat N] [--only KERNEL] ID…

The entrypoint and the image's spec are laid out as in the image; torch and the kernels are those of this Python, and
the report names their versions. One line a run; the reports are DIR/<id>.json, the texts DIR/<id>.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Of torch.backends.cuda: SDPA's kernels. math stays on, for what the one kernel cannot do.
SWITCHES = {"flash": "flash_sdp", "cudnn": "cudnn_sdp", "efficient": "mem_efficient_sdp"}


def lay_out(image_id: str, home: Path) -> None:
    """The image's /opt/attn, in `home`."""
    shutil.copytree(ROOT / "entrypoint", home / "entrypoint", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "docker" / "specs" / f"{image_id}.json", home / "image.json")


def check(image_id: str, out: Path, environ: dict[str, str]) -> dict[str, Any]:
    """Run one check; its text goes to `out`, and its report, as parsed JSON, is returned.

    Raises CalledProcessError when there is no report.
    """
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "attn"
        lay_out(image_id, home)
        report = out / f"{image_id}.json"
        report.unlink(missing_ok=True)
        variables = {"ATTN_CACHE": "", "ATTN_REPORT": str(report.resolve())}
        command = [sys.executable, "-I", "-S", str(home / "entrypoint/__main__.py"), "check"]
        run = subprocess.run(command, env=environ | variables, stderr=subprocess.PIPE, check=False)
        (out / f"{image_id}.txt").write_bytes(run.stderr)
        if not report.exists():
            raise subprocess.CalledProcessError(run.returncode, command, stderr=run.stderr)
    document: dict[str, Any] = json.loads(report.read_text())
    return document


def with_one_kernel(kernel: str, folder: Path) -> dict[str, str]:
    """An environment in which torch's own choice for SDPA can only be this kernel: the others are switched off."""
    off = "".join(
        f"torch.backends.cuda.enable_{switch}(False)\n" for name, switch in SWITCHES.items() if name != kernel
    )
    return with_startup(f"import torch\n{off}", folder)


def with_startup(code: str, folder: Path) -> dict[str, str]:
    """An environment in which every Python runs `code` first; `folder` is where it is kept."""
    (folder / "sitecustomize.py").write_text(code)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def line(document: dict[str, Any]) -> str:
    """One run in one line."""
    worst = max((case["worst"]["ratio"] or 99.0 for case in document["cases"] if case.get("worst")), default=0.0)
    speeds = " ".join(f"{row['tflops']:.0f}({row['of_matmul']:.2f})" for row in document["performance"])
    seconds = " ".join(f"{name}={value:.1f}" for name, value in document["seconds"].items())
    kernels = document["backend"]["kernels"]
    return f"{document['verdict']:<11} worst={worst:.2f} tflops={speeds} {seconds} kernels={kernels}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="+", metavar="ID")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=1, help="runs of each image: the second finds filled JIT caches")
    parser.add_argument("--only", choices=SWITCHES, help="leave SDPA this kernel alone")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    environ = with_one_kernel(options.only, options.out) if options.only else dict(os.environ)
    for image_id in options.ids:
        for _ in range(options.repeat):
            document = check(image_id, options.out, environ)
            print(f"{image_id}: {line(document)}", flush=True)
            for reason in document["reasons"] if document["verdict"] != "PASS" else []:
                print(f"    {reason[:600]}", flush=True)


if __name__ == "__main__":
    main()
