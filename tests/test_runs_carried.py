"""A run that is carried to another folder, edited there and brought back is the run that was never carried."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
import tiny_runs
from test_runs_worker import assert_same_run

from encore_core.cli import main
from encore_core.errors import InputError
from encore_core.runs import RunStore, carried, runner
from encore_core.runs.resume_state import EDITED_FILE, DiskFull
from encore_core.runs.rows import RunInfo
from encore_core.runs.schema import SCHEMA_VERSION, SINCE, later


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def submit(store, tiny_folder, statistics_text):
    def make(**values) -> str:
        ready = tiny_runs.prepared(tiny_folder, statistics_text, **values)
        return store.submit([ready], queue_name="ray:test")[0]

    return make


def stop_after(monkeypatch, store: RunStore, run_id: str, edits: int) -> None:
    """Let the worker of a store be told to stop once it has recorded so many edits."""
    real = RunStore.record_batch

    def recording(self, claim, batch):
        real(self, claim, batch)
        if self.folder == store.folder and batch.edits == edits:
            self.interrupt(run_id)

    monkeypatch.setattr(RunStore, "record_batch", recording)
    # The pulse hears of it within a second; a tiny model is faster than that.
    monkeypatch.setattr("encore_core.runs.heartbeat.BEAT_SECONDS", 0.01)
    real_check = runner.Pulse.check

    def checking(pulse):
        stop = pulse.store.beat(pulse.claim, {})
        if stop:
            pulse.ask(stop)
        real_check(pulse)

    monkeypatch.setattr(runner.Pulse, "check", checking)


def sent(store: RunStore, run_id: str, folder: Path) -> RunStore:
    """A folder with the run and its newest state."""
    carried.pack(store, run_id, folder, "cpu")
    for state in store.states(run_id):
        shutil.copyfile(store.folder_of(run_id) / state.file, folder / run_id / state.file)
    return RunStore(folder)


def whole(store: RunStore, submit) -> str:
    """The same run done here, without being carried."""
    run_id = submit()
    with sqlite3.connect(store.file) as db:
        db.execute("UPDATE runs SET device = 'cpu' WHERE id = ?", (run_id,))
    tiny_runs.worker(store).serve()
    assert store.get(run_id).status == "done"
    return run_id


def rows(store: RunStore, run: RunInfo) -> list:
    _, found = store.query("SELECT * FROM runs WHERE id = ?", (run.id,))
    return [found, *(store.query(f"SELECT * FROM {table} WHERE run = ?", (run.number,))[1] for table in carried.SERIES)]


def test_a_run_done_elsewhere_in_two_parts_is_the_run_done_here(store, submit, tmp_path, monkeypatch):
    run_id, unmoved = submit(), whole(store, submit)
    first = sent(store, run_id, tmp_path / "first")
    with monkeypatch.context() as patch:
        stop_after(patch, first, run_id, 6)
        tiny_runs.worker(first).serve()
    there = first.get(run_id)
    assert (there.status, there.cursor) == ("interrupted", 6)

    assert carried.import_runs(store, first.folder) == [carried.TakenIn(run_id, 0, 6, False, False)]
    here = store.get(run_id)
    assert (here.status, here.cursor, here.done, here.device) == ("queued", 6, 6, "ray:test")
    assert (here.fingerprint, here.threads, here.statistics_used) == (there.fingerprint, 1, there.statistics_used)
    before = rows(store, here)
    assert carried.import_runs(store, first.folder) == [carried.TakenIn(run_id, 6, 6, False, False)]
    assert rows(store, store.get(run_id)) == before

    second = sent(store, run_id, tmp_path / "second")
    tiny_runs.worker(second).serve()
    assert second.get(run_id).status == "done"
    # What an earlier folder holds is no news, in whatever order folders come.
    for folder, after in ((second.folder, 10), (first.folder, 10), (second.folder, 10)):
        [taken] = carried.import_runs(store, folder)
        assert (taken.after, taken.is_done) == (after, True)
    assert_same_run(store, unmoved, run_id)
    assert {path.name for path in store.folder_of(run_id).iterdir()} == {"facts.jsonl", EDITED_FILE}
    assert store.get(run_id).editing_seconds == pytest.approx(second.get(run_id).editing_seconds)


def test_a_store_that_never_knew_the_run_takes_it(store, submit, tmp_path):
    run_id = submit()
    there = sent(store, run_id, tmp_path / "there")
    tiny_runs.worker(there).serve()
    other = RunStore(tmp_path / "other")
    assert carried.import_runs(other, there.folder) == [carried.TakenIn(run_id, 0, 10, True, True)]
    assert carried.import_runs(other, there.folder) == [carried.TakenIn(run_id, 10, 10, True, False)]
    assert other.get(run_id).weights_digest == there.get(run_id).weights_digest
    assert [fact.subject for fact in other.facts(run_id)] == [fact.subject for fact in there.facts(run_id)]
    assert len(other.runs()) == 1


def test_a_damaged_state_is_not_taken_and_the_one_before_it_is(store, submit, tmp_path, monkeypatch):
    run_id = submit()
    there = sent(store, run_id, tmp_path / "there")
    with monkeypatch.context() as patch:
        stop_after(patch, there, run_id, 6)
        tiny_runs.worker(there).serve()
    newest, older = there.states(run_id)
    file = there.folder_of(run_id) / newest.file
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    [taken] = carried.import_runs(store, there.folder)
    assert (taken.after, older.edits) == (4, 4)
    again = sent(store, run_id, tmp_path / "again")
    tiny_runs.worker(again).serve()
    assert again.get(run_id).status == "done"


def test_a_full_disk_leaves_the_store_as_it_was(store, submit, tmp_path, monkeypatch):
    run_id = submit()
    there = sent(store, run_id, tmp_path / "there")
    tiny_runs.worker(there).serve()
    before = rows(store, store.get(run_id))

    def full(source, folder, digest, move):
        raise DiskFull("The disk of there is full.")

    with monkeypatch.context() as patch:
        patch.setattr(carried, "adopt_matrices", full)
        with pytest.raises(DiskFull):
            carried.import_runs(store, there.folder)
    assert rows(store, store.get(run_id)) == before
    assert carried.import_runs(store, there.folder)[0].is_done


def test_clocks_that_differ_change_nothing(store, submit, tmp_path):
    """A node whose clock is a year off: the run is taken in, and ended by the clock of this machine."""
    run_id = submit()
    there = sent(store, run_id, tmp_path / "there")
    tiny_runs.worker(there).serve()
    with sqlite3.connect(there.file) as db:
        db.execute("UPDATE runs SET heartbeat = heartbeat + 3e7, finished = finished + 3e7, created = created - 3e7")
    assert carried.import_runs(store, there.folder)[0].is_done
    here = store.get(run_id)
    assert here.status == "done" and here.created <= here.finished < here.created + 600


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda store, there, run_id: shutil.rmtree(there.folder), "holds no runs.sqlite"),
        (
            lambda store, there, run_id: change(store, "order_digest = 'x'"),
            "differ in facts",
        ),
        (lambda store, there, run_id: change(store, "plan = replace(plan, '\"seed\": 0', '\"seed\": 1')"), "in plan"),
        (lambda store, there, run_id: store.claim("ray:test"), "is running here"),
    ],
)
def test_what_cannot_be_imported_is_told_in_one_line(store, submit, tmp_path, capsys, spoil, said):
    run_id = submit()
    there = sent(store, run_id, tmp_path / "there")
    tiny_runs.worker(there).serve()
    spoil(store, there, run_id)
    capsys.readouterr()
    assert main(["runs", "import", str(there.folder), "--store", str(store.folder)]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert store.get(run_id).cursor == 0


def change(store: RunStore, assignment: str) -> None:
    with sqlite3.connect(store.file) as db:
        db.execute(f"UPDATE runs SET {assignment}")


def test_a_folder_of_an_earlier_version_is_read_and_left_as_it_is(store, submit, tmp_path):
    run_id = submit()
    there = sent(store, run_id, tmp_path / "there")
    tiny_runs.worker(there).serve()
    with sqlite3.connect(there.file) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for table in ("runs", "scores", "downstream"):
            for name in later(table, SCHEMA_VERSION - 1):
                db.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
        for table in SINCE:
            db.execute(f"DROP TABLE {table}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION - 1}")
    db.close()
    before = {path: path.read_bytes() for path in there.folder.rglob("*") if path.is_file()}
    assert carried.import_runs(store, there.folder)[0].is_done
    assert before == {path: path.read_bytes() for path in there.folder.rglob("*") if path.is_file()}
    assert {path.name for path in store.folder.glob(".import-*")} == set()


def test_the_store_itself_is_refused(store, submit):
    submit()
    with pytest.raises(InputError, match="is the store itself"):
        carried.import_runs(store, store.folder)


def test_the_command_says_what_it_took(store, submit, tmp_path, capsys):
    run_id = submit()
    there = sent(store, run_id, tmp_path / "there")
    tiny_runs.worker(there).serve()
    capsys.readouterr()
    words = ["runs", "import", str(there.folder), "--store", str(store.folder)]
    assert main(words) == 0 and capsys.readouterr().err == f"{run_id}: 0 to 10 edits, done\n"
    assert main(words) == 0 and capsys.readouterr().err == f"{run_id}: nothing new, done\n"
