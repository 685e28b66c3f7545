"""One run on one node: our own worker on a folder of its own.

The task is a generator (Ray streams what it yields to the driver). It unpacks the run into a folder on the node's own
disk, lets `runs.worker` do it in a thread, and yields what the driver must know:

    ("about", values)              once: host, process, Ray's id of the node
    ("tell", done, detail)         edits made, and what is being done
    ("log", text)                  lines of the run's log
    ("file", name, offset, bytes)  a part of a file of the run's folder
    ("take",)                      the files just sent are a consistent whole: rows and the state that they name
    ("end", status, error)         nothing more will come; "other" when this node has another program than the driver

A state is sent as soon as the worker has saved it, so that what a dead node takes with it is what was done since then.
Nothing is compared with the clock of another machine.
"""

from __future__ import annotations

import getpass
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from encore_core import processes
from encore_core.cluster.nodes import versions_here
from encore_core.errors import InputError, first_line
from encore_core.runs.carried import snapshot
from encore_core.runs.resume_state import EDITED_FILE
from encore_core.runs.store import RunStore
from encore_core.runs.worker import Worker
from encore_core.storage import WriteError, writing

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
HEED_SECONDS = 0.5
CHUNK_BYTES = 32 << 20

Message = tuple[Any, ...]


@dataclass(frozen=True)
class Ticket:
    """What a task must know of its run.

    Attributes:
        run_id: the run.
        device: on the node: "cpu", "cuda:0", "balanced".
        threads: of torch, for a run that begins; one that is resumed uses those it was begun with.
        save_seconds: see `runs.runner.SAVE_SECONDS`.
        scratch: folder to work in; None for the one for temporary files.
        versions: that this node must have, see `nodes.versions_here`.
    """

    run_id: str
    device: str
    threads: int
    save_seconds: float
    scratch: str | None
    versions: Mapping[str, str]


Files = Iterable[tuple[str, Iterable[bytes]]]
"""A run's folder: names with "/", and of each its parts in order."""

Ask = Callable[[], str | None]
"""What the driver wants: "cancel", "interrupt" or None. Raises `DriverGone`."""


class DriverGone(Exception):
    """Nobody reads what the task sends."""


def serve_run(ticket: Ticket, files: Sequence[tuple[str, Sequence[Any]]], mailbox: Any) -> Iterator[Message]:
    """The body of the Ray task: `work` with what comes through Ray.

    Args:
        ticket: what to do.
        files: the run's folder, of each file the references to its parts in Ray's object store.
        mailbox: handle of the driver's `Mailbox`.
    """
    import ray

    # A task that waits in `ray.get` gives its cores back, and Ray starts another run on them; a thread of it does not.
    with ThreadPoolExecutor(1) as thread:

        def get(reference: Any, seconds: float | None = None) -> Any:
            return thread.submit(ray.get, reference, timeout=seconds).result()

        def ask() -> str | None:
            try:
                return get(mailbox.stop_of.remote(ticket.run_id), 60.0)
            except ray.exceptions.GetTimeoutError:
                return None  # a busy or distant driver; Ray says so when it is gone
            except ray.exceptions.RayError as error:
                raise DriverGone from error

        node = ray.get_runtime_context().get_node_id()
        yield from work(ticket, ((name, map(get, parts)) for name, parts in files), ask, node)


def work(ticket: Ticket, files: Files, ask: Ask, node: str = "") -> Iterator[Message]:
    """Do a run, see above. Does not raise for what a run can meet: it ends with a word.

    Args:
        ticket: what to do.
        files: the run's folder, see `runs.carried.pack`.
        ask: says whether to stop.
        node: Ray's id of this node.
    """
    yield "about", {"host": processes.host(), "pid": os.getpid(), "node": node}
    if difference := _other_version(ticket):
        yield "end", "other", f"{difference} (node {processes.host()})"
        return
    try:
        with _Folder(ticket) as folder:
            yield from _Task(ticket, folder, ask).run(files)
    except (InputError, OSError) as error:
        yield "end", "failed", f"{_one(error)} (node {processes.host()})"


def _other_version(ticket: Ticket) -> str:
    """What this node has in another version than the driver, in words; "" where all are the same."""
    here = versions_here()
    for name, wanted in ticket.versions.items():
        if here.get(name) != wanted:
            return (
                f"This node has {name} {here.get(name)}, the driver of the plan {wanted}: one of them was changed "
                "since the plan was started. Install the same version on all nodes, then start the plan again"
            )
    return ""


def _one(error: BaseException) -> str:
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and not isinstance(error, WriteError):
        return f"{error.filename or 'a file'}: {error.strerror or error}"
    return first_line(error)


