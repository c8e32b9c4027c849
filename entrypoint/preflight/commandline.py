"""Which Axolotl run a command is: its action, its configuration, and what its flags set. Pure.

Read: Axolotl 0.16.1's and 0.19.0's cli/main.py (click), cli/utils/train.py (what is handed to accelerate and torchrun),
and fire, which reads the arguments of `python -m axolotl.cli.train`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from entrypoint.light import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
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


@dataclass(frozen=True, kw_only=True)
class _Item:
    """One path or flag of Axolotl's own words: where it `starts` and `ends` in the command. A path has no name."""

    name: str
    value: Any
    starts: int
    ends: int


def parse(command: Sequence[str]) -> Request | None:
    """The Axolotl run that `command` starts, directly or through python, accelerate or torchrun; None for others."""
    found = _program(command)
    if found is None:
        return None
    module, start = found
    return _click(command, start) if module == "axolotl" else _fire(module, command, start)


def replaced(command: Sequence[str], config: str, without: Collection[str]) -> tuple[str, ...] | None:
    """`command` with `config` in its configuration's place, and without the flags that set the keys of `without`.

    None where the command does not name a configuration that can be replaced.
    """
    found = _program(command)
    if found is None:
        return None
    items = _items(command, *_own_words(command, *found))
    path = next((item for item in items if not item.name), None)
    named = next((item for item in items if item.name == "config"), None) if found[0] != "axolotl" else None
    taken = path or named
    if taken is None:
        return None
    words = [*command]
    words[taken.starts] = f"--config={config}" if taken.name else config
    gone = {index for item in items if _key(item.name) in without for index in range(item.starts, item.ends)}
    gone |= {*range(taken.starts + 1, taken.ends)}
    return tuple(word for index, word in enumerate(words) if index not in gone)


def _program(command: Sequence[str]) -> tuple[str, int] | None:
    """ "axolotl" for its own command line, or the action of a module that fire reads; and where its words begin."""
    for index, word in enumerate(command):
        if word in {"-m", "--module"} and index + 1 < len(command):
            module = command[index + 1]
            if module in {"axolotl", "axolotl.cli", "axolotl.cli.main"}:
                return "axolotl", index + 2
            if module.startswith("axolotl.cli."):
                return module.removeprefix("axolotl.cli.").replace("_", "-"), index + 2
    return ("axolotl", 1) if command and os.path.basename(command[0]) == "axolotl" else None


def _own_words(command: Sequence[str], program: str, start: int) -> tuple[int, int]:
    """Where Axolotl's paths and flags begin and end: behind the action, and before what is its launcher's."""
    if program != "axolotl":
        return start, len(command)
    action = next((i for i in range(start, len(command)) if not command[i].startswith("-")), len(command))
    end = next((i for i in range(action, len(command)) if command[i] == "--"), len(command))
    return min(action + 1, len(command)), end


def _click(command: Sequence[str], start: int) -> Request | None:
    """`axolotl ACTION …`: flags by hyphens, and all behind `--` is the launcher's."""
    first, end = _own_words(command, "axolotl", start)
    action = command[first - 1] if first > start else ""
    if action not in ACTIONS:
        return None
    config, flags = _split(command, first, end)
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


def _fire(action: str, command: Sequence[str], start: int) -> Request | None:
    """`python -m axolotl.cli.train CONFIG …`: fire takes hyphens and underscores, and reads values as Python."""
    if action not in ACTIONS:
        return None
    config, flags = _split(command, start, len(command))
    named = dict(flags)
    config = config or named.get("config")
    read = tuple((_key(n), _literal(v) if isinstance(v, str) else v) for n, v in flags if n != "config")
    return Request(action=action, config=config, flags=read)


def _split(command: Sequence[str], first: int, end: int) -> tuple[str | None, list[tuple[str, Any]]]:
    """The configuration's path and the flags among the words from `first` to before `end`."""
    items = _items(command, first, end)
    path = next((item.value for item in items if not item.name), None)
    return path, [(item.name, item.value) for item in items if item.name]


def _items(command: Sequence[str], first: int, end: int) -> list[_Item]:
    """Whether an unknown flag takes a value, click knows and we do not: the next word is taken for it, unless no other
    word can be the path."""
    items: list[_Item] = []
    index = first
    while index < end:
        word, following = command[index], command[index + 1] if index + 1 < end else "--"
        name, equals, value = word[2:].partition("=")
        if not word.startswith("--"):
            items.append(_Item(name="", value=word, starts=index, ends=index + 1))
        elif equals:
            items.append(_Item(name=name, value=value, starts=index, ends=index + 1))
        elif name.startswith("no-"):
            items.append(_Item(name=name.removeprefix("no-"), value=False, starts=index, ends=index + 1))
        elif _key(name) in SWITCHES or following.startswith("--"):
            items.append(_Item(name=name, value=True, starts=index, ends=index + 1))
        else:
            items.append(_Item(name=name, value=following, starts=index, ends=index + 2))
        index = items[-1].ends
    return items if any(not item.name for item in items) else _unswallowed(items)


def _unswallowed(items: list[_Item]) -> list[_Item]:
    """The last value that looks like a configuration is one, and its flag a switch."""
    for number in reversed(range(len(items))):
        item = items[number]
        if isinstance(item.value, str) and item.value.endswith(_SUFFIXES) and item.name != "config":
            middle = item.ends - 1
            flag = _Item(name=item.name, value=True, starts=item.starts, ends=middle)
            return [
                *items[:number],
                flag,
                _Item(name="", value=item.value, starts=middle, ends=item.ends),
                *items[number + 1 :],
            ]
    return items


def _key(name: str) -> str:
    return name.replace(".", "__").replace("-", "_")


def _literal(value: str) -> Any:
    """A value as fire reads it: Python's literals, and a bare word as a string."""
    import ast

    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
