"""What the preflight reads: the command, the configuration, the model's config.json, and what is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from entrypoint.errors import ConfigError
from entrypoint.machine.devices import Devices, Gpu
from entrypoint.preflight import config, gpus, model, software
from entrypoint.preflight.commandline import Request, parse
from entrypoint.preflight.config import Config

PACKAGES = Path(yaml.__file__).parents[1]


@pytest.mark.parametrize(
    ("command", "action", "path", "flags"),
    [
        ("axolotl train c.yml", "train", "c.yml", {}),
        ("/opt/venv/bin/axolotl preprocess c.yml", "preprocess", "c.yml", {}),
        ("axolotl merge-lora c.yml --flash-attention", "merge-lora", "c.yml", {"flash_attention": True}),
        ("axolotl train c.yml --no-flash-attention", "train", "c.yml", {"flash_attention": False}),
        ("axolotl train --sample-packing c.yml", "train", "c.yml", {"sample_packing": True}),
        ("axolotl train --attn-implementation sdpa c.yml", "train", "c.yml", {"attn_implementation": "sdpa"}),
        ("axolotl train c.yml --attn-implementation=sdpa", "train", "c.yml", {"attn_implementation": "sdpa"}),
        # A switch that is not known here stands before CONFIG: there is no other word that could be it.
        ("axolotl train --some-switch c.yml", "train", "c.yml", {"some_switch": True}),
        ("axolotl train c.yml --trl.beta 0.1", "train", "c.yml", {"trl__beta": 0.1}),
        ("axolotl train c.yml --launcher torchrun -- --nproc_per_node 8", "train", "c.yml", {}),
        ("accelerate launch -m axolotl.cli.train c.yml", "train", "c.yml", {}),
        (
            "accelerate launch --num_processes 2 -m axolotl.cli.train c.yml --bf16=auto",
            "train",
            "c.yml",
            {"bf16": "auto"},
        ),
        ("torchrun --nproc_per_node 8 -m axolotl.cli.evaluate c.yml", "evaluate", "c.yml", {}),
        (
            "python -m axolotl.cli.merge_lora c.yml --sample_packing=False",
            "merge-lora",
            "c.yml",
            {"sample_packing": False},
        ),
        ("python -m axolotl.cli.train --config c.yml", "train", "c.yml", {}),
        ("python -m axolotl.cli.main train c.yml", "train", "c.yml", {}),
    ],
)
def test_the_run_is_found_in_a_command(command: str, action: str, path: str, flags: dict[str, Any]) -> None:
    """Directly, by python, and by both launchers; what is behind -- is the launcher's."""
    request = parse(command.split())

    assert request is not None
    assert (request.action, request.config, dict(request.flags)) == (action, path, flags)


@pytest.mark.parametrize(
    "command", ["python train.py", "bash", "axolotl fetch examples", "axolotl", "echo axolotl train"]
)
def test_other_commands_are_no_run(command: str) -> None:
    assert parse(command.split()) is None


def test_what_fire_reads_and_what_click_keeps() -> None:
    """`None` and numbers become Python's through accelerate and torchrun; click's own strings stay in the others."""

    def of(command: str) -> dict[str, Any]:
        return dict((parse(command.split()) or Request(action="")).flags)

    assert of("axolotl train c.yml --attn-implementation None") == {"attn_implementation": None}
    assert of("axolotl train c.yml --attn-implementation None --launcher python") == {"attn_implementation": "None"}
    assert of("axolotl preprocess c.yml --attn-implementation None") == {"attn_implementation": "None"}
    assert of("axolotl train c.yml --micro-batch-size 4") == {"micro_batch_size": 4}


def test_a_flag_with_an_underscore_goes_to_the_launcher() -> None:
    """Click does not know it, and these commands let unknown options through."""
    request = parse(["axolotl", "train", "c.yml", "--attn_implementation", "sdpa"])

    assert request is not None
    assert (request.flags, request.passed_on) == ((), ("--attn_implementation",))


def test_yaml_is_read_as_pyyaml_reads_it(tmp_path: Path) -> None:
    """YAML 1.1's booleans, the last of two equal keys, and the line of each key; without PyYAML's own __init__."""
    text = "sdp_attention: yes\nbf16: off\nflash_attention: true\nflash_attention: false\nx:\n  y: 1\nstrict: on\n"
    values, lines = config.parse(text, "c.yml", PACKAGES)

    assert values == yaml.safe_load(text)
    assert values == {"sdp_attention": True, "bf16": False, "flash_attention": False, "x": {"y": 1}, "strict": True}
    assert lines == {"sdp_attention": 1, "bf16": 2, "flash_attention": 4, "x": 5, "strict": 7}


