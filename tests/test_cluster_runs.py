"""Grids on a local cluster of two nodes: each run ends with the bits of a local one, whatever is killed on the way."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import tiny_cluster
import tiny_runs
from test_runs_carried import rows
from test_runs_worker import same_series

from encore_core.cluster import driver as driver_module
from encore_core.cluster.grid import runs_of
from encore_core.cluster.mailbox import open_mailbox
from encore_core.errors import InputError
from encore_core.ray_core import connected
from encore_core.runs import RunStore, start_worker
from encore_core.runs.resume_state import EDITED_FILE

pytest.importorskip("ray", reason="Ray is not installed: pip install 'encore-studio[ray]'")

SIX = [{"method": method, "seed": seed} for method in ("ENCORE", "MEMIT", "EMMET") for seed in (1, 2)]
SLOWLY = {"n_edits": 24, "checkpoint_every": 6, "overrides": tiny_runs.SETTINGS | {"steps": 40}}
LONGER = [SLOWLY | {"seed": seed} for seed in (1, 2)]
"""Long enough, some six seconds, for something to happen in their middle."""


@pytest.fixture(scope="module")
def cluster():
    with tiny_cluster.started() as cluster:
        yield cluster


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def plan(cluster, tiny_folder, statistics_text):
    """`plan(name, values of runs)`"""

    def make(name: str, plans: list[dict], **place):
        return tiny_cluster.grid_plan(name, cluster.address, tiny_folder, statistics_text, plans, **place)

    return make


@pytest.fixture(scope="module")
def longer(tiny_folder, statistics_text, tmp_path_factory) -> tuple[RunStore, list[str]]:
    """The longer runs done here."""
    plan = tiny_cluster.grid_plan("longer", "local", tiny_folder, statistics_text, LONGER)
    return tiny_cluster.local(tmp_path_factory.mktemp("longer"), plan)


def assert_as_local(local: RunStore, local_ids, store: RunStore, ids) -> None:
    """Every run is done, with the weights, rows and files of the local one."""
    for ours, theirs in zip(local_ids, ids, strict=True):
        run = store.get(theirs)
        assert (run.status, run.error, run.done, run.cursor) == ("done", None, run.n_edits, run.n_edits)
        assert run.weights_digest == local.get(ours).weights_digest
        same_series(local, ours, store, theirs)
        assert {path.name for path in store.folder_of(theirs).iterdir()} == {"facts.jsonl", "log.txt", EDITED_FILE}


def left_in(store: RunStore) -> set[str]:
    """Hidden folders on the way to or from nodes."""
    return {path.name for path in store.folder.iterdir() if path.name.startswith(".")}


@pytest.mark.slow
def test_six_runs_end_as_local_ones(store, plan, tmp_path):
    grid = plan("six", SIX)
    ids = tiny_cluster.begin(store, grid).ids
    tiny_cluster.driver(store, "six").serve()
    assert_as_local(*tiny_cluster.local(tmp_path / "local", grid), store, ids)
    assert not left_in(store)
    log = store.read_log(ids[0])
    assert "is on node" in log and "Measured after 10 edits" in log and ": done." in log
    # Started again, there is nothing to do, and nothing changes.
    before = [rows(store, run) for run in runs_of(store, "six")]
    again = tiny_cluster.begin(store, grid)
    assert (again.ids, again.new, again.resumed) == (ids, (), ())
    tiny_cluster.driver(store, "six").serve()
    assert [rows(store, run) for run in runs_of(store, "six")] == before


@pytest.mark.cluster
def test_a_node_that_is_killed_costs_nothing_but_time(store, plan, cluster, longer):
    grid = plan("node", LONGER)
    ids = tiny_cluster.begin(store, grid).ids
    node = cluster.list_all_nodes()[-1]

    def act() -> None:
        # The run that is on this node is in its middle.
        tiny_cluster.until(
            store,
            "node",
            lambda runs: any(4 <= run.cursor < 16 and tiny_cluster.is_on(store, run.id, node) for run in runs),
        )
        cluster.remove_node(node, allow_graceful=False)

    try:
        with tiny_cluster.meanwhile(act):
            tiny_cluster.driver(store, "node").serve()
    finally:
        cluster.add_node(**tiny_cluster.NODE)
    assert_as_local(*longer, store, ids)
    logs = [store.read_log(run_id) for run_id in ids]
    # One was there for certain; another may just have come.
    assert 1 <= sum("was lost on node" in log for log in logs) <= 2
    assert all("Resumed after" in log for log in logs if "was lost on node" in log)


@pytest.mark.cluster
def test_a_driver_that_is_killed_and_started_again_goes_on(store, plan, longer):
    grid = plan("driver", LONGER)
    ids = tiny_cluster.begin(store, grid).ids
    process = start_worker(store, "ray:driver")
    tiny_cluster.until(store, "driver", lambda runs: any(run.cursor >= 4 for run in runs))
    with pytest.raises(InputError, match=f"worked on by process {process.pid} on .*; encore cluster status driver"):
        tiny_cluster.begin(store, grid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    stopped = runs_of(store, "driver")
    assert "interrupted" in {run.status for run in stopped} and any(run.cursor for run in stopped)
    again = tiny_cluster.begin(store, grid)
    assert again.ids == ids and not again.new
    tiny_cluster.driver(store, "driver").serve()
    assert_as_local(*longer, store, ids)


@pytest.mark.slow
def test_a_second_driver_in_the_cluster_is_refused(cluster):
    """From another store, or another machine; and the name is free again when the first has ended."""
    with connected(cluster.address) as ray:
        box = open_mailbox(ray, "same", "process 1 on this machine, store there")
        with pytest.raises(InputError, match="Plan same is being worked on in this cluster by process 1 on this"):
            open_mailbox(ray, "same", "another", seconds=0.0)
        ray.get(box.tell.remote("a-run", "cancel"))
        assert ray.get(box.stop_of.remote("a-run")) == "cancel" and ray.get(box.stop_of.remote("b-run")) is None
    with connected(cluster.address) as ray:
        open_mailbox(ray, "same", "another")


@pytest.mark.slow
def test_a_run_is_cancelled_and_resumed_from_here(store, plan, longer, monkeypatch):
    monkeypatch.setattr(driver_module, "BEAT_SECONDS", 0.2)
    grid = plan("cancelled", LONGER)
    ids = tiny_cluster.begin(store, grid).ids

    def act() -> None:
        tiny_cluster.until(store, "cancelled", lambda runs: runs[0].cursor >= 4)
        store.cancel(ids[0])

    with tiny_cluster.meanwhile(act):
        tiny_cluster.driver(store, "cancelled").serve()
    first, second = (store.get(run_id) for run_id in ids)
    assert (first.status, second.status) == ("cancelled", "done")
    assert 4 <= first.cursor < 24 and store.states(first.id)[0].edits == first.cursor
    assert store.resume(ids[0]).device == "ray:cancelled"
    tiny_cluster.driver(store, "cancelled").serve()
    assert_as_local(*longer, store, ids)


@pytest.mark.slow
def test_a_program_that_was_changed_meanwhile_costs_no_run(store, plan, tmp_path, monkeypatch):
    """Tasks that find another program than the driver's leave their runs to be gone on with, and it starts no more."""
    grid = plan("changed", SIX[:4])
    ids = tiny_cluster.begin(store, grid).ids
    old = tiny_cluster.driver(store, "changed")
    old.versions = old.versions | {"encore-studio": "0.1.0 (program of yesterday)"}
    monkeypatch.setattr(driver_module.cluster_nodes, "check_agree", lambda *_: None)  # it was changed after that
    old.serve()
    runs = [store.get(run_id) for run_id in ids]
    assert {run.status for run in runs} == {"interrupted", "queued"}
    assert any("program of yesterday" in (run.error or "") and "start the plan again" in run.error for run in runs)
    monkeypatch.undo()
    again = tiny_cluster.begin(store, grid)
    assert again.ids == ids and not again.new
    tiny_cluster.driver(store, "changed").serve()
    assert_as_local(*tiny_cluster.local(tmp_path / "local", grid), store, ids)


@pytest.mark.slow
def test_a_run_that_fails_on_its_node_says_why_and_where(store, plan, tmp_path):
    scratch = tmp_path / "a file, no folder"
    scratch.write_text("")
    [run_id] = tiny_cluster.begin(store, plan("fails", [{}], scratch=str(scratch))).ids
    tiny_cluster.driver(store, "fails").serve()
    run = store.get(run_id)
    assert run.status == "failed" and "a file, no folder" in run.error and "(node " in run.error
    assert run.error in store.read_log(run_id) and "\n" not in run.error


@pytest.mark.slow
def test_what_the_cluster_cannot_do_is_told_before_anything_is_run(store, plan, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(Path(plan("x", [{}]).runs[0].statistics_text).read_text())
    tiny_cluster.begin(store, plan("lacking", [{"statistics_text": str(text)}]))
    text.unlink()
    with pytest.raises(InputError, match=f"does not have {text}, which runs of this plan need"):
        tiny_cluster.driver(store, "lacking").serve()
    assert {run.status for run in store.runs()} == {"queued"}
