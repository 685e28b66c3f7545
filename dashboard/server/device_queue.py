"""A fair line for a device: first come, first served, and those who wait are told their place.

A `DeviceQueue` replaces the lock of every model on its device (`EditableModel.lock`), so nothing can run a model past
it. A turn lasts for one batch of edits, or for the readings that a page asks for together; for another turn a thread
goes to the end of the line. So a visitor with ten batches delays one with a single edit by one batch at most. Threads
wait in the order in which they came. The function given to `tell_waiting` is told their place; when it raises, as
Streamlit's functions do in the thread of a visitor who has left or clicked on something else, the place is given up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from encore_core.runtime import return_freed_memory

READ, EDIT = "reading", "edit"
TOLD_SECONDS = 0.5
"""Seconds between two reports to those who wait."""

IDLE_SECONDS = 15.0
"""Seconds without an edit after which memory is returned to the system."""

_WEIGHT = 0.3
"""Weight of the newest turn in the expected time of its kind."""


@dataclass(frozen=True)
class Place:
    """The place of somebody who waits.

    Attributes:
        number: 1 for the next one.
        seconds: expected until the turn comes; None while a kind of turn before it has not been measured.
        waited: seconds so far.
    """

    number: int
    seconds: float | None
    waited: float

    def __str__(self) -> str:
        left = "" if self.seconds is None else f" · about {max(1, round(self.seconds))} s"
        return f"You are {ordinal(self.number)} in the queue{left}"


@dataclass(frozen=True)
class Turn:
    """A turn as others may see it: `kind` of work, and `seconds` it has run, or waited."""

    kind: str
    seconds: float


@dataclass(frozen=True)
class QueueState:
    """The state of a device.

    Attributes:
        running: whose turn it is; None when the device is free.
        waiting: those in line, in order.
        finished: turns so far.
        expected: kind → expected seconds per unit of such work (a fact, or a page's readings).
    """

    running: Turn | None
    waiting: tuple[Turn, ...]
    finished: int
    expected: dict[str, float]


@dataclass(eq=False)
class _Ticket:
    thread: int
    kind: str
    units: int
    since: float = field(default_factory=time.monotonic)


Teller = Callable[[Place | None], None]

_teller: ContextVar[Teller | None] = ContextVar("told of its place", default=None)
_work: ContextVar[tuple[str, int]] = ContextVar("what a turn is for", default=(READ, 1))


def tell_waiting(tell: Teller | None) -> None:
    """From now on, whenever this thread waits for a device, report its place twice a second.

    Args:
        tell: gets the place, and None when the turn has come; if it raises, the place is given up. None for no
            reports.
    """
    _teller.set(tell)


@contextmanager
def work(kind: str, units: int = 1) -> Iterator[None]:
    """Declare what this thread's turns in the block are for, so that others can be told how long they take.

    Once no edit has been made for a while, the memory that edits used is returned to the system: every visitor's script
    runs in its own threads, and the C allocator would keep each thread's last freed memory. Returned at once it would
    be asked for again by the next batch, a page fault per 4 KiB: more than a second for each method of a comparison.

    Args:
        kind: `READ` or `EDIT`.
        units: the size of a turn, such as the number of facts of a batch.
    """
    before = _work.set((kind, max(1, units)))
    try:
        yield
    finally:
        _work.reset(before)
        if kind == EDIT:
            _return_memory_soon()


_idle: threading.Timer | None = None
_idle_lock = threading.Lock()


def _return_memory_soon() -> None:
    """Return freed memory to the system `IDLE_SECONDS` after the last edit."""
    global _idle
    with _idle_lock:
        if _idle is not None:
            _idle.cancel()
        _idle = threading.Timer(IDLE_SECONDS, return_freed_memory)
        _idle.daemon = True
        _idle.start()


class DeviceQueue:
    """A reentrant lock that is passed on in the order of the requests. Used with `with`, like a lock."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[_Ticket] = deque()
        self._running: _Ticket | None = None
        self._depth = 0
        self._expected: dict[str, float] = {}
        self._finished = 0

    def __enter__(self) -> DeviceQueue:
        if self._mine():
            self._depth += 1
            return self
        ticket = _Ticket(threading.get_ident(), *_work.get())
        tell = _teller.get()
        with self._changed:
            self._line.append(ticket)
            self._pass_on()
        told = False
        try:
            while not self._wait(ticket, None if tell is None else TOLD_SECONDS):
                place = self._place(ticket)
                if place is not None:
                    tell(place)
                    told = True
            if told:
                tell(None)
        except BaseException:  # Streamlit stops a script by exceptions that are no `Exception`
            self._leave(ticket)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not self._mine():
            raise RuntimeError("a device was given back by a thread that did not have it")
        self._depth -= 1
        if not self._depth:
            self._finish()

    def state(self) -> QueueState:
        """The state of the device, without names."""
        now = time.monotonic()
        with self._changed:
            running = self._running
            return QueueState(
                None if running is None else Turn(running.kind, now - running.since),
                tuple(Turn(ticket.kind, now - ticket.since) for ticket in self._line),
                self._finished,
                dict(self._expected),
            )

    # -- inside --------------------------------------------------------------------------------------------------------

    def _mine(self) -> bool:
        # Needs no condition: only this thread can make this true or false.
        running = self._running
        return running is not None and running.thread == threading.get_ident()

    def _wait(self, ticket: _Ticket, seconds: float | None) -> bool:
        """Whether it is the ticket's turn, after waiting for at most `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._running is ticket, seconds)

    def _place(self, ticket: _Ticket) -> Place | None:
        """The place of a ticket; None when its turn has come meanwhile."""
        now = time.monotonic()
        with self._changed:
            if ticket not in self._line:
                return None
            number = self._line.index(ticket) + 1
            before = [*([self._running] if self._running else []), *list(self._line)[: number - 1]]
            waits = [self._seconds(one) for one in before]
            if self._running and waits[0] is not None:
                waits[0] = max(0.0, waits[0] - (now - self._running.since))
        known = None not in waits
        return Place(number, sum(waits) if known else None, now - ticket.since)

    def _seconds(self, ticket: _Ticket) -> float | None:
        expected = self._expected.get(ticket.kind)
        return None if expected is None else expected * ticket.units

    def _pass_on(self) -> None:
        """Give the device to the next in line, if it is free. The caller holds the condition."""
        if self._running is None and self._line:
            self._running, self._depth = self._line.popleft(), 1
            self._running.since = time.monotonic()
            self._changed.notify_all()

    def _finish(self) -> None:
        with self._changed:
            ticket = self._running
            took = (time.monotonic() - ticket.since) / ticket.units
            before = self._expected.get(ticket.kind, took)
            self._expected[ticket.kind] = before + _WEIGHT * (took - before)
            self._finished += 1
            self._running = None
            self._pass_on()

    def _leave(self, ticket: _Ticket) -> None:
        with self._changed:
            if ticket in self._line:
                self._line.remove(ticket)
            else:  # its turn came while it was leaving
                self._running, self._depth = None, 0
                self._pass_on()


SUFFIXES = {1: "st", 2: "nd", 3: "rd"}


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, … 11th, 21st."""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{SUFFIXES.get(number % 10, 'th')}"
