"""Watches over one try: processor time, memory, and that nothing is run, fetched or written elsewhere."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

from fuzzing.target import Broken, Target

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 1_000_000_000
"""Of memory that one input may take on top of what the process has."""

FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class",
    "socket.connect", "socket.bind", "socket.getaddrinfo", "ctypes.dlopen",
)  # fmt: skip
"""Events of Python's audit hooks that no input may cause."""


class Hang(BaseException):
    """An input takes too long. No `Exception`, so that nobody on the way catches it."""


@dataclass(frozen=True)
class Finding:
    """What went wrong.

    Attributes:
        key: the same for everything that went wrong in the same way at the same place.
        trace: the traceback.
    """

    key: str
    trace: str


class Guard:
    """Tries inputs one after the other.

    Args:
        target: is set up.
        folder: the only one that may be written to.
    """

    def __init__(self, target: Target, folder: Path):
        self._target = target
        self._places = tuple(str(Path(place).resolve()) for place in (folder, os.devnull, tempfile.gettempdir()))
        self._events: list[str] | None = None
        signal.signal(signal.SIGPROF, self._ring)
        sys.addaudithook(self._hear)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 2 * MOST_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))

    def tried(self, data: bytes) -> tuple[str, Finding | None]:
        """Try an input; returns what became of it ("taken", "refused", "broken"), and what is wrong with that."""
        peak, self._events = _peak(), []
        signal.setitimer(signal.ITIMER_PROF, self._target.seconds)
        try:
            outcome = self._target.check(data)
            signal.setitimer(signal.ITIMER_PROF, 0)
            if self._events:
                raise Broken(f"an input causes {self._events[0].split()[0]}", self._events)
            if _peak() - peak > MOST_BYTES:
                raise Broken("an input takes more than 1 GB of memory", f"{(_peak() - peak) / 1e9:.1f} GB")
            return outcome, None
        except (Exception, Hang) as error:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self._events = None
            return "broken", Finding(_key(error), "".join(traceback.format_exception(error)))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self._events = None

    def _ring(self, *_) -> None:
        raise Hang(f"more than {self._target.seconds:g} s of processor time")

    def _hear(self, event: str, args: tuple[object, ...]) -> None:
        if self._events is None:
            return
        if event.startswith(FORBIDDEN) and event not in self._target.allowed:
            self._events.append(f"{event} {args!r}"[:300])
        elif event == "open" and isinstance(args[0], (str, bytes)) and _writes(args):
            place = str(Path(os.fsdecode(args[0])).resolve())
            if not place.startswith(self._places):
                self._events.append(f"writing {place}"[:300])


def _writes(args: tuple[object, ...]) -> bool:
    mode, flags = args[1], args[2]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


def _peak() -> int:
    """The most memory that the process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _key(error: BaseException) -> str:
    """Kind of a finding: the broken property, or the exception and the function of the program that raised it."""
    if isinstance(error, Broken):
        return error.kind
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if _is_ours(frame.filename)] or frames
    where = Path(ours[-1].filename)
    name = where.relative_to(ROOT) if _is_ours(ours[-1].filename) else where.name
    return f"{type(error).__name__} in {name}: {ours[-1].name}"


def _is_ours(file: str) -> bool:
    return any(file.startswith(str(ROOT / part)) for part in ("encore_core", "dashboard", "pages"))
