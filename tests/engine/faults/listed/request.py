"""Variables, commands and configurations that cannot work."""

from __future__ import annotations

from typing import Any, Final

from tests.engine.faults.box import signalled
from tests.engine.faults.fault import RUNS, SCRIPT, Fault

CONFIG: Final = """\
base_model: /data/model
attn_implementation: sdpa
micro_batch_size: 1
gradient_accumulation_steps: 1
"""
MODEL: Final = '{"model_type": "llama", "hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 32}'
# A program that is named as Axolotl's own, and does what COMMAND does.
TRAINS: Final = ("/data/axolotl", "train", "/data/config.yml")
PROGRAM: Final = {"axolotl": f"#!/bin/sh\n{SCRIPT}\n"}
TRAINING: Final[dict[str, Any]] = {
    "command": TRAINS,
    "files": {**PROGRAM, "config.yml": CONFIG, "model/config.json": MODEL},
}


def misspelt(name: str, says: str, **env: str) -> Fault:
    """Nobody can say what was meant, so that ATTN_CHECK=warn does not go past it either."""
    return Fault(name=name, env=env, code=90, warn=90, says=says)


def no_command(name: str, word: str, code: int, says: str, **files: str) -> Fault:
    return Fault(name=name, command=(word,), files=files, code=code, warn=code, says=says)


def configured(name: str, text: str, code: int, says: str, **env: str) -> Fault:
    """A training with this configuration."""
    files = {**TRAINING["files"], "config.yml": text}
    return Fault(name=name, command=TRAINS, files=files, env=env, code=code, says=says)


def rehearsed(name: str, word: str, code: int, says: str, **env: str) -> Fault:
    return Fault(name=name, behaviour=f"rehearsal {word}", **TRAINING, env=env, code=code, says=says)


FAULTS: Final = (
    misspelt("a variable that is misspelt", r"Did you mean 'ATTN_BACKEND'\?", ATTN_BACKND="sdpa"),
    misspelt("a backend that the image does not hold", r"ATTN_BACKEND='fa9': expected one of", ATTN_BACKEND="fa9"),
    misspelt("a limit that is no number", r"ATTN_TIMEOUT='soon': expected a number of seconds", ATTN_TIMEOUT="soon"),
    no_command("a command that is not there", "no-such-command", 127, r"'no-such-command' is not in this image"),
    no_command("a command that is not executable", "/etc/passwd", 126, r"/etc/passwd is not executable"),
    no_command("a script without #!", "/data/script", 126, r"Give it a first line such as #!/bin/sh", script="true\n"),
    Fault(name="a broken image.json", spec={"schema": 0}, code=95, says=r"image.json cannot be read"),
    Fault(
        name="a file of the start itself is gone",
        options=("--volume=/dev/null:/opt/attn/entrypoint/settings.py:ro",),
        code=95,
        says=r"The start itself failed: ModuleNotFoundError: No module named 'entrypoint.settings'",
    ),
    Fault(
        name="a configuration that is not there",
        command=("/data/axolotl", "train", "/data/none.yml"),
        files=PROGRAM,
        code=90,
        says=r"/data/none.yml",
    ),
    configured("a configuration that is no YAML", "base_model: [", 90, r"config.yml"),
    configured("a configuration that is no text", "\0\1\2", 90, r"config.yml"),
    configured("an attention that Axolotl does not know", f"{CONFIG.replace('sdpa', 'flash')}", 90, r"\[K05\]"),
    configured("an attention that the image does not hold", CONFIG.replace("sdpa", "flash_attention_2"), 90, r"line 2"),
    configured("a model that is not there", CONFIG.replace("/data/model", "/nowhere"), RUNS, r"Not rehearsed"),
    configured("a model of the hub, without a network", CONFIG.replace("/data/model", "a/b"), RUNS, r"Not rehearsed"),
    rehearsed("a rehearsal whose loss is off", "wrong", 92, r"the loss is 7.69% off"),
    rehearsed("a rehearsal that crashes", "crash", 95, r"SIGSEGV"),
    Fault(
        name="a rehearsal that is killed",
        behaviour="rehearsal hang",
        **TRAINING,
        during=signalled("KILL", "rehearsal: compare", child="entrypoint.rehearsal"),
        code=RUNS,
        says=r"Not rehearsed: the container's memory ran out in compare",
    ),
    rehearsed("a rehearsal that hangs", "hang", 95, r"hung or waited", ATTN_TIMEOUT="12"),
)