def test_pyyaml_is_found_without_site_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent's own way: neither sys.path nor a whole package, and nothing of it stays in the way afterwards."""
    names = [name for name in sys.modules if name == "yaml" or name.startswith("yaml.")]
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])

    assert config.parse("a: 1\n", "c.yml", PACKAGES)[0] == {"a": 1}
    assert "yaml" not in sys.modules
    for name in [name for name in sys.modules if name.startswith("yaml.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match="no PyYAML"):
        config.parse("a: 1\n", "c.yml", Path("/nowhere"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\nb: 2\n", "line 2 is not YAML"),
        ("- a\n- b\n", "top level is a list"),
        ("a: !thing 1\n", "line 1 is not YAML"),
    ],
)
def test_what_is_no_configuration_says_where(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config.parse(text, "c.yml", PACKAGES)


def test_a_folder_stands_for_its_only_yaml(tmp_path: Path) -> None:
    """As Axolotl's choose_config has it; of two it would ask, and nobody could answer."""
    (tmp_path / "one.yml").write_text("a: 1\n")
    assert config.read(str(tmp_path), (), PACKAGES).path == str(tmp_path / "one.yml")

    (tmp_path / "two.yaml").write_text("a: 2\n")
    with pytest.raises(ConfigError, match="holds 2 of them"):
        config.read(str(tmp_path), (), PACKAGES)
    with pytest.raises(ConfigError, match="There is no configuration"):
        config.read(str(tmp_path / "three.yml"), (), PACKAGES)


@pytest.mark.parametrize(
    ("value", "existing", "expected"),
    [
        ("auto", True, False),
        ("true", False, True),
        ("2", 1, 2),
        ("x", 1, "x"),
        ("0.5", 0.1, 0.5),
        ("null", "sdpa", "null"),
        ("null", None, None),
        ("yes", None, True),
        ("3", None, 3),
        ("3e-4", None, 3e-4),
        ("sdpa", None, "sdpa"),
        (True, "sdpa", True),
    ],
)
def test_a_flag_is_cast_as_axolotl_casts_it(value: Any, existing: Any, expected: Any) -> None:
    """_coerce_value: by the type of the file's value; a string stays one."""
    assert config.coerce(value, existing) == expected


def test_strict_drops_flags_whose_keys_the_file_has_not() -> None:
    merged, dropped = config.merge({"strict": True, "a": 1}, [("a", "2"), ("b", "3"), ("trl__beta", "1")])

    assert merged == {"strict": True, "a": 2}
    assert dropped == ("b", "trl__beta")
    assert config.merge({"trl": {"beta": 0.5}}, [("trl__beta", "1")])[0] == {"trl": {"beta": 1.0}}


def test_the_models_configuration_is_a_folders_or_the_hub_caches(tmp_path: Path) -> None:
    """And one that is not there yet is told."""
    local = tmp_path / "model"
    local.mkdir()
    (local / "config.json").write_text("{}")
    assert model.find(Config(path="", values={"base_model": str(local)}), {})[0] == str(local / "config.json")

    environ = {"HF_HOME": str(tmp_path / "hf")}
    named = Config(path="", values={"base_model": "org/name"})
    assert model.find(named, environ) == (
        None,
        f"org/name is neither a folder here nor in the hub's cache {tmp_path}/hf/hub",
    )

    cached = tmp_path / "hf/hub/models--org--name"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("abc\n")
    (cached / "snapshots/abc").mkdir(parents=True)
    (cached / "snapshots/abc/config.json").write_text("{}")
    assert model.find(named, environ)[0] == str(cached / "snapshots/abc/config.json")
    at_commit = Config(path="", values={"base_model": "org/name", "revision_of_model": "abc"})
    assert model.find(at_commit, {"HF_HUB_CACHE": str(tmp_path / "hf/hub")})[0] is not None


@pytest.mark.parametrize(
    ("raw", "facts"),
    [
        ({"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32}, {"head_dim": 128, "kv_heads": 32}),
        ({"model_type": "mistral", "hidden_size": 5120, "num_attention_heads": 32, "head_dim": 128}, {"window": 4096}),
        ({"model_type": "mistral", "sliding_window": None}, {"window": None, "head_dim": None}),
        ({"model_type": "qwen2", "sliding_window": 131072, "use_sliding_window": False}, {"window": None}),
        ({"model_type": "gemma2", "query_pre_attn_scalar": 144, "head_dim": 128}, {"plain_scale": False}),
        ({"model_type": "gemma2"}, {"softcap": 50.0}),
        ({"model_type": "gemma2", "attn_logit_softcapping": None}, {"softcap": None}),
        ({"model_type": "deepseek_v3", "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128},
         {"head_dim": 192, "value_dim": 128, "plain_scale": True}),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "sliding_window": 1024}},
         {"wrapped": True, "window": 1024, "text_type": "gemma3_text"}),
        ({"model_type": "gpt_oss", "layer_types": ["full_attention"]}, {"sinks": True, "window": None, "head_dim": 64}),
        ({"model_type": "llama", "attention_dropout": 0.1}, {"dropout": 0.1}),
        ({"model_type": "unknown", "hidden_size": 64, "num_attention_heads": 2}, {"family": None, "head_dim": 32}),
    ],
)  # fmt: skip
def test_a_models_shapes_are_read_with_its_classs_defaults(raw: dict[str, Any], facts: dict[str, Any]) -> None:
    built = model.build(raw, Config(path="", values={}), "0.19.0")

    assert {name: getattr(built, name) for name in facts} == facts


def test_the_configurations_own_changes_to_the_model_count(tmp_path: Path) -> None:
    """model_config replaces fields of the top level; what is no JSON is not known."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "llama", "attention_dropout": 0.1}))
    changed = Config(path="", values={"model_config": {"attention_dropout": 0.0}})

    loaded = model.load(file, changed, "0.19.0")
    assert loaded is not None
    assert loaded.dropout == 0
    file.write_text("{")
    assert model.load(file, changed, "0.19.0") is None


def test_installed_distributions_come_from_their_folders_names(tmp_path: Path) -> None:
    for name in ("torch-2.13.0+cpu.dist-info", "flash_attn_4-4.0.0b36.dist-info", "torch"):
        (tmp_path / name).mkdir()

    found = software.installed(tmp_path)
    assert found == {"torch": "2.13.0+cpu", "flash-attn-4": "4.0.0b36"}
    assert software.at_least(found, "torch", 2, 13)
    assert not software.at_least(found, "torch", 2, 14)
    assert software.installed(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("NVIDIA H100 80GB HBM3", "9.0"),
        ("NVIDIA A100-SXM4-80GB", "8.0"),
        ("NVIDIA A10", "8.6"),
        ("NVIDIA A10G", "8.6"),
        ("NVIDIA L40S", "8.9"),
        ("NVIDIA L4", "8.9"),
        ("Tesla T4", "7.5"),
        ("NVIDIA B200", "10.0"),
        ("NVIDIA GeForce RTX 5090", "12.0"),
        ("NVIDIA RTX 6000 Ada Generation", "8.9"),
        ("Quadro RTX 6000", "7.5"),
        ("NVIDIA Z999", None),
    ],
)
def test_a_gpus_capability_by_its_name(name: str, capability: str | None) -> None:
    assert gpus.capability(name) == capability


def test_gpus_that_are_unlike_or_unknown_stay_unknown() -> None:
    """CUDA's order is not the driver's, so of two kinds nobody knows which is GPU 0."""

    def devices(*names: str, count: int | None = None) -> Devices:
        found = tuple(Gpu(minor=minor, name=name, uuid="") for minor, name in enumerate(names))
        return Devices(driver="580", listed=found, usable=found, count=len(found) if count is None else count)

    assert gpus.before_torch(devices("NVIDIA H100 PCIe", "NVIDIA H100 PCIe")) == ("9.0", "9.0")
    assert gpus.before_torch(devices("NVIDIA H100 PCIe", "NVIDIA H100 PCIe", count=1)) == ("9.0",)
    assert gpus.before_torch(devices("NVIDIA H100 PCIe", "NVIDIA A100")) == ()
    assert gpus.before_torch(devices("NVIDIA H100 PCIe", "NVIDIA Z999")) == ()
    assert gpus.before_torch(devices()) == ()
    assert gpus.before_torch(devices("NVIDIA H100 PCIe", count=2)) == ()
