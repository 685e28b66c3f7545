"""Twenty kills at random moments, of processes, nodes and drivers: no row is lost or doubled, and no bit differs."""

from __future__ import annotations

import random
import sqlite3
import time

import pytest
import tiny_cluster
from test_cluster_runs import LONGER, assert_as_local, left_in

from encore_core.cluster.grid import runs_of
from encore_core.runs import RunStore, start_worker

pytest.importorskip("ray", reason="Ray is not installed: pip install 'encore-studio[ray]'")

KILLS = ["task"] * 12 + ["node"] * 4 + ["driver"] * 4


def saved_states(store: RunStore) -> dict[str, tuple[int, int, str]]:
    """Cursor, edits and file of the newest state of each run that has one and is not done.

    One query: between two, a run that nobody killed may save its next state.
    """
    _, rows = store.database.query(
        "SELECT id, cursor, max(edits), file FROM runs JOIN states ON run = number WHERE status != 'done' GROUP BY id"
    )
    return {run_id: tuple(newest) for run_id, *newest in rows}


def check_what_is_left(store: RunStore) -> None:
    """After a kill: the database is sound, and every cursor points to a state that is there."""
    with sqlite3.connect(store.file) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    for run_id, saved in saved_states(store).items():
        cursor, edits, file = saved
        assert cursor == edits
        # A file may go only once the cursor has moved on.
        assert (store.folder_of(run_id) / file).is_file() or saved_states(store).get(run_id) != saved


@pytest.mark.cluster
def test_twenty_kills_at_random_moments(tiny_folder, statistics_text, tmp_path):
    store, moments = RunStore(tmp_path / "runs"), random.Random(24)
    kinds, finished = moments.sample(KILLS, len(KILLS)), []
    with tiny_cluster.started() as cluster:

        def plan(name: str):
            return tiny_cluster.grid_plan(name, cluster.address, tiny_folder, statistics_text, LONGER)

        whole = tiny_cluster.local(tmp_path / "local", plan("whole"))
        while kinds:
            finished.append(under_fire(store, plan(f"kills-{len(finished)}"), cluster, kinds, moments))
    for ids in finished:
        assert_as_local(*whole, store, ids)
    assert len(store.runs()) == len(LONGER) * len(finished) and not left_in(store)


def under_fire(store: RunStore, plan, cluster, kinds: list[str], moments: random.Random) -> list[str]:
    """Bring a grid to its end; for every step forward something is killed, as long as kinds are left."""
    process, saved = None, -1
    while True:
        if process is None or process.poll() is not None:
            ids = tiny_cluster.begin(store, plan).ids
            process = start_worker(store, f"ray:{plan.name}")
        runs = runs_of(store, plan.name)
        assert all(run.status != "failed" for run in runs), [run.error for run in runs]
        if all(run.status == "done" for run in runs):
            process.wait(tiny_cluster.FOREVER)
            return list(ids)
        running = [run for run in runs if run.status == "running" and run.detail.get("node")]
        if kinds and running and (now := sum(run.cursor for run in runs)) != saved:
            time.sleep(moments.uniform(0.0, 0.5))
            saved = now
            strike(kinds.pop(), store, moments.choice(running).id, process, cluster)
            check_what_is_left(store)
        time.sleep(0.05)


def strike(kind: str, store: RunStore, run_id: str, process, cluster) -> None:
    """Kill the process of a run, the node that is not the head, or the driver."""
    if kind == "task":
        tiny_cluster.kill(tiny_cluster.task_process(store, run_id))
    elif kind == "node":
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        cluster.add_node(**tiny_cluster.NODE)
    else:
        tiny_cluster.kill(process.pid)
        process.wait(30)
