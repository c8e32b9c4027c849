"""The state of one start of the container, which its stages read and change."""

from __future__ import annotations

import os
import time

from entrypoint.kept import compilers, kernels_cache
from entrypoint.light import TYPE_CHECKING, dataclass, field
from entrypoint.machine.devices import cpu_name, look

if TYPE_CHECKING:
    from typing import Any, Final

    from entrypoint.arguments import Invocation
    from entrypoint.auto.start import Auto
    from entrypoint.children.child import Worker
    from entrypoint.errors import EntrypointError
    from entrypoint.judge.finding import VerdictName
    from entrypoint.machine.devices import Devices
    from entrypoint.machine.libcuda import Library
    from entrypoint.preflight.flight import Flight
    from entrypoint.rehearsal.outcome import Rehearsal
    from entrypoint.spec import ImageSpec

HOME: Final = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


@dataclass(kw_only=True)
class Start:
    """One start of the container. `command` is the one given, or what ATTN_BACKEND=auto made of it.

    `environ` is the user's, and what finds `library`, the NVIDIA driver's, for the check and the command; None where
    the image is not for NVIDIA's GPUs.
    """

    spec: ImageSpec
    environ: dict[str, str]
    arguments: Invocation
    command: tuple[str, ...] = ()
    library: Library | None = None
    speaks: bool = True  # one rank of many prints the report, unless another has more to say than that all is well
    flight: Flight | None = None
    auto: Auto | None = None  # where ATTN_BACKEND=auto can choose by timing
    untimed: str = "no configuration is known"  # why it cannot
    choice: dict[str, Any] | None = None
    early: Worker[Rehearsal] | None = None  # the rehearsal's child, where it imports beside the check
    looked: Devices | None = None
    kept: compilers.Kept = compilers.NONE
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def devices(self) -> Devices:
        """The GPUs of the image's vendor, looked for once."""
        self.looked = self.looked or look(self.environ, vendor=self.spec.vendor)
        return self.looked

    @property
    def seconds(self) -> float:
        """How long it has lasted so far."""
        return time.monotonic() - self.started

    @property
    def given(self) -> dict[str, str]:
        """The environment without the compilers' folders that we chose: no verdict depends on where they are."""
        return {name: value for name, value in self.environ.items() if name not in self.kept.variables}

    def keep(self, kept: compilers.Kept) -> None:
        """Let the check's compilers and the command's use this folder."""
        self.kept = kept
        self.environ.update(kept.variables)
        self.notes += filter(None, [kernels_cache.seed(HOME, self.environ)])

    def keep_in(self, directory: str | None) -> None:
        """Let them use their folder in `directory`, or one of this container's own."""
        cpu = cpu_name() if self.spec.device == "cpu" else None
        name = compilers.identity(self.devices, cpu, self.environ)
        self.keep(compilers.prepare(directory, HOME, name, self.given, self.notes.append))

    def shape(self) -> dict[str, Any] | None:
        """The attention calls of the run that follows, where its configuration and config.json tell them."""
        if self.flight is None:
            return None
        from entrypoint.preflight.shape import shape_of

        shape = shape_of(self.flight.facts)
        return dict(vars(shape)) if shape else None

    def known(self) -> dict[str, Any] | None:
        """What is known of the run that follows and decides what is checked."""
        known = {**(self.auto.key if self.auto else {}), "shape": self.shape()}
        return {name: value for name, value in known.items() if value}

    def refused(self, requested: str, error: EntrypointError) -> dict[str, Any]:
        """The report of a start in which nothing was measured."""
        from entrypoint.judge.finding import Code, Finding
        from entrypoint.report.document import build

        code = Code(error.code)
        verdict: VerdictName = "FAIL" if code in {Code.WRONG, Code.GPU_FAULT} else "NOT_CHECKED"
        finding = Finding(verdict=verdict, code=code, what=error.what, advice=error.advice)
        report = build(self.spec, requested, [], [finding], self.seconds)
        return {**report, "notes": [*report["notes"], *self.notes]}
