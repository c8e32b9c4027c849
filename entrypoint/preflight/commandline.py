"""Which Axolotl run a command is: its action, its configuration, and what its flags set. Pure.

Read: Axolotl 0.16.1's and 0.19.0's cli/main.py (click), cli/utils/train.py (what is handed to accelerate and torchrun),
and fire, which reads the arguments of `python -m axolotl.cli.train`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

ACTIONS: Final = ("train", "preprocess", "evaluate", "inference", "merge-lora", "merge-sharded-fsdp-weights")
# Those that hand their flags to a new process, where fire reads them; the others keep what click gave them.
LAUNCHED: Final = frozenset({"train", "evaluate", "inference", "merge-sharded-fsdp-weights"})
# Flags without a value, of those that stand before CONFIG more often than others; `--no-x` is always one.
SWITCHES: Final = frozenset(
    {
        "xformers_attention", "sage_attention", "flex_attention", "flash_attention", "sdp_attention",
        "eager_attention", "s2_attention", "sample_packing", "eval_sample_packing", "pad_to_sequence_len", "strict",
        "multipack_real_batches", "fp16", "bfloat16", "float16", "gemma4_hybrid_attn_impl", "sdpa_varlen",
        "fused_attn_kernel", "flash_attn_d512", "flash_attn_fuse_mlp", "flash_attn_cross_entropy",
        "flash_attn_rms_norm", "flash_optimum", "fp8", "load_in_8bit", "load_in_4bit", "trust_remote_code",
        "use_kernels", "scaling_softmax", "selective_checkpointing", "use_ray", "debug", "debug_text_only", "shard",
        "download", "iterable", "gradio", "chat", "dequant", "override_quantizer",
    }
)  # fmt: skip
# Options of the commands themselves, which set no key of the configuration.
OWN: Final = frozenset({"launcher", "cloud", "sweep"})
_SUFFIXES: Final = (".yml", ".yaml", ".json")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A run of Axolotl. `config` is None when the command names none; `flags` are (key, value) in their order, each
    value as it reaches Axolotl's load_cfg. `passed_on`: flags that Axolotl does not take and gives to its launcher."""

    action: str
    config: str | None = None
    flags: tuple[tuple[str, Any], ...] = ()
    passed_on: tuple[str, ...] = ()
    sweep: bool = False


def parse(command: Sequence[str]) -> Request | None:
    """The Axolotl run that `command` starts, directly or through python, accelerate or torchrun; None for others."""
    for index, word in enumerate(command):
        if word in {"-m", "--module"} and index + 1 < len(command):
            module = command[index + 1]
            if module in {"axolotl", "axolotl.cli", "axolotl.cli.main"}:
                return _click(command[index + 2 :])
            if module.startswith("axolotl.cli."):
                return _fire(module.removeprefix("axolotl.cli.").replace("_", "-"), command[index + 2 :])
    return _click(command[1:]) if command and os.path.basename(command[0]) == "axolotl" else None


def _click(words: Sequence[str]) -> Request | None:
    """`axolotl ACTION …`: flags by hyphens, and all behind `--` is the launcher's."""
    action = next((word for word in words if not word.startswith("-")), "")
    if action not in ACTIONS:
        return None
    rest = list(words[words.index(action) + 1 :])
    rest = rest[: rest.index("--")] if "--" in rest else rest
    config, flags = _split(rest)
    launcher = dict(flags).get("launcher", "accelerate")
    fired = action in LAUNCHED and launcher != "python" and not dict(flags).get("use-ray")
    known = [(name, value) for name, value in flags if "_" not in name and name not in OWN]
    return Request(
        action=action,
        config=config,
        flags=tuple((_key(name), _literal(str(value)) if fired else value) for name, value in known),
        passed_on=tuple(f"--{name}" for name, _ in flags if "_" in name) if action in LAUNCHED else (),
        sweep="sweep" in dict(flags),
    )


def _fire(action: str, words: Sequence[str]) -> Request | None:
    """`python -m axolotl.cli.train CONFIG …`: fire takes hyphens and underscores, and reads values as Python."""
    if action not in ACTIONS:
        return None
    config, flags = _split(words)
    named = dict(flags)
    config = config or named.get("config")
    read = tuple((_key(n), _literal(v) if isinstance(v, str) else v) for n, v in flags if n != "config")
    return Request(action=action, config=config, flags=read)


def _split(words: Sequence[str]) -> tuple[str | None, list[tuple[str, Any]]]:
    """The configuration's path and the flags. Whether an unknown flag takes a value, click knows and we do not: the
    next word is taken for it, unless no other word can be the path."""
    paths: list[str] = []
    flags: list[tuple[str, Any]] = []
    index = 0
    while index < len(words):
        word = words[index]
        following = words[index + 1] if index + 1 < len(words) else "--"
        index += 1
        if not word.startswith("--"):
            paths.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if equals:
            flags.append((name, value))
        elif name.startswith("no-"):
            flags.append((name.removeprefix("no-"), False))
        elif _key(name) in SWITCHES or following.startswith("--"):
            flags.append((name, True))
        else:
            flags.append((name, following))
            index += 1
    if not paths:
        swallowed = [value for _, value in flags if isinstance(value, str) and value.endswith(_SUFFIXES)]
        paths = swallowed[-1:]
        flags = [(name, True if value in paths else value) for name, value in flags]
    return (paths[0] if paths else None), flags


def _key(name: str) -> str:
    return name.replace(".", "__").replace("-", "_")


def _literal(value: str) -> Any:
    """A value as fire reads it: Python's literals, and a bare word as a string."""
    import ast

    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
