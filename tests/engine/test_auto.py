"""ATTN_BACKEND=auto in the image: what is timed by the image's own transformers, and a training that follows it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.engine.test_images import docker
from tests.engine.test_train import OPTIONS


def test_a_training_that_asks_for_another_backend_gets_the_one_that_is_right(sdpa_cpu: str, tmp_path: Path) -> None:
    """flash_attention_2 cannot run here (I11): the copy asks for sdpa, and three steps are trained with it."""
    tmp_path.chmod(0o777)  # the container's user is another one
    options = (*OPTIONS, f"--volume={tmp_path}:/workspace", "--env=HF_HUB_OFFLINE=1")
    make = ("python", "/train/tiny_llama.py", ".", "--attention", "flash_attention_2")
    made = docker("run", "--rm", *options, "--env=ATTN_CHECK=off", sdpa_cpu, *make)
    assert made.returncode == 0, made.stderr
    before = (tmp_path / "config.yml").read_bytes()

    auto = (*options, "--env=ATTN_BACKEND=auto", "--env=ATTN_REPORT=/workspace/report.json")
    ran = docker("run", "--rm", *auto, sdpa_cpu, "axolotl", "train", "config.yml")

    assert ran.returncode == 0, ran.stderr
    assert '"attn_implementation": "sdpa"' in ran.stdout
    assert (tmp_path / "config.yml").read_bytes() == before
    steps = json.loads((tmp_path / "out/checkpoint-3/trainer_state.json").read_text())["log_history"]
    assert len([entry for entry in steps if "loss" in entry]) == 3
    report = json.loads((tmp_path / "report.json").read_text())
    choice, (sdpa,) = report["choice"], report["choice"]["candidates"]
    assert (report["verdict"], choice["backend"], sdpa["taken"], sdpa["reason"]) == ("PASS", "sdpa", True, None)
    assert all(milliseconds > 0 for milliseconds in sdpa["milliseconds"].values())
    assert choice["overlay"] == {"attn_implementation": "sdpa"}
    assert f'"axolotl_config_path": "{choice["file"]}"' in ran.stdout
