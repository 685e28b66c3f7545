"""The driver of a grid: launches its runs as Ray tasks, takes in what they send, and starts those again that are lost.

    python -m encore_core.cluster.driver --store FOLDER --device ray:NAME

It is to a grid what a worker is to a device: a process of its own that holds the lock of the queue while it lives,
claims the queue's runs, shows that they are alive, and ends when there is nothing left to do. A task that is lost (its
process, its node, its place in the cluster) is started again from the last state that came; one that is lost
`MOST_LOSSES` times without having brought a state is given up. SIGTERM and Ctrl-C let the runs save their states and
leave them interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import Timeout

from encore_core import processes
from encore_core.cluster import nodes as cluster_nodes
from encore_core.cluster.grid import Grid, read_grid
from encore_core.cluster.incoming import Incoming, packed
from encore_core.cluster.mailbox import open_mailbox
from encore_core.cluster.needs import Needs
from encore_core.cluster.node_task import CHUNK_BYTES, Ticket, serve_run
from encore_core.cluster.task import Task
from encore_core.errors import InputError, first_line
from encore_core.ray_core import connected
from encore_core.runs.database import StoreError
from encore_core.runs.launch import CLUSTER
from encore_core.runs.ownership import LostRun
from encore_core.runs.runner import SAVE_SECONDS
from encore_core.runs.store import RunStore

log = logging.getLogger(__name__)

MOST_LOSSES = 5
BEAT_SECONDS = 1.0
IDLE_SECONDS = 2.0
LOCK_SECONDS = 5.0
NO_NODE_SECONDS = 60.0
"""How long runs may wait in a cluster that has no node with room for them: one may just have died."""

AGAIN_SECONDS, NOT_BEGUN_SECONDS = 1.0, 300.0
"""How soon a lost run is started again, and for how long one that does not even begin."""

UNREAD = 8
"""Messages of a task that may wait to be read; then it waits."""


class Driver:
    """Serves the queue of a grid.

    Args:
        store: in which the grid is.
        grid: which.
        save_seconds: see `runs.runner.SAVE_SECONDS`.
    """

    def __init__(self, store: RunStore, grid: Grid, *, save_seconds: float = SAVE_SECONDS):
        self.store, self.grid, self.save_seconds = store, grid, save_seconds
        self.tasks: dict[str, Task] = {}
        self.fingerprints: dict[str, tuple[str, str]] = {}
        self.versions = cluster_nodes.versions_here()
        self._ending = threading.Event()
        self._is_outdated = False

    def end(self) -> None:
        """End soon: runs save their states and are interrupted. Safe in a signal handler."""
        self._ending.set()

    def serve(self, **options: Any) -> None:
        """Do the queue's runs until there are none.

        Args:
            options: of a local cluster, see `ray_core.connected`.

        Raises:
            InputError: when another driver has the grid, the cluster does not answer, its nodes do not agree or have
                no room, or the store cannot be written.
        """
        lock = self.store.device_lock(self.grid.queue)
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout as error:
            raise InputError(f"Plan {self.grid.name} is being worked on by another process.") from error
        try:
            self.store.abandon(self.grid.queue)
            with connected(self.grid.place.address, **options) as self.ray:
                owner = f"process {os.getpid()} on {processes.host()}, store {self.store.folder}"
                self.mailbox = open_mailbox(self.ray, self.grid.name, owner)
                try:
                    self._check_nodes()
                    self._serve()
                finally:
                    self._let_go()
        finally:
            lock.release()

    # -- before the first run ------------------------------------------------------------------------------------------

    def _queued(self) -> list[Any]:
        return [run for run in self.store.runs() if run.device == self.grid.queue and run.status == "queued"]

    def _check_nodes(self) -> None:
        queued = self._queued()
        if not queued:
            return
        found = cluster_nodes.ask_nodes(self.ray, cluster_nodes.files_needed(run.plan_json for run in queued))
        cluster_nodes.check_agree(found, self.versions)
        needs = {run.id: self.grid.needs[run.id] for run in queued if run.id in self.grid.needs}
        cluster_nodes.check_room(found, needs)
        if len(kinds := cluster_nodes.processors(found)) > 1:
            log.warning("Nodes have different processors (%s): the last bits depend on them.", "; ".join(kinds))

    # -- the loop ------------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        idle = roomless = time.monotonic()
        beaten = 0.0
        while True:
            if not (self._ending.is_set() or self._is_outdated):
                self._launch_what_fits()
                self._start_what_is_due()
            elif not self.tasks:
                return
            if self._is_outdated:
                for task in [task for task in self.tasks.values() if task.stream is None]:
                    task.asked = "interrupt"
                    self._over(task, "interrupted", None)
            now = time.monotonic()
            if self.tasks:
                idle = roomless = now
            elif not self._queued():
                if now - idle > IDLE_SECONDS:
                    return
                roomless = now
            elif now - roomless > NO_NODE_SECONDS:
                self._check_nodes()
                roomless = now
            if now - beaten > BEAT_SECONDS:
                self._beat()
                beaten = now
            self._read(BEAT_SECONDS / 2)

    def _launch_what_fits(self) -> None:
        """Claim as many runs as the living nodes have room for in total; Ray chooses the node."""
        while queued := sorted(self._queued(), key=lambda run: run.position):
            need = self.grid.needs.get(queued[0].id)
            if need is None:  # of another plan of this name, submitted while this driver was at work
                self.grid = read_grid(self.store, self.grid.name)
                need = self.grid.needs.get(queued[0].id) or self._most_needed(queued[0].id)
            room = sum(need.fit(node["Resources"]) for node in self.ray.nodes() if node["Alive"])
            if len(self.tasks) >= room:
                return
            claim = self.store.claim(self.grid.queue)
            if claim is None:
                return
            self.tasks[claim.id] = Task(claim, Incoming(self.store, claim))
            self._start_what_is_due()

    def _most_needed(self, run_id: str) -> Needs:
        """The needs of a run whose own are lost, with the grid's file: no less than those of the others."""
        need = max(self.grid.needs.values(), key=lambda one: (one.gpus, one.memory, one.cpus))
        self.grid = replace(self.grid, needs={**self.grid.needs, run_id: need})
        return need

    def _start_what_is_due(self) -> None:
        for task in [task for task in self.tasks.values() if task.stream is None and task.due <= time.monotonic()]:
            try:
                self._start(task)
            except (InputError, OSError) as error:
                self._over(task, "failed", " ".join(str(error).split()))

    def _start(self, task: Task) -> None:
        """Start a run's task from its last state in the store."""
        run_id = task.claim.id
        run = self.store.get(run_id)
        folder, named = packed(self.store, run_id, run.plan_json["device"])
        try:
            files = [(name, self._put(file)) for name, file in named]
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        need = self.grid.needs[run_id]
        ticket = Ticket(
            run_id, run.plan_json["device"], need.cpus, self.save_seconds, self.grid.place.scratch, self.versions
        )
        options = need.options() | {"max_retries": 0, "_generator_backpressure_num_objects": UNREAD}
        task.stream = self.ray.remote(**options)(serve_run).remote(ticket, files, self.mailbox)
        task.node, task.detail, task.done = None, {"phase": "waiting for a node"}, run.cursor
        self.store.note(task.claim, done=run.cursor)

    def _put(self, file: Path) -> list[Any]:
        """A file's parts in Ray's object store."""
        with file.open("rb") as stream:
            return [self.ray.put(data) for data in iter(lambda: stream.read(CHUNK_BYTES), b"")]

    def _read(self, seconds: float) -> None:
        """Handle messages that have come, at most one of each task; wait for one so long."""
        by_stream = {task.stream: task for task in self.tasks.values() if task.stream is not None}
        if not by_stream:
            self._ending.wait(seconds)
            return
        ready, _ = self.ray.wait(list(by_stream), num_returns=1, timeout=seconds)
        if ready and len(by_stream) > 1:
            ready, _ = self.ray.wait(list(by_stream), num_returns=len(by_stream), timeout=0)
        for stream in ready:
            task = by_stream[stream]
            try:
                message = self.ray.get(next(stream))
            except StopIteration:
                self._lost(task, "it ended without a word")
            except self.ray.exceptions.RayTaskError as error:
                log.exception("Run %s met a defect.", task.claim.id)
                self._over(task, "failed", f"{type(error.cause).__name__}: {first_line(error.cause)}")
            except self.ray.exceptions.RayError as error:
                self._lost(task, f"{type(error).__name__}: {first_line(error)}")
            else:
                self._handle(task, message)

    def _handle(self, task: Task, message: tuple[Any, ...]) -> None:
        kind, *values = message
        try:
            if kind == "about":
                task.node, task.unbegun = self._node_name(values[0]), None
                self._note(task, f"Run {task.claim.id} is on node {task.node}, process {values[0]['pid']}.")
            elif kind == "tell":
                task.done, task.detail = values
            elif kind == "log":
                self._append(task, values[0])
            elif kind == "file":
                task.incoming.write(*values)
            elif kind == "take":
                self._take(task)
            elif kind == "end":
                self._over(task, *values)
        except LostRun:
            log.warning("Run %s has been taken by another process; this one lets it go.", task.claim.id)
            self._drop(task)
        except (InputError, OSError) as error:
            self._over(task, "failed", " ".join(str(error).split()))

    def _node_name(self, about: Mapping[str, Any]) -> str:
        """A node's host; with the beginning of its id where there are several on the host."""
        ids = [node["NodeID"] for node in self.ray.nodes() if node.get("NodeManagerHostname") == about["host"]]
        return f"{about['host']} {about['node'][:6]}" if len(ids) > 1 else about["host"]

    def _take(self, task: Task) -> None:
        taken = task.incoming.take()
        if taken.after > taken.before or taken.is_done:
            task.losses = 0
        task.is_done = taken.is_done
        run = self.store.get(task.claim.id)
        model = run.model
        if run.fingerprint and model not in self.fingerprints:
            self.fingerprints[model] = (run.fingerprint, task.node or "?")
        elif run.fingerprint and self.fingerprints[model][0] != run.fingerprint:
            wanted, node = self.fingerprints[model]
            raise InputError(
                f"Model {model} is not the same on all nodes: fingerprint {run.fingerprint} on {task.node}, {wanted} "
                f"on {node}; make it the same, then start the plan again."
            )

    def _beat(self) -> None:
        for task in [task for task in self.tasks.values() if not task.is_done]:
            try:
                detail = task.detail | ({"node": task.node} if task.node else {})
                stop = self.store.beat(task.claim, detail)
                self.store.note(task.claim, done=task.done)
            except LostRun:
                self._drop(task)
                continue
            except StoreError as error:
                log.warning("%s", error)
                continue
            if self._ending.is_set():
                stop = stop or "interrupt"
            if stop and task.asked != stop:
                task.asked = stop
                if task.node is None or task.stream is None:  # nothing is under way, so nothing is to be saved
                    self._over(task, {"cancel": "cancelled", "interrupt": "interrupted"}[stop], None)
                else:
                    self.mailbox.tell.remote(task.claim.id, stop)

    # -- how a task ends -----------------------------------------------------------------------------------------------

    def _over(self, task: Task, status: str, error: str | None) -> None:
        """A run has ended, or is given up."""
        run = self.store.get(task.claim.id)
        if status == "done" and run.status != "done":
            return self._lost(task, "its result did not come")
        if status == "other":
            # Nothing is wrong with the run. Those that are under way elsewhere end; a new driver takes the rest.
            self._is_outdated, status, task.asked = True, "interrupted", "interrupt"
        if status == "interrupted" and not task.asked:
            return self._lost(task, "it was interrupted on its node")
        self._drop(task)
        if run.status == "running":
            if error:
                self._append(task, f"{error}\n")
            with suppress(LostRun):
                self.store.finish(task.claim, status, error)
        return None

    def _lost(self, task: Task, why: str) -> None:
        """Start a run again whose task is gone, or give it up."""
        where = f" on node {task.node}" if task.node else ""
        self._note(task, f"Run {task.claim.id} was lost{where} ({why}).")
        task.incoming.drop()
        now, stop = time.monotonic(), task.asked
        if task.node is None:  # Ray has not noticed yet that a node is gone
            task.unbegun = task.unbegun or now
        else:
            task.losses += 1
        if stop or self._ending.is_set():
            status = "cancelled" if stop == "cancel" else "interrupted"
            task.asked = task.asked or "interrupt"
            self._over(task, status, None)
        elif task.losses >= MOST_LOSSES:
            self._over(task, "failed", f"The run was lost {task.losses} times in a row, last{where}: {why}.")
        elif task.unbegun is not None and now - task.unbegun > NOT_BEGUN_SECONDS:
            self._over(task, "failed", f"The run could not begin for {NOT_BEGUN_SECONDS:.0f} s: {why}.")
        else:
            task.stream, task.due = None, now + AGAIN_SECONDS

    def _drop(self, task: Task) -> None:
        self.tasks.pop(task.claim.id, None)
        self.mailbox.forget.remote(task.claim.id)
        task.incoming.drop()
        if task.stream is not None:
            with suppress(Exception):  # it has ended by itself, or its node has
                self.ray.cancel(task.stream, force=True)

    def _let_go(self) -> None:
        """Leave what is still running interrupted: this process ends, whatever the reason."""
        for task in list(self.tasks.values()):
            self._drop(task)
            with suppress(LostRun, StoreError):
                self.store.finish(task.claim, "interrupted", "The driver ended; the run goes on from its last state.")

    def _note(self, task: Task, text: str) -> None:
        log.info("%s", text)
        self._append(task, f"{time.strftime('%Y-%m-%d %H:%M:%S')} INFO {text}\n")

    def _append(self, task: Task, text: str) -> None:
        # What a full disk does not take is dropped; what matters is reported where it is written.
        with suppress(OSError), self.store.log_file(task.claim.id).open("a", encoding="utf-8") as stream:
            stream.write(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a grid's queue; the command line of the process.

    Args:
        arguments: words after the module's name; those of the process by default.

    Returns:
        the exit code: 0, or 2 when the cluster or the store cannot be used.
    """
    parser = argparse.ArgumentParser(prog="python -m encore_core.cluster.driver", description=__doc__.splitlines()[0])
    parser.add_argument("--store", required=True, type=Path, help="folder of the store")
    parser.add_argument("--device", required=True, help=f'the queue, "{CLUSTER}" and the name of the plan')
    parser.add_argument("--save-seconds", type=float, default=SAVE_SECONDS, help="seconds between saved states")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("encore_core").setLevel(logging.INFO)
    try:
        store = RunStore(options.store)
        grid = read_grid(store, options.device.removeprefix(CLUSTER))
        driver = Driver(store, grid, save_seconds=options.save_seconds)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: driver.end())
        driver.serve()
    except InputError as error:
        log.error("%s", error)
        return 2
    except OSError as error:
        log.error("The driver of %s ends: %s", options.device, error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
