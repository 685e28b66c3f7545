"""Recorded runs: copied out of a store with all that is to be seen, changed by nobody, silent about the machine."""

from __future__ import annotations

import json
import sqlite3
import stat
from pathlib import Path

import pytest
import tiny_runs
from refusals import refusal

from encore_core.facts.source import SETS
from encore_core.runs import RunStore, recorded, series
from encore_core.runs.compare import differences
from encore_core.runs.export import command_line
from encore_core.runs.recorded import RECORDED, record, recorded_runs
from encore_core.runs.rows import NO_STATISTICS
from encore_core.runs.schema import BY_EDITS


@pytest.fixture(scope="module")
def store(tmp_path_factory, tiny_folder, statistics_text) -> RunStore:
    """Two runs that are done, and one that waits; the downstream data and the facts are files of this machine."""
    folder = tmp_path_factory.mktemp("recorded")
    store = RunStore(folder / "runs")
    store.submit([tiny_runs.prepared(tiny_folder, statistics_text, n_edits=8, method=name,
                                         measure=tiny_runs.EVERYTHING)
                  for name in ("MEMIT", "ENCORE")])  # fmt: skip
    tiny_runs.worker(store).serve()
    store.submit([tiny_runs.prepared(tiny_folder, statistics_text, n_edits=8)])
    return store


@pytest.fixture
def ids(store) -> dict[str, str]:
    return {run.method: run.id for run in store.runs() if run.status == "done"}


@pytest.fixture
def kept(store, ids, tmp_path, monkeypatch) -> RunStore:
    monkeypatch.setattr(recorded, "RECORDED", tmp_path / "assets")
    record(store, {ids["MEMIT"]: "recorded-memit", ids["ENCORE"]: "recorded-encore"}, tmp_path / "assets")
    return recorded_runs()


def test_nothing_recorded_is_no_trouble(monkeypatch, tmp_path):
    monkeypatch.setattr(recorded, "RECORDED", tmp_path)
    assert recorded_runs() is None


def test_all_that_is_to_be_seen_is_there(store, ids, kept):
    assert {run.id for run in kept.runs()} == {"recorded-memit", "recorded-encore"}
    for method, new_id in (("MEMIT", "recorded-memit"), ("ENCORE", "recorded-encore")):
        run, source = kept.get(new_id), store.get(ids[method])
        assert run.recorded and not source.recorded and run.status == "done" and run.method == method
        assert (run.commit, run.weights_digest, run.versions) == (source.commit, source.weights_digest, source.versions)
        for name in series.ALL:
            copy, original = series.ALL[name](kept, [new_id]), series.ALL[name](store, [source.id])
            assert copy.drop(columns="run").equals(original.drop(columns="run")), name
            assert len(original) or name in ("downstream", "task_answers")  # not asked


def test_the_machine_is_not_spoken_of(store, ids, kept):
    text = (kept.folder / "runs.sqlite").read_bytes()
    source = store.get(ids["MEMIT"])
    for secret in (str(store.folder), source.host, source.plan_json["statistics_text"]):
        assert secret.encode() not in text
    assert "statistics" in command_line(kept.get("recorded-memit").plan)


def test_nobody_changes_them(kept):
    for change in (
        lambda: kept.rename("recorded-memit", "mine"),
        lambda: kept.tag("recorded-memit", ["mine"]),
        lambda: kept.delete("recorded-memit"),
        lambda: kept.cancel("recorded-memit"),
        lambda: kept.resume("recorded-memit"),
        lambda: kept.claim("cpu"),
    ):
        assert "recorded" in refusal(change).lower()
    assert len(kept.runs()) == 2


def test_a_folder_that_cannot_be_written_is_read(kept):
    for path in (kept.folder, kept.file):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        assert len(recorded_runs().runs()) == 2
        assert [path.name for path in kept.folder.glob("runs*")] == ["runs.sqlite"]
    finally:
        kept.folder.chmod(0o755)


def test_recording_again_takes_the_place_of_the_old(store, ids, kept):
    record(store, {ids["ENCORE"]: "recorded-memit"}, kept.folder)
    again = recorded_runs()
    assert {run.id: run.method for run in again.runs()} == {"recorded-memit": "ENCORE", "recorded-encore": "ENCORE"}
    with sqlite3.connect(again.file) as db:
        for table in BY_EDITS:
            numbers = {row[0] for row in db.execute(f"SELECT DISTINCT run FROM {table}")}
            assert numbers <= {run.number for run in again.runs()}, table


