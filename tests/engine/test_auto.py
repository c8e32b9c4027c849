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


BLOCK_MASKS = """
import contextlib, torch
from entrypoint.race import batch as batches, layer
from entrypoint.shape import Shape

shape = Shape(heads=4, kv_heads=2, head_dim=64, value_dim=64, scale=0.125, rows=2, length=256, dtype="float32",
              packed=True, window=96)
batch = batches.batch_of(shape, one_row=True)
problem = layer.Problem(shape=shape, batch=batch, where=torch.device("cpu"))
config, positions = layer._config("flex_attention", shape, 96), layer.positions_of(batch, problem.where)
ours = layer._mask(config, problem, positions, 96)
layer._without_compiler = lambda batch: contextlib.nullcontext()
theirs = layer._mask(config, problem, positions, 96)
for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks", "q_indices"):
    assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
rows = torch.arange(batch.length)
pairs = [each.mask_mod(0, 0, rows[:, None], rows[None]) for each in (ours, theirs)]
assert torch.equal(*pairs) and 0 < pairs[0].sum() < batch.length**2
print("the same")
"""


def test_a_block_mask_made_without_a_compiler_is_the_one_that_transformers_makes(sdpa_cpu: str) -> None:
    """Packed documents and a window; transformers compiles the making of it, for 20 s on a GPU's host."""
    run = ("run", "--rm", "--network=none", "--env=ATTN_CHECK=off", "--env=PYTHONPATH=/opt/attn", sdpa_cpu)
    done = docker(*run, "python", "-P", "-c", BLOCK_MASKS)
    assert done.stdout == "the same\n", done.stderr
