"""`python -m entrypoint.probe.share`: one helper of a check compiles and checks its share of the variants.

See `entrypoint.probe.helpers`. It writes the events of the probe to its output, for the check that started it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace

from entrypoint.probe import backends, schedule
from entrypoint.probe.eventlog import EventLog
from entrypoint.probe.limit import Limit


def main(argv: Sequence[str] | None = None) -> int:
    """Whatever a case raises, the check will meet it too, and report it: here the next one follows."""
    options = parse(argv)
    log = EventLog.take(1)
    from entrypoint.probe import device, memory, variants

    index, count = map(int, options.share.split("/"))
    where = device.open_device(options.device)
    backend = backends.load(options.backend, where)
    plan = schedule.plan(backend, where.type, schedule.asked(options), far=memory.room_for_far(where))
    for run in plan.shared[index::count]:
        mine = replace(plan, checked=[each for each in plan.checked if each.key == run.key])
        if variants.first_call(run, where, log) is None:
            variants.check_cases(mine, {run.key}, where, log, Limit())
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -P -m entrypoint.probe.share", description=__doc__)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--device", required=True)
    schedule.add_options(parser)
    parser.add_argument("--share", required=True, metavar="I/N", help="every N-th variant, beginning with the I-th")
    return parser.parse_args(argv)


if __name__ == "__main__":
    os._exit(main())  # torch's own compiler workers can take nine seconds to say goodbye
