"""`python -m entrypoint.probe.share`: one helper of a check compiles and checks its share of the variants.

See `entrypoint.probe.helpers`. It writes the events of the probe to its output, for the check that started it.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from entrypoint.probe import backends, device, early, memory, schedule, variants
from entrypoint.probe.eventlog import EventLog
from entrypoint.probe.limit import Limit

if TYPE_CHECKING:
    import torch


def main(argv: Sequence[str] | None = None) -> int:
    """Whatever a case raises, the check will meet it too, and report it: here the next one follows."""
    options = parse(argv)
    if not early.is_shared(options.device):  # the check needs it
        return 0
    log, where = EventLog.take(1), opened(options.device)
    kernels = early.load_kernels(where)
    index, count = map(int, options.share.split("/"))
    backend = backends.load(options.backend, where)
    plan = schedule.plan(backend, where.type, schedule.asked(options), far=memory.room_for_far(where))
    for run in plan.shared[index::count]:
        mine = replace(plan, checked=[each for each in plan.checked if each.key == run.key])
        refusal = variants.first_call(run, where, log)
        kernels.join(early.PATIENCE)
        if refusal is None:
            variants.check_cases(mine, {run.key}, where, log, Limit())
    return 0


def opened(name: str) -> torch.device:
    """The device, whose context is made while torch is imported."""
    context = early.open_context(name)
    importlib.import_module("torch")
    context.join(early.PATIENCE)
    return device.open_device(name)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -P -m entrypoint.probe.share", description=__doc__)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--device", required=True)
    schedule.add_options(parser)
    parser.add_argument("--share", required=True, metavar="I/N", help="every N-th variant, beginning with the I-th")
    return parser.parse_args(argv)


if __name__ == "__main__":
    os._exit(main())  # torch's own compiler workers can take nine seconds to say goodbye
