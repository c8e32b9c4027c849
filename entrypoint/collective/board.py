"""What each rank tells the others of itself, in the key-value store that torch.distributed has for its rendezvous.

A thread of each rank writes there what the rank has measured and where it is, with a connection of its own: a rank that
hangs in a collective still says where, and the others read which rank they are waiting for.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TextIO

from entrypoint.collective.events import (
    STATES,
    CollectiveLine,
    OverEvent,
    ProgressEvent,
    State,
    Step,
    TroubleEvent,
    encode,
)

if TYPE_CHECKING:
    from torch.distributed import TCPStore

LOOK: Final = 0.2  # seconds between two looks at the store
# After the first rank's failure, seconds for the others to notice theirs and say so.
GRACE: Final = 3.0
# The exit status of a rank that could not go on, after it has said all it knows.
GAVE_UP: Final = 3
_PREFIX: Final = "axolotl-attn/"


@dataclass(frozen=True)
class Place:
    """Where a rank is, and since when (time.monotonic)."""

    step: Step = "import"
    size: int = 0
    round: int = 0
    state: State = "late"
    since: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What torchrun tells a rank of its group: the variables RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Membership:
        """Raises KeyError or ValueError for a variable that is missing or no number."""
        return cls(
            rank=int(environ["RANK"]),
            world_size=int(environ["WORLD_SIZE"]),
            local_rank=int(environ.get("LOCAL_RANK", environ["RANK"])),
            address=environ["MASTER_ADDR"],
            port=int(environ["MASTER_PORT"]),
        )


class Board:
    """The events of this rank: to `stream` at once, to the other ranks soon after, and theirs to `stream` at the end.

    After `seconds`, or soon after a rank has failed, it writes what it knows and ends this process with GAVE_UP.
    """

    def __init__(self, stream: TextIO, group: Membership, seconds: float) -> None:
        self._stream, self._group = stream, group
        self._deadline = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._place = Place(since=time.monotonic())
        # What the device says of where it is, for as long as a collective is timed.
        self.device_position: Callable[[], tuple[int, State]] | None = None
        self._leaving = threading.Event()
        self._gives_up = self._counted = False
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def say(self, event: CollectiveLine) -> None:
        """Write an event down for everyone."""
        with self._lock:
            line = encode(event)
            self._lines.append(line)
            self._write(line)

    def at(self, step: Step, size: int = 0, number: int = 0, state: State = "late") -> None:
        """Say where this rank is; of the rounds of a step only the first goes to `stream`."""
        self._place = Place(step, size, number, state, time.monotonic())
        if number == 0 and state == "late":
            with self._lock:
                self._write(encode(self._progress()))

    def fail(self, event: TroubleEvent) -> None:
        """Say what happened, and wait to be ended with all that the others have to say."""
        if not self._gives_up:  # what is raised after that is the others' end
            self.say(event)
        self._thread.join()

    def leave(self, seconds: Mapping[str, float]) -> None:
        """Wait until every rank is through, pass on what they said, and end this rank's own lines."""
        self.at("leave", state="inside")
        self.say(OverEvent(rank=self._group.rank, seconds=seconds))
        self._leaving.set()
        self._thread.join()

    # --- the thread -------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Publish and watch until everyone is through; else give up."""
        try:
            store = self._connect()
        except Exception:  # noqa: BLE001 - whatever it is: there is no one to talk to
            self._give_up(None)
        failed_at: float | None = None
        while True:
            now = time.monotonic()
            self._publish(store)
            if self._leaving.is_set() and store.add(_PREFIX + "over", 0) >= self._group.world_size:
                break
            if failed_at is None and store.check([_PREFIX + "failed"]):
                failed_at = now
            if now >= self._deadline or failed_at is not None and now >= failed_at + GRACE:
                self._give_up(store)
            time.sleep(LOOK)
        self._pass_on(store)
        self._let_others_read(store)

    def _connect(self) -> TCPStore:
        """A second connection to the store of the rendezvous; it is there when the rank that holds it has begun."""
        from torch.distributed import TCPStore

        left = timedelta(seconds=max(1.0, self._deadline - time.monotonic()))
        group = self._group
        return TCPStore(group.address, group.port, None, is_master=False, timeout=left, wait_for_workers=False)

    def _publish(self, store: TCPStore) -> None:
        with self._lock:
            text = "\n".join([*self._lines, encode(self._progress())])
            trouble = any('"event": "trouble"' in line for line in self._lines)
        store.set(self._key(self._group.rank), text)
        if trouble:
            store.set(_PREFIX + "failed", str(self._group.rank))
        if self._leaving.is_set() and not self._counted:
            self._counted = True
            store.add(_PREFIX + "over", 1)

    def _progress(self) -> ProgressEvent:
        """The lesser of where the host is and where its device is: calls return before the device has done them."""
        place = self._place
        here = place.round, place.state
        number, state = min(here, self._on_device() or here, key=lambda at: (at[0], STATES.index(at[1])))
        since = time.monotonic() - place.since
        return ProgressEvent(
            rank=self._group.rank,
            step=place.step,
            size=place.size,
            round=number,
            state=state,
            since=since,
            last=self._gives_up,
        )

    def _on_device(self) -> tuple[int, State] | None:
        """What the device says of where it is, while a collective is timed; one that is lost says nothing more."""
        ask = self.device_position
        try:
            return ask() if ask else None
        except Exception:  # noqa: BLE001 - after an error of CUDA's every call raises it again
            return None

    def _pass_on(self, store: TCPStore) -> None:
        """Write what the other ranks have said, as far as they have said anything."""
        for rank in range(self._group.world_size):
            if rank != self._group.rank and store.check([self._key(rank)]):
                for line in store.get(self._key(rank)).decode().splitlines():
                    self._write(line)

    def _let_others_read(self, store: TCPStore) -> None:
        """The process of rank 0 may hold the store, so it is the last to go."""
        store.add(_PREFIX + "read", 1)
        if self._group.rank == 0:
            self._wait_for_all(store, "read", GRACE)

    def _give_up(self, store: TCPStore | None) -> None:
        """Say all that is known and end the process, whatever its other threads wait for.

        It ends when the others have given up too: to those in a collective its end would look like a crash.
        """
        self._gives_up = True
        with self._lock:
            self._write(encode(self._progress()))
        if store is not None:
            store.set(_PREFIX + "failed", str(self._group.rank))
            self._publish(store)
            store.add(_PREFIX + "given-up", 1)
            self._wait_for_all(store, "given-up", GRACE + 1.0)
            self._pass_on(store)
            self._let_others_read(store)
        os._exit(GAVE_UP)

    def _wait_for_all(self, store: TCPStore, what: str, seconds: float) -> None:
        """Wait until every rank has counted itself under `what`, for so many seconds at most."""
        limit = time.monotonic() + seconds
        while store.add(_PREFIX + what, 0) < self._group.world_size and time.monotonic() < limit:
            time.sleep(LOOK / 4)

    def _key(self, rank: int) -> str:
        return f"{_PREFIX}rank/{rank}"

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()
