"""The first call of each variant, so that compilation has its own phase, and then the cases, compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from entrypoint.events import FirstCallEvent
from entrypoint.probe import accuracy, calls, device, helpers
from entrypoint.probe.trouble import Unusable, case_error_if_it_raises, describe

if TYPE_CHECKING:
    import torch

    from entrypoint.probe.eventlog import EventLog
    from entrypoint.probe.limit import Limit
    from entrypoint.probe.schedule import Key, Plan, Scheduled

# A variant that a JIT backend has no cached kernel for costs seconds: those that would begin after this are left out,
# and a later start, which finds the earlier ones in the cache, gets to them.
COMPILE_SECONDS = 20.0


class Compiling:
    """The phase in which variants are compiled.

    `tried` are the keys of those that this process has called, `finished` is what helpers have finished meanwhile.
    """

    def __init__(self, plan: Plan, where: torch.device, log: EventLog, limit: Limit) -> None:
        self._plan, self._where, self._log, self._limit = plan, where, log, limit
        self._refusals: list[str] = []
        self.tried: set[Key] = set()
        self.finished = helpers.NOTHING

    def run(self, aids: helpers.Helpers) -> None:
        """First forward and backward of each variant, but of those whose cases helpers have finished.

        Neither COMPILE_SECONDS nor the limit may be over, but what is in `plan.always`, or what a helper has compiled,
        is tried however long it takes. A variant that fails here fails again as a case and is reported there; Unusable
        is for a backend that runs none.
        """
        if len(aids):
            self._call(self._plan.own)
            with self._log.phase("compile", f"{len(aids)} helpers"):
                self.finished = aids.finish(max(0.0, COMPILE_SECONDS - self._log.seconds["compile"]))
        for run in self._plan.variants:
            if self._is_finished(run):
                self._log.emit(self.finished.first_calls[run.case.id])
            elif run.key not in self.tried:
                self._call(run)
        if len(self._refusals) == len(self.tried) and not self.finished.cases:
            raise Unusable("backend", f"no case runs forward and backward: {self._refusals[0]}")

    def _is_finished(self, run: Scheduled) -> bool:
        """Whether helpers have measured every case of this variant, and this process has nothing to time of it."""
        ids = {each.case.id for each in self._plan.checked if each.key == run.key}
        mine = run.key in self._plan.timed_keys or run.case.id not in self.finished.first_calls
        return not mine and ids <= self.finished.cases.keys()

    def _call(self, run: Scheduled) -> None:
        in_time = self._log.seconds.get("compile", 0.0) <= COMPILE_SECONDS and self._limit.allows("compile")
        if in_time or run.key in self._plan.keys or run.case.id in self.finished.first_calls:
            refusal = first_call(run, self._where, self._log)
            self._refusals += [refusal] if refusal else []
            self.tried.add(run.key)


def first_call(run: Scheduled, where: torch.device, log: EventLog) -> str | None:
    """The reason why it fails, unless that is want of memory."""
    with log.phase("compile", run.case.id) as watch:
        try:
            calls.first(run.backend, run.case, where)
            log.emit(FirstCallEvent(id=run.case.id, seconds=watch.elapsed()))
        except Exception as error:  # noqa: BLE001 - a kernel package may raise anything
            device.recover(where)
            return None if device.is_out_of_memory(error) else describe(error)
    return None


def check_cases(  # noqa: PLR0913 - what is checked, where, and who is told
    plan: Plan,
    compiled: set[Key],
    where: torch.device,
    log: EventLog,
    limit: Limit,
    *,
    finished: helpers.Finished = helpers.NOTHING,
) -> list[str]:
    """A `case` or `case_error` for each case that is compiled, while there is time; the ids of those left out.

    What helpers have `finished` is written as it is.
    """
    left_out = []
    for run in plan.checked:
        case, capabilities = run.case, run.backend.capabilities
        if case.id in finished.cases:
            log.emit(finished.cases[case.id])
            continue
        if run.key not in compiled or not (run in plan.always or limit.allows("correctness")):
            left_out.append(case.id)
            continue
        with log.phase("correctness", case.id) as watch, case_error_if_it_raises(case.id, where, log):
            measured = accuracy.measure(run.backend, case, where)
            designed = None if capabilities is None else capabilities.relative_error
            log.emit(measured.event(case, watch.elapsed(), designed))
    return left_out
