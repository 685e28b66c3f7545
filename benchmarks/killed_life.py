"""Lives of workers for `kills`: forked from a process that has imported everything, watched, and ended by SIGKILL.

What the worker does stands in memory that it shares with the process which forked it, so that the phase in which a kill
has hit is known and not guessed. The phases are told by wrappers around the worker's own functions, put on in the fork
alone; nothing of the program knows of them.

    fork            from the fork until the worker looks at the queue
    getting ready   model, facts and key statistics
    resume          the saved state is read and checked, and what was recorded behind it dropped
    edit            a batch
    checkpoint      state is written, forced to the disk, moved into place; what is older is removed
    measure         at a checkpoint
    end             the edited matrices are written, and states removed
    commit          a transaction of the store, from BEGIN to COMMIT, in any of the others
"""

from __future__ import annotations

import functools
import json
import mmap
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from encore_core import processes
from encore_core.editing.session import EditSession
from encore_core.runs import RunStore, runner, session_of_run, worker
from encore_core.runs.database import Database
from encore_core.runs.heartbeat import Pulse
from encore_core.runs.measuring import Measurer

PHASES = ("fork", "getting ready", "resume", "edit", "checkpoint", "measure", "end", "commit")
BETWEEN = "between these"
_ALL = (BETWEEN, *PHASES)
_COMMIT = _ALL.index("commit")
BEAT_SECONDS = 0.05
"""Signs of life come oftener than usual, so that kills hit them, too."""

_COMMIT_OF_CODE = processes.commit()


@dataclass(frozen=True)
class Life:
    """How a worker's life ended.

    Attributes:
        code: "killed", or the exit code.
        phase: what it was doing; a transaction with the phase in which it was.
        beating: whether it was writing a sign of life, beside what it was doing.
        durations: of a life that ended by itself, the longest time in each phase, in seconds.
        said: the end of its log, when it ended badly.
    """

    code: str | int
    phase: str
    beating: bool = False
    durations: dict[str, float] = field(default_factory=dict)
    said: str = ""


class _Marks:
    """Tells in shared memory what the process does, and through a pipe when a phase is entered that is waited for."""

    def __init__(self, memory: mmap.mmap, pipe: int, aim: str | None, count: int):
        self.memory, self.pipe, self.aim, self.count = memory, pipe, aim, count
        self.longest: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            # A sign of life: not what the run is doing, but worth knowing.
            self.memory[1] = 1
            yield
            self.memory[1] = 0
            return
        before, began = self.memory[0], time.perf_counter()
        # A transaction keeps the phase in which it is, in the upper half of the byte.
        self.memory[0] = (before % 16) * 16 + _COMMIT if name == "commit" else _ALL.index(name)
        if name == self.aim:
            self.count -= 1
            if self.count == 0:
                os.write(self.pipe, b"x")
        try:
            yield
        finally:
            self.memory[0] = before
            self.longest[name] = max(self.longest.get(name, 0.0), time.perf_counter() - began)

    def around(self, owner: Any, name: str, phase: str | Callable[..., str]) -> None:
        """Have a function told as a phase."""
        real = getattr(owner, name)

        @functools.wraps(real)
        def told(*args, **named):
            with self.phase(phase(*args) if callable(phase) else phase):
                return real(*args, **named)

        setattr(owner, name, told)


def _put_on(marks: _Marks) -> None:
    """Wrap the worker's functions. In the fork only."""
    marks.around(runner, "open_session", "getting ready")
    marks.around(runner, "check_facts", "getting ready")
    marks.around(EditSession, "prepare", "getting ready")
    marks.around(runner, "restore", lambda store, claim, *_: "resume" if store.states(claim.id) else "getting ready")
    marks.around(EditSession, "edit", "edit")
    marks.around(runner._Execution, "_save", "checkpoint")
    marks.around(Measurer, "measure", "measure")
    marks.around(runner, "save_matrices", "end")
    for module in (runner, session_of_run):
        marks.around(module, "remove_others", lambda folder, keep: "end" if keep == () else "checkpoint")
    writing = Database.writing

    @contextmanager
    def told(database):
        with marks.phase("commit"), writing(database) as db:
            yield db

    Database.writing = told
    serve = worker.Worker.serve

    def serving(self):
        marks.memory[0] = _ALL.index(BETWEEN)
        serve(self)

    worker.Worker.serve = serving
    Pulse.__init__.__defaults__ = (BEAT_SECONDS,)
    os.nice = lambda by: by  # whoever runs the campaign has said how much of the machine it may have
    processes.commit = lambda: _COMMIT_OF_CODE  # asking git takes longer than a tiny batch


def live(store: RunStore, save_seconds: float, seconds: float, aim: str | None = None, count: int = 0) -> Life:
    """A worker's life.

    Args:
        store: whose queue it serves.
        save_seconds: see `runner.SAVE_SECONDS`.
        seconds: when it is killed, counted from the fork, or from when the aim was met.
        aim: a phase that is waited for first; a worker that never comes to it is not killed.
        count: the how manieth time it enters the phase.
    """
    memory = mmap.mmap(-1, 2)
    reading, writing = os.pipe()
    memory[0] = _ALL.index("fork")
    log = store.folder / "killed-worker.log"
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            marks = _Marks(memory, writing, aim, count)
            _put_on(marks)
            if aim == "fork":
                os.write(writing, b"x")
            code = worker.main(
                ["--store", str(store.folder), "--device", "cpu", "--idle-seconds", "0",
                 "--save-seconds", str(save_seconds)]
            )  # fmt: skip
            os.write(writing, json.dumps(marks.longest).encode())
            os._exit(code)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(99)
    os.close(writing)
    try:
        return _watched(pid, reading, memory, seconds, aim, log)
    finally:
        os.close(reading)
        memory.close()


def _watched(pid: int, pipe: int, memory: mmap.mmap, seconds: float, aim: str | None, log) -> Life:
    """Kill a worker when it is time to, or see it end."""
    said = b""
    if aim is not None:
        said = os.read(pipe, 1)  # nothing when it has ended without coming to it
    # The pipe closes when the process ends, so this waits for either.
    if (aim is None or said == b"x") and not select.select([pipe], [], [], seconds)[0]:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Life("killed", _phase_in(memory), beating=bool(memory[1]))
    rest = (said if said != b"x" else b"") + os.read(pipe, 1 << 16)
    code = os.waitstatus_to_exitcode(status)
    ended = log.read_text("utf-8", "replace")[-500:] if code else ""
    durations = json.loads(rest) if rest and not code else {}
    return Life(code, _phase_in(memory), durations=durations, said=ended)


def _phase_in(memory: mmap.mmap) -> str:
    low, high = memory[0] % 16, memory[0] // 16
    if low == _COMMIT:
        return f"commit ({_ALL[high]})"
    return _ALL[low]


def in_fork(work: Callable[[], object]) -> None:
    """Do something in a process of its own.

    Raises:
        RuntimeError: when it fails.
    """
    if killed_after(None, work):
        raise RuntimeError("The forked process was killed.")


def killed_after(seconds: float | None, work: Callable[[], object]) -> bool:
    """Do something in a process that is killed after so many seconds, or never. Returns whether it was.

    Raises:
        RuntimeError: when it fails by itself.
    """
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(99)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"A forked process has ended with {os.waitstatus_to_exitcode(status)}.")
    return False