def test_what_is_not_done_is_not_recorded(store, tmp_path):
    [waiting] = [run.id for run in store.runs() if run.status == "queued"]
    assert "queued" in refusal(record, store, {waiting: "recorded-x"}, tmp_path / "new")
    assert "no run" in refusal(record, store, {"nobody-2345": "recorded-x"}, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_of_a_stopped_run_what_was_measured(tiny_folder, statistics_text, tmp_path):
    """Stopped after 6 of 8 edits, two behind its last checkpoint: it ends there, with its sums right."""
    store = RunStore(tmp_path / "runs")
    [run_id] = store.submit([tiny_runs.prepared(tiny_folder, statistics_text, n_edits=8, checkpoint_every=4)])
    tiny_runs.worker(store).serve()
    with sqlite3.connect(store.file) as db:
        for table in BY_EDITS:
            db.execute(f"DELETE FROM {table} WHERE edits > 6")
        db.execute("UPDATE runs SET status = 'interrupted', done = 6, cursor = 4, weights_digest = NULL")
    record(store, {run_id: "recorded-stopped"}, tmp_path / "assets")
    kept = RunStore(tmp_path / "assets", read_only=True)
    run = kept.get("recorded-stopped")
    assert (run.status, run.n_edits, run.done, run.cursor) == ("interrupted", 8, 4, 4)
    assert list(series.targets(kept, [run.id]).fact) == [0, 1, 2, 3]
    assert set(series.norms(kept, [run.id]).edits) == {0, 4}
    timings, source = (series.every_row(each, "timings", [one]) for each, one in ((kept, run.id), (store, run_id)))
    assert run.editing_seconds == pytest.approx(timings.seconds.sum())
    assert timings.seconds.sum() == pytest.approx(source[source.edits <= 4].seconds.sum())
    with sqlite3.connect(store.file) as db:
        db.execute("DELETE FROM checkpoints WHERE edits > 0")
    assert "nothing was measured" in refusal(record, store, {run_id: "recorded-stopped"}, tmp_path / "other")


# -- those that come with the program ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours() -> RunStore:
    found = recorded_runs()
    assert found is not None, "the program comes without its recorded runs; see assets/recorded/make.py"
    return found


def test_ours_are_small_and_whole(ours):
    assert sum(path.stat().st_size for path in RECORDED.rglob("*") if path.is_file()) < 15_000_000
    for run in ours.runs():
        norms = series.norms(ours, [run.id])
        assert run.done == norms.edits.max() and run.fingerprint and run.commit
        assert run.status == "done" if run.done == run.n_edits else run.status == "interrupted"
        assert set(series.checkpoints(ours, [run.id]).edits) >= {0, run.done}
        assert set(series.scores(ours, [run.id]).edits) >= {0, run.done}


def test_ours_have_their_facts_once_where_these_come_with_the_program(ours):
    wanted = {run.order_digest for run in ours.runs() if run.plan_json["facts"] in SETS}
    assert {path.name for path in RECORDED.rglob("*.jsonl")} == {f"facts-{digest}.jsonl" for digest in wanted}
    for run in ours.runs():
        if run.plan_json["facts"] in SETS:
            assert len(ours.facts(run.id)) == run.n_edits
        else:
            assert "facts of run" in refusal(ours.facts, run.id)


def test_ours_name_no_place_of_a_machine(ours):
    for run in ours.runs():
        shown = json.dumps(run.as_dict())
        assert not any(f'"{root}' in shown for root in ("/home", "/root", "/tmp", "/work", "/Users", "C:\\\\")), run.id
        assert Path(run.plan_json["facts"]).name == run.plan_json["facts"]


def test_ours_on_the_same_facts_are_the_same_facts(ours):
    for facts, n_edits, least in (("counterfact_10k", 1000, 6), ("counterfact_10k", 10_000, 3), ("long", 1000, 15)):
        same = [run for run in ours.runs() if (Path(run.plan_json["facts"]).stem, run.n_edits) == (facts, n_edits)]
        assert len(same) >= least
        assert len({(run.order_digest, run.fingerprint, run.plan_json["seed"]) for run in same}) == 1
        assert len({run.statistics for run in same} - {NO_STATISTICS}) == 1 and {
            one.what for one in differences(same)
        } <= {"device"}
