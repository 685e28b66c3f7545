"""A local cluster of Ray nodes with one core each, and grids of tiny runs on it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import tiny_runs

from encore_core.cluster.driver import Driver
from encore_core.cluster.grid import Submitted, read_grid, runs_of, submit
from encore_core.cluster.plan_file import GridPlan, Place
from encore_core.runs import PreparedRun, RunInfo, RunStore, prepare

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "memory": 1 << 30}
RUN_BYTES = 100_000_000
FOREVER = 900.0


@contextmanager
def started(n_nodes: int = 2) -> Iterator:
    """A cluster of so many nodes, the head among them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # else they starve beside the tests of another process
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    try:
        for _ in range(n_nodes - 1):
            cluster.add_node(**NODE)
        yield cluster
    finally:
        cluster.shutdown()


def grid_plan(name: str, address: str, folder: Path, text: Path, plans: Sequence[dict], **place) -> GridPlan:
    """A plan of tiny runs.

    Args:
        plans: what each run has besides the usual of `tiny_runs.plan`.
    """
    runs = tuple(tiny_runs.plan(folder, text, **values) for values in plans)
    return GridPlan(name, folder, runs, Place(address, memory=RUN_BYTES, **place))


def ready(plan: GridPlan) -> list[PreparedRun]:
    return [prepare(one, tiny_runs.FACTS) for one in plan.runs]


def begin(store: RunStore, plan: GridPlan) -> Submitted:
    return submit(store, plan, ready(plan))


def driver(store: RunStore, name: str) -> Driver:
    """A driver in this process that saves after every batch, as a long run saves every few minutes."""
    return Driver(store, read_grid(store, name), save_seconds=0.0)


def local(folder: Path, plan: GridPlan) -> tuple[RunStore, list[str]]:
    """The same runs in a store of their own, done one after the other in this process."""
    store = RunStore(folder)
    ids = store.submit(ready(plan))
    tiny_runs.worker(store).serve()
    return store, ids


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread while the block runs; its error is raised at the end."""
    errors: list[BaseException] = []

    def acting() -> None:
        try:
            act()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=acting, daemon=True)
    thread.start()
    yield
    thread.join(FOREVER)
    if errors:
        raise errors[0]


def until(store: RunStore, name: str, wanted: Callable[[list[RunInfo]], bool]) -> list[RunInfo]:
    """Wait until the runs of a grid are as wanted."""
    end = time.monotonic() + FOREVER
    while not wanted(found := runs_of(store, name)):
        assert time.monotonic() < end, [(run.status, run.done, run.error) for run in found]
        time.sleep(0.02)
    return found


def task_process(store: RunStore, run_id: str) -> int:
    """The process that had a run last, from the run's log."""
    [*_, line] = [line for line in store.read_log(run_id, 2000).splitlines() if " is on node " in line]
    return int(line.rpartition("process ")[2].rstrip("."))


def is_on(store: RunStore, run_id: str, node) -> bool:
    """Whether a run's process belongs to a node of the local cluster."""
    raylets = {of_kind.process.pid for of_kind in node.all_processes["raylet"]}
    pid = task_process(store, run_id)
    return psutil.pid_exists(pid) and psutil.Process(pid).ppid() in raylets


def kill(pid: int) -> None:
    if psutil.pid_exists(pid):
        os.kill(pid, signal.SIGKILL)
