"""A run killed with SIGKILL again and again, at random moments, ends as the run that nobody killed."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_runs
from test_runs_worker import assert_same_run

from encore_core.runs import RunStore

KILLS = 24
FOREVER = 120.0


@contextmanager
def harness(store: RunStore) -> Iterator:
    """`live(seconds)`: a worker's life of at most so long; "killed", or "ended 0" when it was done before."""
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, str(Path(__file__).with_name("kill_harness.py")), str(store.folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def live(seconds: float) -> str:
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    try:
        yield live
    finally:
        process.stdin.close()
        process.wait(30)


def check_what_is_left(store: RunStore, run_id: str) -> None:
    """After a kill: the database is sound, and the cursor points to a state that is whole."""
    with sqlite3.connect(store.file) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    run = store.get(run_id)
    assert run.status in ("interrupted", "queued", "done")  # queued when it was killed before it took the run
    states = store.states(run_id)
    if run.status != "done":
        assert run.cursor == (states[0].edits if states else 0) <= run.done
    if states:
        content = (store.folder_of(run_id) / states[0].file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == states[0].digest


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(tiny_folder, statistics_text, tmp_path):
    store = RunStore(tmp_path / "runs")

    def submit() -> str:
        ready = tiny_runs.prepared(tiny_folder, statistics_text, n_edits=16, batch_size=2, checkpoint_every=4)
        return store.submit([ready])[0]

    whole = submit()
    moments = random.Random(4)
    kills, finished, hit = 0, [], set()
    with harness(store) as live:
        assert live(FOREVER) == "ended 0"
        took = store.get(whole).finished - store.get(whole).started
        killed = submit()
        while kills < KILLS:
            # From before the run is taken to well behind some batches and checkpoints.
            outcome = live(moments.uniform(0.02, 0.75 * took))
            kills += outcome == "killed"
            assert outcome in ("killed", "ended 0")
            check_what_is_left(store, killed)
            run = store.get(killed)
            hit.add((run.cursor, run.done))
            if run.status == "interrupted":
                store.resume(killed)
            elif run.status == "done":
                finished.append(killed)
                killed = submit()
        if store.get(killed).status != "done":
            assert live(FOREVER) == "ended 0"
        finished.append(killed)
    assert kills >= 20 and len(hit) >= 5
    for run_id in finished:
        assert store.get(run_id).status == "done"
        assert_same_run(store, whole, run_id)
    assert store.get(whole).done == 16
