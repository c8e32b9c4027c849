"""An Axolotl configuration as Axolotl's load_cfg has it: PyYAML's reading, then the command line's flags.

Read: cli/config.py of Axolotl 0.16.1 (:230) and 0.19.0 (:233), which are alike here.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import types
from collections.abc import Iterable, Mapping

from entrypoint.errors import ConfigError
from entrypoint.light import TYPE_CHECKING, dataclass, field

if TYPE_CHECKING:
    from typing import Any, Final

    from _typeshed import StrPath

_TRUE: Final = ("true", "1", "yes")
_WORDS: Final = {"true": True, "yes": True, "false": False, "no": False, "null": None, "none": None, "~": None}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The merged configuration. `lines`: where each key of the file's top level stands, from 1; `set_by_flag`: keys
    that the command line set; `dropped`: flags that `strict: true` drops, as the file does not have their keys."""

    path: str
    values: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)
    set_by_flag: frozenset[str] = frozenset()
    dropped: tuple[str, ...] = ()


def read(path: str, flags: Iterable[tuple[str, Any]], packages: StrPath) -> Config:
    """The configuration at `path` under `flags`; `packages` is the folder that holds PyYAML.

    Raises ConfigError for a file that Axolotl could not read either.
    """
    file, values, lines = of_file(path, packages)
    merged, dropped = merge(values, flags)
    changed = frozenset(key for key, _ in flags) - frozenset(dropped)
    return Config(path=file, values=merged, lines=lines, set_by_flag=changed, dropped=dropped)


def of_file(path: str, packages: StrPath) -> tuple[str, dict[str, Any], dict[str, int]]:
    """The file at `path`, its top level, and the line of each of its keys. Raises ConfigError as `read` does."""
    file = _file(path)
    try:
        with open(file, encoding="utf-8") as opened:
            text = opened.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The configuration {file} cannot be read: {error}.", "Correct the file or its path."
        ) from None
    return file, *parse(text, file, packages)


def _file(path: str) -> str:
    """The file itself; of a folder, its only YAML file, as Axolotl's choose_config takes it."""
    if os.path.isdir(path):
        files = [os.path.join(path, name) for name in _names(path) if name.endswith((".yml", ".yaml"))]
        if len(files) != 1:
            found = f"holds {len(files)} of them" if files else "holds none"
            raise ConfigError(f"{path} is a folder, and it {found}: no configuration can be read.", "Name one file.")
        return files[0]
    if not os.path.exists(path):
        where = "" if os.path.isabs(path) else f" (the working directory is {os.getcwd()})"
        raise ConfigError(
            f"There is no configuration {path}{where}.", "Mount it into the container, or correct its path."
        )
    return path


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def parse(text: str, name: str, packages: StrPath) -> tuple[dict[str, Any], dict[str, int]]:
    """The top level of a YAML document by PyYAML's SafeLoader, and the line of each of its keys."""
    yaml = _pyyaml(packages, "loader", "error")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        values = loader.construct_document(node) if node is not None else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{name}{line} is not YAML: {what}.", "Correct it there.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{name} holds no keys: its top level is a {type(values).__name__}.", "Write `key: value`.")
    lines = {str(key.value): key.start_mark.line + 1 for key, _ in node.value} if node is not None else {}
    return {str(key): value for key, value in values.items()}, lines


def dump(values: Mapping[str, Any], packages: StrPath) -> str:
    """`values` as PyYAML's SafeDumper writes them: its SafeLoader reads the same again."""
    yaml = _pyyaml(packages, "dumper")
    stream = io.StringIO()
    dumper = yaml.SafeDumper(stream, default_flow_style=False, allow_unicode=True, sort_keys=False)
    dumper.open()
    dumper.represent(dict(values))
    dumper.close()
    return stream.getvalue()


def _pyyaml(packages: StrPath, *modules: str) -> types.SimpleNamespace:
    """What these modules of PyYAML hold, without the rest of site-packages.

    The parent has no site-packages (`-S`), so PyYAML's folder alone is made importable, and of it only what is needed:
    its `__init__` would load a compiled library of 2.6 MB, which is most of its import.
    """
    whole = sys.modules.get("yaml")
    if whole is not None:
        return types.SimpleNamespace(**vars(whole))
    package = types.ModuleType("yaml")
    package.__path__ = [os.path.join(packages, "yaml")]
    sys.modules["yaml"] = package
    try:
        found = [importlib.import_module(f"yaml.{name}") for name in modules]
    except ImportError:
        raise ConfigError(
            f"The configuration cannot be read: {packages} has no PyYAML, so this image has no Axolotl.",
            "Use the image without -base in its name.",
        ) from None
    finally:
        del sys.modules["yaml"]  # whoever imports the whole package later gets the whole package
    return types.SimpleNamespace(**{name: value for module in found for name, value in vars(module).items()})


def merge(values: Mapping[str, Any], flags: Iterable[tuple[str, Any]]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`values` under the command line's flags, and the keys of flags that `strict` drops (load_cfg)."""
    merged, dropped = dict(values), []
    plain = [(key, value) for key, value in flags if "__" not in key]
    for key, value in plain:
        if key in merged or not merged.get("strict"):
            merged[key] = coerce(value, merged.get(key))
        else:
            dropped.append(key)
    for key, value in (flag for flag in flags if "__" in flag[0]):
        parent, child = key.split("__", 1)
        if parent not in merged and merged.get("strict"):
            dropped.append(key)
            continue
        inner = merged.get(parent)
        inner = dict(inner) if isinstance(inner, Mapping) else {}
        merged[parent] = {**inner, child: coerce(value, inner.get(child))}
    return merged, tuple(dropped)


def coerce(value: Any, existing: Any) -> Any:
    """A flag's string as _coerce_value casts it: by the type of the file's value, else as YAML would."""
    if not isinstance(value, str):
        return value
    if existing is not None:
        return _like(value, existing)
    if value.lower() in _WORDS:
        return _WORDS[value.lower()]
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            continue
    return value


def _like(value: str, existing: Any) -> Any:
    if isinstance(existing, bool):
        return value.lower() in _TRUE
    for number in (int, float):
        if isinstance(existing, number):
            try:
                return number(value)
            except ValueError:
                return value
    return value
