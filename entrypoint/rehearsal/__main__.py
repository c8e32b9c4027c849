"""The child's one run: import, wait, model, configuration, data, load, observe, compare, steps; each stage an event."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from entrypoint.rehearsal import hub, material, prepare, training
from entrypoint.rehearsal.eventlog import Left, Stages
from entrypoint.rehearsal.events import AskedEvent, LeftEvent
from entrypoint.rehearsal.run import load, run
from entrypoint.rehearsal.wait import told_to_go


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Exit status 0 whenever the events tell the whole story."""
    options = parse(argv)
    log = Stages.take(options.events)
    hub.refuse(lambda host, by: log.emit(AskedEvent(host=host, by=by)))
    if not ready(log, options.wait):
        os._exit(0)
    with tempfile.TemporaryDirectory(prefix="attn-rehearsal-") as folder:
        task = prepare.Task(
            config=options.config,
            flags=tuple((str(key), value) for key, value in json.loads(options.flags)),
            merged=json.loads(options.merged),
            model=options.model,
            device=options.device,
            backend=options.backend,
            seed=options.seed,
            folder=Path(folder),
        )
        try:
            rehearse(task, log)
        except Left as reason:
            log.emit(LeftEvent(reason=str(reason)))
    log.end()
    sys.stderr.flush()
    os._exit(0)  # threads and pools take seconds to say goodbye


def ready(log: Stages, waits: int | None) -> bool:
    """Import, and wait on a file descriptor for the parent's word; False where none comes."""
    log.enter("import")
    training.imported()
    if waits is None:
        return True
    log.enter("wait")
    return told_to_go(waits)


def rehearse(task: prepare.Task, log: Stages) -> None:
    """The other stages in their order. Raises Left; every other exception of theirs is an event."""
    log.enter("model")
    prepare.write_small(task, log)
    log.enter("configuration")
    cfg = prepare.configured(task, log)
    log.enter("data")
    rows = prepare.rows(task, cfg)
    loaded = load(task, cfg, rows, log)
    if loaded is not None:
        run(task, loaded, log)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -P -m entrypoint.rehearsal",
        description="Run an Axolotl configuration on a shrunk model, with its own attention and with plain attention, "
        "and write what was measured as JSON lines (see entrypoint/rehearsal/events.py). It never judges.",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the user's configuration")
    parser.add_argument("--flags", default="[]", metavar="JSON", help="the command line's: [[key, value], …]")
    parser.add_argument("--merged", required=True, metavar="JSON", help="the configuration under its flags")
    parser.add_argument("--model", required=True, metavar="DIR", help="the folder of the model's config.json")
    parser.add_argument("--device", required=True, help="torch's name for the device: cuda:0, cpu")
    parser.add_argument("--backend", default="", help="the backend that is expected to run")
    parser.add_argument("--seed", default=material.SEED, type=int, help="of the synthetic documents")
    parser.add_argument("--events", default=1, type=int, metavar="FD", help="file descriptor of the lines (default: 1)")
    parser.add_argument("--wait", type=int, metavar="FD", help="wait there for a line, `go`, once all is imported")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
