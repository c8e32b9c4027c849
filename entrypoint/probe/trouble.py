"""What a child does with an exception: reports it as an event and goes on, or ends with it as its reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from entrypoint.events import CaseErrorEvent, Subject
from entrypoint.probe import device
from entrypoint.probe.eventlog import EventLog

if TYPE_CHECKING:
    import torch

# Characters of an exception that an event carries: several pages of a compiler's.
LONGEST_REASON: Final = 16_000


class Unusable(Exception):
    """torch, the device or the backend (`subject`) cannot be used here at all; the message is the reason."""

    def __init__(self, subject: Subject, reason: str) -> None:
        super().__init__(reason)
        self.subject = subject


@contextmanager
def unusable_if_it_raises(subject: Subject) -> Iterator[None]:
    """Every exception of an import or of opening a device is a reason for the report."""
    try:
        yield
    except Exception as error:
        raise Unusable(subject, describe(error)) from error


@contextmanager
def case_error_if_it_raises(subject: str, where: torch.device, log: EventLog) -> Iterator[None]:
    """Report a case's exception and go on, unless the device no longer works: then its error ends this process."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a kernel package may raise anything
        full = device.is_out_of_memory(error)
        log.emit(CaseErrorEvent(id=subject, reason=describe(error), out_of_memory=full))
        device.recover(where)


def describe(error: BaseException) -> str:
    """The exception's type and message; of a very long one the beginning and the end, where causes stand."""
    text = f"{type(error).__name__}: {error}"
    half = LONGEST_REASON // 2
    return text if len(text) <= LONGEST_REASON else f"{text[:half]}\n[…]\n{text[-half:]}"
