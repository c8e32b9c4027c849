"""A child that has imported beside the check: what it goes on with, and what ends it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
import torch

from entrypoint.lines import GO
from entrypoint.rehearsal import wait

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    read, write = os.pipe()
    yield read, write
    for end in (read, write):
        with contextlib.suppress(OSError):  # the test has closed it
            os.close(end)


def holds(monkeypatch: pytest.MonkeyPatch, *contexts: bool, initialized: bool = True) -> None:
    """A machine with GPUs of which this process has a context on some."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialized)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(contexts))
    monkeypatch.setattr(torch._C, "_cuda_hasPrimaryContext", lambda index: contexts[index], raising=False)


@pytest.mark.parametrize(("said", "goes"), [(GO, True), (b"", False), (b"g", False)])
def test_the_parent_s_word_lets_it_go_on_and_its_end_does_not(pipe: Pipe, said: bytes, goes: bool) -> None:
    read, write = pipe
    os.write(write, said)
    os.close(write)
    assert wait.told_to_go(read) is goes


def test_who_holds_a_gpu_does_not_wait(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody writes here: this would wait for ever."""
    holds(monkeypatch, False, True)
    assert wait.told_to_go(pipe[0]) is False


def test_who_is_told_already_has_nobody_to_be_in_the_way_of(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    holds(monkeypatch, True)
    os.write(pipe[1], GO)
    assert wait.told_to_go(pipe[0]) is True


@pytest.mark.parametrize(("initialized", "contexts", "has"), [(False, (True,), False), (True, (False,), False)])
def test_asking_what_a_gpu_can_do_is_no_context(
    monkeypatch: pytest.MonkeyPatch, initialized: bool, contexts: tuple[bool, ...], has: bool
) -> None:
    holds(monkeypatch, *contexts, initialized=initialized)
    assert wait.has_context() is has
