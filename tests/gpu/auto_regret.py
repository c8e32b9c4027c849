"""What ATTN_BACKEND=auto takes on this machine's GPU for twelve shapes, beside exhaustive timing of every candidate.

    python tests/gpu/auto_regret.py ID… --out DIR [--docker '--device nvidia.com/gpu=all'] [--shapes 1-4,9]

For each shape it writes a config.json and an Axolotl configuration, runs `check --config` with ATTN_BACKEND=auto in the
image, without a network and as the image's own user, and then times every candidate for longer in a new process
(`entrypoint.race --thorough`). The regret is how much slower, of the exhaustive times, the one that was taken is than
the fastest. It judges nothing; DIR/<id>.json is written anew after each shape. Standard library and docker only.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
# Seconds for one container; a first call may compile for long.
LIMIT: Final = 300


@dataclass(frozen=True, kw_only=True)
class Run:
    """A model and how it is trained."""

    name: str
    heads: int
    kv_heads: int
    head_dim: int
    length: int
    rows: int
    packed: bool
    kind: str = "llama"
    extra: dict[str, Any] = field(default_factory=dict)

    def model(self) -> dict[str, Any]:
        """config.json, as far as attention goes."""
        return {
            "model_type": self.kind,
            "hidden_size": self.heads * self.head_dim,
            "num_hidden_layers": 4,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": 1024,
            "max_position_embeddings": 32768,
            **self.extra,
        }

    def keys(self) -> dict[str, Any]:
        """The Axolotl configuration."""
        return {
            "base_model": "./model",
            "sequence_len": self.length,
            "micro_batch_size": self.rows,
            "gradient_accumulation_steps": 1,
            "sample_packing": self.packed,
            "attn_implementation": "eager" if "gemma2" in self.kind else "sdpa",
            "bf16": True,
        }


GEMMA2: Final = {"sliding_window": 4096, "attn_logit_softcapping": 50.0, "query_pre_attn_scalar": 256}
GEMMA3: Final = {"sliding_window": 1024, "query_pre_attn_scalar": 256}
RUNS: Final = (
    Run(name="d64-mha-2048-packed", heads=32, kv_heads=32, head_dim=64, length=2048, rows=4, packed=True),
    Run(name="d64-gqa4-8192-padded", heads=32, kv_heads=8, head_dim=64, length=8192, rows=1, packed=False),
    Run(name="d64-gqa8-2048-padded", heads=32, kv_heads=4, head_dim=64, length=2048, rows=4, packed=False),
    Run(name="d128-gqa4-8192-packed", heads=32, kv_heads=8, head_dim=128, length=8192, rows=1, packed=True),
    Run(name="d128-mha-2048-padded", heads=32, kv_heads=32, head_dim=128, length=2048, rows=4, packed=False),
    Run(name="d128-gqa8-8192-packed", heads=64, kv_heads=8, head_dim=128, length=8192, rows=2, packed=True),
    Run(name="d128-gqa4-2048-packed", heads=32, kv_heads=8, head_dim=128, length=2048, rows=8, packed=True),
    Run(name="d256-gqa4-2048-padded", heads=16, kv_heads=4, head_dim=256, length=2048, rows=4, packed=False),
    Run(name="d256-gqa4-8192-padded", heads=16, kv_heads=4, head_dim=256, length=8192, rows=1, packed=False),
    Run(
        name="d128-window1024-8192-packed", heads=32, kv_heads=8, head_dim=128, length=8192, rows=1, packed=True,
        kind="mistral", extra={"sliding_window": 1024},
    ),
    Run(
        name="d256-softcap-window-8192-packed", heads=8, kv_heads=4, head_dim=256, length=8192, rows=1, packed=True,
        kind="gemma2", extra=GEMMA2,
    ),
    Run(
        name="d256-gqa8-window-2048-packed", heads=8, kv_heads=1, head_dim=256, length=2048, rows=4, packed=True,
        kind="gemma3_text", extra=GEMMA3,
    ),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="+", metavar="ID", help="an image with Axolotl that the engine has")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where <id>.json goes")
    parser.add_argument("--docker", help="options of `docker run` (default: --gpus all; for an image of a CPU, none)")
    parser.add_argument("--shapes", type=numbers, default=tuple(range(1, len(RUNS) + 1)), help="such as 1-4,9")
    parser.add_argument("--seconds", type=int, default=30, help="of exhaustive timing a shape (default: %(default)s)")
    arguments = parser.parse_args()
    for image in arguments.ids:
        container = Container(image, arguments.docker, arguments.out.resolve())
        rows: list[dict[str, Any]] = []
        for number in arguments.shapes:
            rows.append(measured(container, RUNS[number - 1], arguments.seconds))
            print(line(image, rows[-1]), flush=True)
            container.write({"image": image, "date": datetime.now(UTC).date().isoformat(), "shapes": rows})


def numbers(text: str) -> tuple[int, ...]:
    """1,2,3,4,9 of "1-4,9"."""
    pairs = (part.partition("-") for part in text.split(","))
    return tuple(n for low, dash, high in pairs for n in range(int(low), int(high if dash else low) + 1))


def measured(container: Container, run: Run, seconds: int) -> dict[str, Any]:
    """One shape: what auto took, the exhaustive times in milliseconds, and the regret; `error` where that failed."""
    folder = container.prepared(run)
    row: dict[str, Any] = {"name": run.name, "keys": run.keys(), "model": run.model()}
    try:
        report, row["seconds"] = container.checked(folder)
        choice = report.get("choice")
        row |= {"verdict": report["verdict"], "choice": choice, "gpus": [gpu["name"] for gpu in report["gpus"]]}
        if not choice:
            return {**row, "error": report["headline"]["what"], "notes": report["notes"]}
        times = dict(container.timed(folder, choice, seconds))
    except (ValueError, KeyError) as error:
        return {**row, "error": f"{type(error).__name__}: {error}"[:2000]}
    row["exhaustive"] = times
    failed = {item["backend"] for item in choice["candidates"] if item["reason"]}
    totals = {name: sum(parts.values()) for name, parts in times.items() if name not in failed}
    if choice["backend"] not in totals:
        return {**row, "error": "the one that was taken has no exhaustive time"}
    best = min(totals, key=lambda name: totals[name])
    return {**row, "best": best, "taken": choice["backend"], "regret": totals[choice["backend"]] / totals[best] - 1}


def line(image: str, row: dict[str, Any]) -> str:
    """One shape in one line."""
    if "regret" not in row:
        return f"{image} {row['name']}: {row['error'].splitlines()[0]}"
    told = " ".join(f"{name}={sum(parts.values()):.3f}" for name, parts in row["exhaustive"].items())
    return f"{image} {row['name']}: took {row['taken']}, best {row['best']}, regret {row['regret']:.2%}; ms: {told}"


class Container:
    """Runs of one image, each in a container of its own."""

    def __init__(self, image: str, options: str | None, out: Path) -> None:
        self._image, self._out = image, out
        spec = json.loads((ROOT / f"docker/specs/{image}.json").read_text(encoding="utf-8"))
        self._device = "cpu" if spec["device"] == "cpu" else "cuda:0"
        usual = "" if self._device == "cpu" else "--gpus all"
        self._options = shlex.split(usual if options is None else options)
        out.mkdir(parents=True, exist_ok=True)

    def write(self, record: dict[str, Any]) -> None:
        (self._out / f"{self._image}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def prepared(self, run: Run) -> Path:
        """A folder that any user may read, with the run's configuration and its model's."""
        folder = self._out / f"{self._image}-{run.name}"
        (folder / "model").mkdir(parents=True, exist_ok=True)
        (folder / "model/config.json").write_text(json.dumps(run.model()), encoding="utf-8")
        (folder / "config.yml").write_text(json.dumps(run.keys(), indent=1), encoding="utf-8")
        for path in (folder, folder / "model"):
            path.chmod(0o755)
        return folder

    def checked(self, folder: Path) -> tuple[dict[str, Any], float]:
        """The report of `check --config` under auto, and its seconds. Raises ValueError where there is none."""
        variables = ["--env=ATTN_BACKEND=auto", "--env=ATTN_CACHE=", "--env=ATTN_TIMEOUT=240"]
        started = time.monotonic()
        done = self._run(folder, variables, ["check", "--json", "--config", "config.yml"])
        (folder / "check.log").write_text(done.stderr, encoding="utf-8")
        try:
            report: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise ValueError(f"no report, code {done.returncode}: {done.stderr[-1000:]}") from None
        return report, round(time.monotonic() - started, 1)

    def timed(self, folder: Path, choice: dict[str, Any], seconds: int) -> Iterator[tuple[str, dict[str, float]]]:
        """Milliseconds forward and backward of every candidate that the rules allow, by backend: the mean of the kinds
        of layers, each a median. Raises ValueError where there are none."""
        entered = [item["contestant"] for item in choice["candidates"] if item["contestant"]]
        command = ["python", "-P", "-m", "entrypoint.race", "--thorough", "--device", self._device]
        command += ["--contestants", json.dumps(entered), "--shape", json.dumps(choice["shape"])]
        command += ["--seconds", str(seconds)]
        done = self._run(folder, ["--env=ATTN_CHECK=off", "--env=PYTHONPATH=/opt/attn"], command)
        (folder / "race.jsonl").write_text(done.stdout, encoding="utf-8")
        (folder / "race.log").write_text(done.stderr, encoding="utf-8")
        events = [json.loads(text) for text in done.stdout.splitlines() if text.startswith("{")]
        last = {(e["id"], e["direction"]): e["seconds"] for e in events if e["event"] == "speed"}
        if not last:
            raise ValueError(f"nothing was timed, code {done.returncode}: {done.stderr[-1000:]}")
        for backend in dict.fromkeys(name.partition("/")[0] for name, _ in last):
            mine = {key: value for key, value in last.items() if key[0].partition("/")[0] == backend}
            parts = {of: [value for (_, way), value in mine.items() if way == of] for of in ("forward", "backward")}
            yield backend, {of: 1000.0 * sum(values) / len(values) for of, values in parts.items()}

    def _run(self, folder: Path, options: Sequence[str], command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        name = f"auto-regret-{uuid.uuid4().hex[:12]}"
        argv = ["docker", "run", "--rm", f"--name={name}", "--network=none", "--env=HF_HUB_OFFLINE=1", *self._options]
        argv += [f"--volume={folder}:/workspace:ro", *options, f"axolotl-attn:{self._image}", *command]
        try:
            return subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=False)
        except subprocess.TimeoutExpired:
            subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)
            raise ValueError(f"no answer within {LIMIT} s: {' '.join(command)[:200]}") from None


if __name__ == "__main__":
    main()