class _Folder:
    """A folder on this node that nobody else uses; those of tasks that are gone are removed first.

    Raises:
        OSError: when it cannot be made.
    """

    def __init__(self, ticket: Ticket):
        self.place = Path(ticket.scratch or tempfile.gettempdir()) / f"encore-cluster-{_user()}"
        self.name = f"{ticket.run_id}-"

    def __enter__(self) -> Path:
        self.place.mkdir(parents=True, exist_ok=True)
        for other in self.place.glob("*/in-use.lock"):
            lock = FileLock(other)
            with suppress(Timeout, OSError):
                lock.acquire(timeout=0)
                shutil.rmtree(other.parent, ignore_errors=True)
                lock.release()
        self.folder = Path(tempfile.mkdtemp(prefix=self.name, dir=self.place))
        # The system frees it with the process.
        self.lock = FileLock(self.folder / "in-use.lock")
        self.lock.acquire(timeout=0)
        return self.folder

    def __exit__(self, *_) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.lock.release()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for the user
        return str(os.getuid())


class _Task:
    """A run in progress on this node."""

    def __init__(self, ticket: Ticket, folder: Path, ask: Ask):
        self.ticket, self.folder, self.ask = ticket, folder, ask
        self.run_id = ticket.run_id
        self.sent: tuple[Any, ...] = ()
        self.told: tuple[Any, ...] = ()
        self.read = 0
        self.heard = 0.0
        self.problem: str | None = None

    def run(self, files: Files) -> Iterator[Message]:
        """Unpack, work, and yield what the driver must know."""
        for name, parts in files:
            target = self.folder / name
            with writing(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as stream:
                    stream.writelines(parts)
        self.store = RunStore(self.folder)
        _settle(self.ticket)
        worker = Worker(self.store, self.ticket.device, idle_seconds=0.0, save_seconds=self.ticket.save_seconds)
        self.sent = self._saved()
        self.read = _size(self.store.log_file(self.run_id))
        thread = threading.Thread(target=self._serve, args=(worker,), name=f"does {self.run_id}", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(POLL_SECONDS)
                self._heed(worker)
                yield from self._news()
            yield from self._news()
        finally:  # the reader has let go
            worker.end()
            thread.join()
        run = self.store.get(self.run_id)
        status = run.status if run.ended else "interrupted"
        error = self.problem or run.error
        yield "end", "failed" if self.problem else status, error and f"{error} (node {processes.host()})"

    def _serve(self, worker: Worker) -> None:
        try:
            worker.serve()
        except Exception as error:  # a full disk, mostly; whatever it is, the driver must hear of it
            log.exception("The worker of run %s ended.", self.run_id)
            self.problem = _one(error) if isinstance(error, InputError | OSError) else first_line(error)

    def _heed(self, worker: Worker) -> None:
        """Stop the run when the driver says so, or is gone."""
        if time.monotonic() - self.heard < HEED_SECONDS:
            return
        self.heard = time.monotonic()
        try:
            stop = self.ask()
        except DriverGone:
            log.warning("The driver of run %s is gone; the run is left.", self.run_id)
            worker.end()
            return
        if stop is not None:
            with suppress(InputError):  # it has ended by itself
                (self.store.cancel if stop == "cancel" else self.store.interrupt)(self.run_id)

    def _news(self) -> Iterator[Message]:
        run = self.store.get(self.run_id)
        log_file = self.store.log_file(self.run_id)
        if (size := _size(log_file)) > self.read:
            with log_file.open("rb") as stream:
                stream.seek(self.read)
                text = stream.read(size - self.read)
            self.read = size
            yield "log", text.decode("utf-8", "replace")
        if (told := (run.done, tuple(run.detail.items()))) != self.told:
            self.told = told
            yield "tell", run.done, dict(run.detail)
        if self._saved() != self.sent:
            yield from self._send()

    def _saved(self) -> tuple[Any, ...]:
        """What changes whenever there is something to be taken in."""
        run = self.store.get(self.run_id)
        newest = [state.digest for state in self.store.states(self.run_id)[:1]]
        return (*newest, run.cursor in self.store.measured(self.run_id), run.weights_digest)

    def _send(self) -> Iterator[Message]:
        """Send rows, and the newest state or the result; a state that is replaced meanwhile is kept by a link."""
        while True:
            saved = self._saved()
            out = self.folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            (out / self.run_id).mkdir(parents=True)
            snapshot(self.store, out)
            found = RunStore(out, read_only=True)
            run, states = found.get(self.run_id), found.states(self.run_id)[:1]
            names = [EDITED_FILE] if run.status == "done" else [state.file for state in states]
            if self.sent and states and states[0].digest == self.sent[0]:
                names = []  # it has been sent; only its measurement is new
            try:
                for name in names:
                    _link(self.folder / self.run_id / name, out / self.run_id / name)
            except FileNotFoundError:
                continue
            break
        for name in names:
            yield from _parts(out, f"{self.run_id}/{name}")
        yield from _parts(out, "runs.sqlite")
        yield ("take",)
        shutil.rmtree(out, ignore_errors=True)
        self.sent = saved


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _parts(folder: Path, name: str) -> Iterator[Message]:
    """A file in parts."""
    with (folder / name).open("rb") as stream:
        offset = 0
        while (data := stream.read(CHUNK_BYTES)) or not offset:
            yield "file", name, offset, data
            offset += len(data)
            if not data:
                return


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _settle(ticket: Ticket) -> None:
    """Settings of the process: quiet libraries, the run's threads, and equal bits for equal input."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(ticket.threads)
    if ticket.device != "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
