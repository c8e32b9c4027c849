"""The cases of tests/data/preflight: a configuration, an image, a GPU and a model, and what the rules say of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from entrypoint.preflight.config import Config, merge
from entrypoint.preflight.facts import KNOWN, Facts
from entrypoint.preflight.model import build
from entrypoint.spec import ImageSpec, from_json

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/data/preflight"
# The Axolotl that each platform's cases are about, whatever images.yaml pins today.
AXOLOTL = {"cu128": "0.16.1", "rocm": "0.16.1", "cu130": "0.19.0", "cpu": "0.19.0"}
GPUS = {
    "none": "", "T4": "7.5", "A100": "8.0", "A10": "8.6", "L40S": "8.9", "H100": "9.0", "B200": "10.0", "B300": "10.3",
    "RTX 5090": "12.0", "MI300X": "gfx942",
}  # fmt: skip
# What a configuration of the tables holds beside its own keys.
PLAIN = {"base_model": "org/model", "micro_batch_size": 1, "gradient_accumulation_steps": 1, "sequence_len": 8192}


@dataclass(frozen=True)
class Case:
    """`say`: the ids of exactly the rules that hit. `write`: words of what is to be written instead."""

    id: str
    facts: Facts
    say: frozenset[str]
    runs: str | None
    write: str
    entry: dict[str, Any]

    def question(self) -> dict[str, Any]:
        """The case as tests/engine/real_axolotl.py takes it."""
        return {
            "id": self.id,
            "values": {**PLAIN, **self.entry["config"], "base_model": "./model"},
            "flags": self.entry.get("flags", []),
            "model": models()[self.entry.get("model") or "llama"],
            "capability": self.facts.capability or "",
        }


def cases() -> Iterator[Case]:
    for path in sorted(DATA.glob("*.yaml")):
        if path.stem != "models":
            for number, entry in enumerate(yaml.safe_load(path.read_text())):
                yield from _of(f"{path.stem}-{number:03}", entry)


def _of(name: str, entry: dict[str, Any]) -> Iterator[Case]:
    for image in _list(entry["image"]):
        for gpu in _list(entry["gpu"]):
            name_of = f"{name}-{image}-{gpu}"
            expected = frozenset(entry["say"]), entry.get("runs"), entry.get("write", "")
            yield Case(name_of, facts(entry, image, gpu), *expected, entry)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def facts(entry: dict[str, Any], image: str, gpu: str) -> Facts:
    """The facts of one case. `packages` of an entry are added to the image's; null takes one away."""
    image_spec = spec(image)
    values, dropped = merge({**PLAIN, **entry["config"]}, [tuple(flag) for flag in entry.get("flags", ())])
    lines = {key: number for number, key in enumerate({**PLAIN, **entry["config"]}, 1)}
    flags = frozenset(key for key, _ in entry.get("flags", ())) - set(dropped)
    config = Config(path="config.yml", values=values, lines=lines, set_by_flag=flags, dropped=dropped)
    version = entry.get("axolotl", AXOLOTL[image_spec.platform])
    own = {"axolotl": version, "transformers": KNOWN[version]}
    packages = {**installed(image), **own, **entry.get("packages", {})}
    capabilities = tuple(GPUS[kind] for kind in gpu.split("+") if GPUS[kind])
    raw = models()[entry["model"]] if entry.get("model") else None
    return Facts(
        config=config,
        spec=image_spec,
        packages={name: version for name, version in packages.items() if version},
        model=None if raw is None else build(raw, config, version),
        capabilities=capabilities,
        action=entry.get("action", "train"),
        passed_on=tuple(entry.get("passed_on", ())),
        environ=entry.get("environ", {}),
        mends=frozenset(entry.get("mends", ())),
    )


@cache
def spec(image: str) -> ImageSpec:
    return from_json((ROOT / f"docker/specs/{image}.json").read_text())


@cache
def models() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DATA / "models.yaml").read_text())
    return loaded


@cache
def installed(image: str) -> dict[str, str]:
    """The distributions of an image: the platform's lock without the kernels that the image does not claim."""
    image_spec = spec(image)
    lock = ROOT / f"docker/locks/{'cu128' if image_spec.platform == 'rocm' else image_spec.platform}-axolotl.txt"
    pinned = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s\\]+)", lock.read_text(), re.MULTILINE))
    kernels = {"flash-attn", "flash-attn-3", "flash-attn-4", "sageattention", "xformers"}
    # Axolotl up to 0.16.1 needs FlashAttention 2 beside these, and it may be beside them in any image.
    narrow = image.startswith(("fa4", "sage", "xformers")) and "base" not in image
    beside = {"flash-attn": "2.8.3.post2"} if narrow else {}
    return {
        **{name: found for name, found in pinned.items() if name not in kernels},
        **beside,
        **image_spec.packages,
    }


if __name__ == "__main__":  # what the rules say today, to look at while a table is written
    from entrypoint.preflight.judge import judge

    for case in cases():
        run, found = judge(case.facts)
        said = {item.id for item in found}
        if case.write and not any(case.write in item.instead for item in found):
            print(json.dumps([case.id, case.write, [item.instead for item in found]]))
        if said != case.say or run.kernel != case.runs:
            print(json.dumps([case.id, sorted(case.say), sorted(said), case.runs, run.kernel]))
