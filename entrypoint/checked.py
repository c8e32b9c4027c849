"""The check of a start whose verdict is not known yet, and `check --collective`. No other start loads this."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from entrypoint.console import say
from entrypoint.errors import Interrupted
from entrypoint.kept import cache, compilers, kernels_cache, seal
from entrypoint.light import replace
from entrypoint.machine.devices import Devices
from entrypoint.report.document import build
from entrypoint.settings import AUTO, Settings
from entrypoint.start import HOME, Start


def measured(start: Start, settings: Settings, devices: Devices, key: cache.Key | None) -> dict[str, Any]:
    """Measure and judge; a verdict that lets a start go on is kept, and so is what was compiled for it."""
    if problem := compilers.problem(start.kept):
        start.notes.append(problem)
        start.keep_in(None)
    doubtful = compilers.unproved(start.kept)
    report = _checked(start, settings, devices)
    if doubtful and report["verdict"] not in cache.KEPT:
        start.notes.append(f"It failed with what compilers kept in {start.kept.path}, so it was checked without that.")
        start.keep(compilers.fresh(start.kept.variables, start.notes.append))
        report = _checked(start, settings, devices)
    if report["verdict"] in cache.KEPT and start.kept.path:
        with contextlib.suppress(OSError):  # it is full: what was compiled serves this start
            seal.write(start.kept.path, start.kept.sealed)
    if key is not None and settings.cache is not None:
        cache.save(settings.cache, key, report, start.notes.append)
    return {**report, "notes": [*report["notes"], *start.notes]}


def _checked(start: Start, settings: Settings, devices: Devices) -> dict[str, Any]:
    """The report of one check, without the notes of the start."""
    from entrypoint.children.measure import Check  # not for collectives

    say(f"checking {settings.backend} of {start.spec.id}; at most {settings.timeout:g} s (ATTN_TIMEOUT)")
    left = max(1.0, settings.timeout - start.seconds) if start.auto else settings.timeout
    shape = start.shape()
    call = json.dumps(shape) if shape else ""
    check = Check(start.spec, replace(settings, timeout=left), HOME, start.environ, call)
    before = kernels_cache.compiled(start.environ)
    try:
        judged = check.run(devices)
    except Interrupted:
        check.stop()
        raise
    if added := len(kernels_cache.compiled(start.environ) - before):
        start.notes.append(f"{added} kernels were compiled: none that came with the image fitted this GPU and call.")
    requested = AUTO if start.auto else settings.backend
    report = build(start.spec, requested, judged, [], start.seconds, depth=settings.depth)
    return {**report, "choice": start.choice}


def collective(start: Start, settings: Settings, devices: Devices) -> dict[str, Any]:
    """The report of `check --collective`. No verdict is kept: links and other nodes are no part of a cache's key."""
    from entrypoint.children import gang
    from entrypoint.judge.collective import judge_collective
    from entrypoint.report import collected

    group = gang.plan(start.environ, start.spec.device, devices.count)
    start.speaks = 0 in group.ranks
    say(f"collectives of {group.world_size} ranks; at most {settings.timeout:g} s (ATTN_TIMEOUT)")
    with gang.Gang(HOME, start.spec.device, start.environ, group, settings.timeout) as running:
        ranks = running.run()
    findings = judge_collective(ranks, fails=settings.slow == "fail")
    report = build(start.spec, settings.backend, [], findings, start.seconds)
    logs = [facts.log for facts in ranks.every if facts.log and facts.ending != "over"]
    return {**report, "logs": [*report["logs"], *logs], "collective": collected.document(ranks)}
