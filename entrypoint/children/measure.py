"""Check every device that the container was given: a child for each, side by side, then the verdict of each."""

from __future__ import annotations

import threading
import time

from entrypoint.children.child import Child, OnEvent, Share
from entrypoint.children.outcome import Outcome
from entrypoint.children.progress import Progress
from entrypoint.choice import chosen, fallback, fits
from entrypoint.events import Event, MachineEvent, PhaseEvent
from entrypoint.judge.siblings import beside_siblings
from entrypoint.judge.verdict import Judged, judge
from entrypoint.machine.devices import Devices
from entrypoint.machine.limits import jobs
from entrypoint.settings import Settings
from entrypoint.spec import BackendSpec, ImageSpec


class Check:
    """One run over all devices. `stop` ends every child from outside, for a signal.

    `shape`: the attention calls of the run that follows, as JSON, where they are known.
    """

    def __init__(
        self, spec: ImageSpec, settings: Settings, home: str, environ: dict[str, str], shape: str = ""
    ) -> None:
        self._spec, self._settings, self._home, self._environ, self._shape = spec, settings, home, environ, shape
        self._started = time.monotonic()
        self._running: set[Child] = set()
        self._stopped = False
        self._jobs = 1  # processes that each device's child may keep busy
        self._lock = threading.Lock()

    def run(self, devices: Devices) -> list[Judged]:
        """Check every device at once, within one time limit for all of them."""
        names = ["cpu"] if self._spec.device == "cpu" else [f"cuda:{index}" for index in range(devices.count)]
        self._jobs = max(1, jobs() // len(names))
        results: dict[str, Outcome | Exception] = {}
        threads = [threading.Thread(target=self._check, args=(name, results), daemon=True) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return beside_siblings(self._settings, [self._judged(results[name]) for name in names])

    def _judged(self, result: Outcome | Exception) -> Judged:
        if isinstance(result, Exception):
            raise result
        return judge(self._spec, self._settings, result)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for child in self._running:
                child.kill()

    def _check(self, device: str, results: dict[str, Outcome | Exception]) -> None:
        """Check one device, in a thread. Under `auto`, a GPU that a backend does not support gets the next one."""
        backend: BackendSpec | None = chosen(self._spec, self._settings)
        try:
            while backend is not None:
                outcome = results[device] = self._measure(device, backend)
                rejected = outcome.ending == "stopped"
                backend = fallback(self._spec, self._settings, backend.name, outcome.gpu) if rejected else None
        except Exception as error:  # noqa: BLE001  (raised again in the main thread, by `run`)
            results[device] = error

    def _measure(self, device: str, backend: BackendSpec) -> Outcome:
        with self._lock:  # so that `stop` meets either no child or a whole one
            if self._stopped:
                return Outcome(device=device, backend=backend.name, ending="stopped")
            deadline = self._started + self._settings.timeout
            seconds = deadline - time.monotonic()
            share = Share(jobs=self._jobs, seconds=seconds, depth=self._settings.depth, shape=self._shape)
            child = Child(self._home, backend.name, device, self._environ, share)
            self._running.add(child)
        with child:
            try:
                return child.run(deadline, self._watch(device, backend))
            finally:
                with self._lock:
                    self._running.discard(child)

    def _watch(self, device: str, backend: BackendSpec) -> OnEvent:
        """Show progress, and stop a child whose GPU the backend does not support before a kernel can crash on it."""
        progress = Progress(f"{device} {backend.name}", self._started)

        def on_event(event: Event) -> bool:
            if isinstance(event, PhaseEvent):
                progress.show(event.name)
            return not isinstance(event, MachineEvent) or fits(self._spec, backend, event.device)

        return on_event
