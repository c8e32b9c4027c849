"""The verdict cache: a start that finds this machine's verdict for this image in it needs no torch.

Only a verdict that lets training start is kept. A failure is measured again each time, because someone may have mended
the node. An entry that cannot be read, is no verdict, is too old or was made for another key is ignored, and the report
has a note of it.
"""

from __future__ import annotations

import json
import os
import time

from entrypoint.kept import compilers, digest, seal
from entrypoint.light import TYPE_CHECKING, suppress
from entrypoint.machine.devices import cpu_name
from entrypoint.settings import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, Final

    from _typeshed import StrPath

    from entrypoint.machine.devices import Devices
    from entrypoint.settings import Settings
    from entrypoint.spec import ImageSpec

CACHE_SCHEMA: Final = 2
LIFETIME: Final = 24 * 3600.0  # seconds; cluster-health-scanner, GKE's, trusts a node check for as long
KEPT: Final = ("PASS", "DEGRADED")
# Variables that begin so decide which GPUs, packages and kernels a run gets. A verdict under one value says nothing
# about another: TORCH_CUDNN_SDPA_DEPRIORITIZED turns a failing one into a passing one.
DECIDING: Final = (
    *("ATEN_", "CUDA_", "CUDNN_", "CUTE_DSL_", "DNNL_", "FLASH_ATTENTION_", "LD_", "NVIDIA_", "ONEDNN_", "PYTHONPATH"),
    *("PYTORCH_", "TORCH", "TRITON_", "XFORMERS_"),
    # AMD's: HIP and what it is built on (which GPUs they show, and as which: HSA_OVERRIDE_GFX_VERSION), and the
    # libraries that choose a kernel by tuning.
    *("AITER_", "AMD_", "AOTRITON_", "GPU_", "HIP", "HSA_", "MIOPEN_", "ROCBLAS_", "ROCM_", "ROCR_"),
)
_LARGEST: Final = 1 << 20
# Beside this package in an image: the digests of the sources as they were built.
SOURCES: Final = "sources.sha256"

Key = dict[str, "Any"]


def key_of(  # noqa: PLR0913 - all that a verdict depends on
    spec: ImageSpec,
    home: StrPath,
    devices: Devices,
    settings: Settings,
    environ: dict[str, str],
    *,
    run: Mapping[str, Any] | None = None,
) -> Key | None:
    """What a verdict depends on; None when the devices cannot be told apart, so that no verdict may be reused.

    `run` is what is known of the run that follows and decides what is checked: its attention calls, and under `auto`
    digests of its configuration and model.
    """
    if spec.device == "cpu":
        hardware: list[str] = [cpu_name(), str(os.cpu_count())]
    elif devices.identified:
        hardware = [gpu.uuid for gpu in devices.usable]
    else:
        return None
    return {
        "image": spec.id,
        "content": _content(home),
        "hardware": hardware,
        "driver": devices.driver,
        "environment": {name: environ[name] for name in sorted(environ) if name.startswith(DECIDING)},
        "settings": describe(settings),
        "run": dict(run) if run else None,
    }


def load_deepest(directory: str, key: Key, note: Callable[[str], None]) -> dict[str, Any] | None:
    """The report kept for `key`. A deep verdict serves a start as well, and a start's serves no deep check."""
    if key["settings"]["depth"] == "start":
        deep = {**key, "settings": {**key["settings"], "depth": "deep"}}
        if report := load(directory, deep, note):
            return report
    return load(directory, key, note)


def _content(home: StrPath) -> str:
    """A digest of what was installed: this package, the image's spec, and the name of each installed distribution.

    The names carry the versions, so a derived image that upgrades torch does not inherit the verdict of its parent. Of
    a source it takes size and time, which Python goes by as well when it runs what it has compiled: to read all sources
    takes half as long as Python's own start. An image has SOURCES too, since its builder may give all files one time.
    """
    sources = sorted(_sources(os.path.join(home, "entrypoint")))
    texts = [_text(os.path.join(home, name)) for name in ("image.json", SOURCES)]
    return digest.of_value([texts, sources, compilers.software()])


def _sources(folder: str) -> Iterator[tuple[str, int, int]]:
    """Path, size and time of each source; what Python has compiled is none."""
    for entry in os.scandir(folder):
        if entry.name.endswith(".py"):
            found = entry.stat()
            yield entry.path, found.st_size, found.st_mtime_ns
        elif entry.is_dir() and entry.name != "__pycache__":
            yield from _sources(entry.path)


def _text(path: str) -> str | None:
    with suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        return file.read()
    return None


def load(directory: str, key: Key, note: Callable[[str], None]) -> dict[str, Any] | None:
    """The report kept for `key`, or None. Whatever is wrong with a file is passed to `note` in a sentence."""
    path = _path(directory, key)
    try:
        text = seal.content_of(path, _LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        note(f"The verdict cache {path} cannot be read ({error.strerror}).")
        return None
    try:
        entry = json.loads(text) if len(text) <= _LARGEST else None
    except (ValueError, RecursionError):
        entry = None
    try:
        return _report_of(entry, key, time.time())
    except ValueError as problem:
        note(f"The cached verdict {path} was ignored: {problem}.")
        return None


def _report_of(entry: object, key: Key, now: float) -> dict[str, Any]:
    """The report in a parsed cache entry. Raises ValueError that says why it cannot be used."""
    if not isinstance(entry, dict) or entry.get("schema") != CACHE_SCHEMA or not isinstance(entry.get("report"), dict):
        raise ValueError("it is not a verdict of this version")
    if entry.get("key") != key:
        raise ValueError("it was made for something else")
    report: dict[str, Any] = entry["report"]
    if report.get("verdict") not in KEPT:
        raise ValueError("it holds no verdict that lets a start go on")
    if entry.get("digest") != _digest(report):
        raise ValueError("it is not as it was written")
    saved = entry.get("saved")
    if not isinstance(saved, (int, float)) or not 0 <= now - saved <= LIFETIME:
        raise ValueError(f"it is older than {LIFETIME / 3600:.0f} hours or from the future")
    return report


def save(directory: str, key: Key, report: dict[str, Any], note: Callable[[str], None]) -> None:
    """Keep `report` for `key`, atomically; a directory that cannot be written is a line for the report, no more."""
    if report["verdict"] not in KEPT:
        return
    path = _path(directory, key)
    entry = {"schema": CACHE_SCHEMA, "key": key, "saved": time.time(), "report": report, "digest": _digest(report)}
    try:
        write_atomically(path, json.dumps(entry))
    except OSError as error:
        note(f"The verdict could not be kept in {directory} ({error.strerror}): the next start checks again.")


def _digest(report: dict[str, Any]) -> str:
    """Of a report as it stands in an entry: one that was edited, or has lost a part, would stop a start or mislead."""
    return digest.of(json.dumps(report).encode())


def write_atomically(path: StrPath, text: str) -> None:
    """Write a file so that a reader sees the old or the new text, never half of it. Raises OSError."""
    seal.replace(str(path), text.encode())


def _path(directory: str, key: Key) -> str:
    return os.path.join(directory, f"{digest.of_value(key)}.json")
