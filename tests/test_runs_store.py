"""The store: no row lost, none doubled, whoever writes and whoever dies."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import sqlite3
import threading
import time

import pytest
import tiny_runs
from refusals import refusal

from encore_core import processes
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.runs import database, lookup, queue
from encore_core.runs.database import StoreError
from encore_core.runs.facts_file import fact_lines
from encore_core.runs.key_statistics import recorded_digest
from encore_core.runs.ownership import LostRun
from encore_core.runs.plan import RunPlan
from encore_core.runs.preparing import PreparedRun
from encore_core.runs.rows import BatchRecord, CheckpointRecord, SavedState, TargetRow, TrajectoryRow
from encore_core.runs.schema import BY_EDITS
from encore_core.runs.store import RunStore


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture(scope="module")
def ready(tiny_folder, statistics_text) -> PreparedRun:
    return tiny_runs.prepared(tiny_folder, statistics_text)


def on(run: PreparedRun, device: str) -> PreparedRun:
    """The same run for another device, which need not be here: nothing is computed in these tests."""
    plan = RunPlan.from_json(run.plan.to_json() | {"device": device})
    return PreparedRun(**(vars(run) | {"plan": plan}))


def batch(edits: int, n: int = 2) -> BatchRecord:
    places = range(edits - n, edits)
    return BatchRecord(
        edits=edits,
        facts=n,
        skipped=0,
        seconds={"targets": 0.5, "keys": 0.25, "update": 0.25},
        targets=[TargetRow(place, 3, "mpes", 1.0, 0.5, 0.25, 0.25, 0.9, 0.1) for place in places],
        trajectories=[TrajectoryRow(place, 0, 1.0, 0.5, 0.25, 0.25, 0.9) for place in places],
        resident_bytes=1000 + edits,
        peak_bytes=2000,
        device_peak_bytes=None,
    )


def checkpoint(edits: int) -> CheckpointRecord:
    return CheckpointRecord(
        edits=edits,
        norms=[(layer, 10.0 + edits, 1.0 + edits / 100) for layer in range(4)],
        scores=[("sample", "edit_score", 50.0, 4, 20.0, 80.0), ("sample", "overall_score", None, 0, None, None)],
        contributions=[(0, "input", "input", None, 0.5, 0.4), (1, "MLP 0", "MLP", 0, 0.5, 0.6)],
        measures=[("perplexity", 50.0 + edits), ("generation_entropy", math.nan)],
        downstream=[("sst2", "f1", 80.0, 20, 60.0, 90.0)],
        seconds={"norms": 0.001, "scores": 1.0},
        left_out={"entropy": "cost"},
        scored=[("sample", 0)],
        fact_scores=[(0, "edit_score", 1.0), (0, "magnitude", math.nan)],
        answers=[(0, 0, "edit", None, "The", '["Oslo"]', "Oslo.", "sentence", True, True, None, "")],
        task_answers=[("sst2", 0, "positive", None, "negative")],
    )


# -- the queue ---------------------------------------------------------------------------------------------------------


def test_runs_queue_up_by_device_and_are_taken_in_order(store, ready):
    a, b, c, d = store.submit([ready, ready, on(ready, "cuda:0"), ready])
    assert {run.id: run.position for run in store.runs()} == {a: 1, b: 2, c: 1, d: 3}
    assert [run.id for run in store.runs()] == [d, c, b, a]
    assert store.claim("cpu").id == a and store.get(a).status == "running" and store.get(a).position is None
    assert store.get(b).position == 1 and store.get(d).position == 2
    assert store.claim("cpu").id == b and store.claim("cpu").id == d and store.claim("cpu") is None
    assert store.claim("cuda:0").id == c


def test_a_run_remembers_everything(store, ready):
    [run_id] = store.submit([ready])
    run = store.get(run_id)
    assert run.plan == ready.plan and run.settings["lambda_p"] == ready.settings.lambda_p and run.layers == (0, 1)
    assert store.facts(run_id) == list(ready.facts)
    assert run.notices == ready.notices and run.n_edits == 10 and run.method == "ENCORE"
    assert (run.status, run.cursor, run.done, run.error, run.started) == ("queued", 0, 0, None, None)
    assert json.loads(json.dumps(run.as_dict()))["plan"]["batch_size"] == 2
    assert run_id.startswith("encore-") and len(run_id) == len("encore-") + 4


def test_all_runs_are_submitted_or_none(store, ready):
    broken = PreparedRun(**(vars(ready) | {"statistics": None}))  # the table refuses it
    with pytest.raises(sqlite3.IntegrityError):
        store.submit([ready, broken])
    assert store.runs() == [] and [path for path in store.folder.iterdir() if path.is_dir()] == []


def test_a_full_disk_refuses_a_submission_and_leaves_nothing(store, ready, monkeypatch):
    monkeypatch.setattr(queue, "replacing", full_disk)
    assert "No space left" in refusal(store.submit, [ready])
    assert store.runs() == [] and [path for path in store.folder.iterdir() if path.is_dir()] == []


def full_disk(path):
    raise OSError(28, "No space left on device")


def test_cancelling(store, ready):
    queued, running, done = store.submit([ready] * 3)
    assert store.cancel(queued).status == "cancelled"
    claim = store.claim("cpu")
    assert claim.id == running
    assert store.cancel(running).status == "running" and store.get(running).stop == "cancel"
    assert store.beat(claim, {}) == "cancel"
    store.finish(claim, "cancelled")
    assert store.get(running).status == "cancelled" and store.get(running).stop is None
    store.finish(store.claim("cpu"), "done", weights_digest="ab")
    assert "done" in refusal(store.cancel, done)
    assert "cancelled" in refusal(store.interrupt, queued)


def test_resuming_puts_a_run_at_the_end(store, ready):
    a, b = store.submit([ready] * 2)
    assert store.resume(a).position == 1  # it is in the queue, and keeps its place
    store.interrupt(a)
    assert store.get(a).status == "interrupted" and store.get(b).position == 1
    assert store.resume(a).position == 2
    claim = store.claim("cpu")
    assert "running" in refusal(store.resume, b)
    store.finish(claim, "failed", "Something was wrong.")
    assert store.get(b).error == "Something was wrong."
    assert store.resume(b).status == "queued" and store.get(b).error is None
    store.finish(store.claim("cpu"), "done")
    assert "done" in refusal(store.resume, a)


def test_deleting(store, ready):
    a, b = store.submit([ready] * 2)
    claim = store.claim("cpu")
    store.record_batch(claim, batch(2))
    store.record_checkpoint(claim, checkpoint(2))
    store.record_state(claim, SavedState(2, "s", "d"), 0.1)
    assert "cancel it first" in refusal(store.delete, a)
    store.finish(claim, "cancelled")
    store.delete(a)
    store.delete(b)
    assert store.runs() == [] and not store.folder_of(a).exists()
    for table in BY_EDITS:
        assert store.query(f"SELECT count(*) FROM {table}")[1] == [(0,)]
    assert "no run" in refusal(store.delete, a)


def test_an_unknown_run_is_refused_with_a_hint(store, ready):
    assert "runs list" in refusal(store.get, "nothing")
    [run_id] = store.submit([ready])
    assert run_id in refusal(store.get, run_id[:-1])
    for hostile in ("", "x' OR '1'='1", "../" + run_id, None, "\x00"):
        assert "no run" in refusal(store.get, hostile)


def test_names_tags_and_search(store, ready):
    a, b = store.submit([ready] * 2)
    assert store.rename(a, "  Four methods ").name == "Four methods"
    assert store.tag(a, ["paper", "paper", "table 3"]).tags == ("paper", "table 3")
    assert [run.id for run in store.runs("four PAPER")] == [a]
    assert [run.id for run in store.runs("encore queued")] == [b, a]
    assert store.runs("paper nowhere") == []
    for name in ("", "  ", None, 3, "a\nb", "x" * 101):
        assert "name" in refusal(store.rename, a, name)
    for tags in ("paper", None, [""], ["a,b"], ["x" * 41], [3], ["a\nb"], [str(n) for n in range(30)]):
        assert "tag" in refusal(store.tag, a, tags)
    assert store.get(a).tags == ("paper", "table 3")
    assert store.tag(a, []).tags == ()


def test_names_are_text_to_the_database(store, ready):
    [run_id] = store.submit([ready])
    name = "'; DROP TABLE runs; -- \"%_"
    assert store.rename(run_id, name).name == name and store.runs("drop table")[0].id == run_id


# -- what a worker records ---------------------------------------------------------------------------------------------


def test_going_back_drops_what_lies_behind_and_nothing_else(store, ready):
    [run_id] = store.submit([ready])
    claim = store.claim("cpu")
    store.record_checkpoint(claim, checkpoint(0))
    for edits in (2, 4, 6, 8):
        store.record_batch(claim, batch(edits))
        if edits == 4:
            store.record_state(claim, SavedState(4, "state-4", "d4"), 0.5)
            store.record_checkpoint(claim, checkpoint(4))
    store.record_checkpoint(claim, checkpoint(8))
    run = store.get(run_id)
    assert (run.done, run.cursor) == (8, 4) and run.editing_seconds == pytest.approx(4.5)
    assert run.measuring_seconds == pytest.approx(3.003)
    before = {table: rows_of(store, table, "edits <= 4") for table in BY_EDITS}
    assert all(before.values())
    store.rewind(claim, 4)
    assert {table: rows_of(store, table) for table in BY_EDITS} == before
    run = store.get(run_id)
    assert (run.done, run.cursor) == (4, 4) and run.editing_seconds == pytest.approx(2.5)
    assert run.measuring_seconds == pytest.approx(2.002) and store.measured(run_id) == {0, 4}
    store.record_batch(claim, batch(6))
    assert store.get(run_id).done == 6


def rows_of(store: RunStore, table: str, condition: str = "1") -> list[tuple]:
    return store.query(f"SELECT * FROM {table} WHERE {condition}")[1]


def test_no_row_can_be_there_twice(store, ready):
    store.submit([ready])
    claim = store.claim("cpu")
    store.record_batch(claim, batch(2))
    store.record_checkpoint(claim, checkpoint(0))
    before = {table: rows_of(store, table) for table in BY_EDITS}
    for record in (lambda: store.record_batch(claim, batch(2)), lambda: store.record_checkpoint(claim, checkpoint(0))):
        with pytest.raises(sqlite3.IntegrityError):
            record()
    assert {table: rows_of(store, table) for table in BY_EDITS} == before


def test_two_states_are_kept(store, ready):
    [run_id] = store.submit([ready])
    claim = store.claim("cpu")
    for edits in (2, 4, 6):
        store.record_batch(claim, batch(edits))
        store.record_state(claim, SavedState(edits, f"state-{edits}", "d"), 0.5)
    assert [state.edits for state in store.states(run_id)] == [6, 4]
    store.finish(claim, "done")
    assert store.states(run_id) == []


def test_a_worker_that_lost_its_run_writes_nothing(store, ready):
    [run_id] = store.submit([ready])
    old = store.claim("cpu")
    store.record_batch(old, batch(2))
    store.abandon("cpu")
    store.resume(run_id)
    new = store.claim("cpu")
    before = {table: rows_of(store, table) for table in BY_EDITS}
    for write in (
        lambda: store.record_batch(old, batch(4)),
        lambda: store.record_checkpoint(old, checkpoint(4)),
        lambda: store.record_state(old, SavedState(4, "x", "y"), 0.1),
        lambda: store.rewind(old, 0),
        lambda: store.note(old, threads=3),
        lambda: store.beat(old, {}),
        lambda: store.finish(old, "done"),
    ):
        with pytest.raises(LostRun):
            write()
    assert {table: rows_of(store, table) for table in BY_EDITS} == before
    assert store.get(run_id).status == "running"
    store.finish(new, "done")


# -- many at once ------------------------------------------------------------------------------------------------------


def test_of_many_workers_one_gets_each_run(store, ready):
    ids = store.submit([ready] * 24)
    taken: list[str] = []

    def take() -> None:
        while claim := store.claim("cpu"):
            taken.append(claim.id)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(ids)


def write_a_run(folder, device: str, n_batches: int) -> None:
    store = RunStore(folder)
    claim = store.claim(device)
    store.record_checkpoint(claim, checkpoint(0))
    for number in range(1, n_batches + 1):
        store.record_batch(claim, batch(2 * number))
        store.record_state(claim, SavedState(2 * number, f"state-{number}", "d"), 0.1)
        store.record_checkpoint(claim, checkpoint(2 * number))
        store.beat(claim, {"phase": "editing", "done": 2 * number})
    store.finish(claim, "done")


def test_processes_write_while_others_read_and_no_row_is_lost(store, ready):
    """Four worker processes on one store, and four sessions that look, rename and submit meanwhile."""
    devices = ["cpu", "cuda:0", "cuda:1", "cuda:2"]
    ids = store.submit([on(ready, device) for device in devices])
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write_a_run, args=(store.folder, device, 25)) for device in devices]
    slowest: list[float] = []
    submitted: list[str] = []
    problems: list[BaseException] = []

    def look(number: int) -> None:
        try:
            mine = RunStore(store.folder)
            while any(writer.is_alive() for writer in writers):
                began = time.perf_counter()
                seen = {run.id: run for run in mine.runs()}
                assert set(ids) <= set(seen)
                # A transaction is seen whole or not at all.
                for run_id in ids:
                    [(n_batches, n_targets)] = mine.query(
                        """SELECT (SELECT count(*) FROM batches WHERE run = r.number),
                                  (SELECT count(*) FROM targets WHERE run = r.number) FROM runs AS r WHERE id = ?""",
                        (run_id,),
                    )[1]
                    assert n_targets == 2 * n_batches
                slowest.append(time.perf_counter() - began)
                submitted.extend(mine.submit([on(ready, "mps")]))
                mine.rename(ids[number], f"seen by {number}")
                time.sleep(0.02)
        except BaseException as error:
            problems.append(error)

    sessions = [threading.Thread(target=look, args=(number,)) for number in range(4)]
    for task in (*writers, *sessions):
        task.start()
    for task in (*sessions, *writers):
        task.join()
    assert not problems and [writer.exitcode for writer in writers] == [0] * 4
    for number, run_id in enumerate(ids):
        run = store.get(run_id)
        assert (run.status, run.done, run.cursor, run.name) == ("done", 50, 50, f"seen by {number}")
        assert store.measured(run_id) == set(range(0, 51, 2))
    for table, per_run in {"batches": 25, "timings": 100, "targets": 50, "norms": 104, "scores": 52}.items():
        assert len(rows_of(store, table)) == 4 * per_run
    assert {run.id for run in store.runs()} == {*ids, *submitted} and len(submitted) >= 4
    assert sorted(slowest)[len(slowest) // 2] < 1.0


# -- workers that are gone ---------------------------------------------------------------------------------------------


def test_a_run_left_running_by_a_killed_worker_is_found(store, ready):
    [run_id] = store.submit([ready])
    fork = multiprocessing.get_context("fork")
    ready_to_die = fork.Event()

    def work() -> None:
        mine = RunStore(store.folder)
        with mine.device_lock("cpu"):
            claim = mine.claim("cpu")
            mine.record_batch(claim, batch(2))
            ready_to_die.set()
            time.sleep(60)

    process = fork.Process(target=work)
    process.start()
    assert ready_to_die.wait(30)
    assert store.get(run_id).status == "running" and store.has_worker("cpu") and store.reconcile() == []
    process.kill()
    process.join()
    run = store.get(run_id)
    assert run.status == "interrupted" and "0 edits" in run.error and run.done == 2
    assert not store.has_worker("cpu") and store.resume(run_id).status == "queued"


def test_a_run_left_running_by_a_machine_that_restarted_is_found(store, ready):
    [run_id] = store.submit([ready])
    store.claim("cpu")
    # The process number belongs to somebody who lives (us), but it was given out before the restart.
    with sqlite3.connect(store.file) as db:
        db.execute("UPDATE runs SET boot_id = 'of yesterday'")
    assert store.runs()[0].status == "interrupted"
    store.resume(run_id)
    assert store.claim("cpu").id == run_id


def test_a_cancelled_run_whose_worker_died_is_cancelled(store, ready):
    [run_id] = store.submit([ready])
    store.claim("cpu")
    store.cancel(run_id)
    assert store.abandon("cpu") == [run_id] and store.get(run_id).status == "cancelled"


def test_a_silent_worker_that_lives_keeps_its_run(store, ready):
    [run_id] = store.submit([ready])
    with store.device_lock("cpu"):
        store.claim("cpu")
        with sqlite3.connect(store.file) as db:
            db.execute("UPDATE runs SET heartbeat = heartbeat - 3600")
        assert store.get(run_id).status == "running"
    # Once the lock is free, it is not.
    assert store.get(run_id).status == "interrupted"


def test_a_run_of_another_machine_is_left_alone_for_a_while(store, ready):
    [run_id] = store.submit([ready])
    store.claim("cpu")
    with sqlite3.connect(store.file) as db:
        db.execute("UPDATE runs SET host = 'elsewhere', heartbeat = heartbeat - 60")
    assert store.get(run_id).status == "running"
    with sqlite3.connect(store.file) as db:
        db.execute("UPDATE runs SET heartbeat = heartbeat - 3600")
    assert store.get(run_id).status == "interrupted"


def test_a_dead_process_is_told_from_a_living_one():
    assert processes.is_alive(os.getpid())
    process = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    process.start()
    while processes.is_alive(process.pid):  # until it has ended; nobody has waited for it yet
        time.sleep(0.01)
    process.join()
    assert not processes.is_alive(process.pid)


# -- what can be wrong with the store ----------------------------------------------------------------------------------


def test_a_full_disk_is_said_and_nothing_is_half_written(store, ready, monkeypatch):
    store.submit([ready])
    claim = store.claim("cpu")
    store.record_batch(claim, batch(2))
    before = {table: rows_of(store, table) for table in BY_EDITS}
    connect = sqlite3.connect

    def without_room(*args, **kwargs):
        db = connect(*args, **kwargs)
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")
        return db

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="is full"):
        patch.setattr(sqlite3, "connect", without_room)
        store.record_batch(claim, batch(2000, 1998))
    assert {table: rows_of(store, table) for table in BY_EDITS} == before
    store.record_batch(claim, batch(4))


def test_a_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "runs.sqlite").write_bytes(b"years of work" * 1000)
    assert "damaged" in refusal(RunStore, tmp_path)
    assert (tmp_path / "runs.sqlite").read_bytes().startswith(b"years of work")


def test_a_store_of_a_newer_version_is_refused(store):
    with sqlite3.connect(store.file) as db:
        db.execute("PRAGMA user_version = 99")
    assert "version 99" in refusal(RunStore, store.folder)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert "cannot be made" in refusal(RunStore, tmp_path / "file" / "runs")


def test_a_store_that_stays_locked_is_said(store, ready, monkeypatch):
    store.submit([ready])
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    with sqlite3.connect(store.file, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "locked" in refusal(store.claim, "cpu")
        assert len(store.runs()) == 1  # readers do not mind
        other.execute("ROLLBACK")
    assert store.claim("cpu")


def test_stores_made_at_once_are_one(tmp_path):
    barrier, made = threading.Barrier(8), []

    def make() -> None:
        barrier.wait()
        made.append(RunStore(tmp_path / "runs"))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8 and made[0].runs() == []


def test_facts_that_were_changed_or_deleted_are_refused(store, ready):
    [run_id] = store.submit([ready])
    path = store.folder_of(run_id) / "facts.jsonl"
    text = path.read_text("utf-8")
    assert recorded_digest(text) == ready.order_digest and text == "".join(fact_lines(ready.facts))
    path.write_text(text.replace("Paris", "Lyon"), encoding="utf-8")
    assert "not those it was started with" in refusal(store.facts, run_id)
    path.unlink()
    assert "cannot be read" in refusal(store.facts, run_id)
    path.write_text(text, encoding="utf-8")
    assert [type(fact) for fact in store.facts(run_id)] == [Fact] * 10


def test_the_end_of_a_log_is_read(store, ready):
    [run_id] = store.submit([ready])
    assert store.read_log(run_id) == ""
    store.log_file(run_id).write_text("".join(f"line {n}\n" for n in range(100_000)), encoding="utf-8")
    assert store.read_log(run_id, 2) == "line 99998\nline 99999"


def test_store_errors_are_for_the_user():
    assert issubclass(StoreError, InputError)


# -- told by numbers, drawn ids, words for those who stopped a run -----------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (sqlite3.SQLITE_FULL, "is full"),
        (sqlite3.SQLITE_BUSY, "locked by another process"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "locked by another process"),
        (sqlite3.SQLITE_CORRUPT, "is damaged"),
        (sqlite3.SQLITE_NOTADB, "is damaged"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "you can write to"),
        (sqlite3.SQLITE_CANTOPEN, "you can write to"),
        (sqlite3.SQLITE_IOERR_FSYNC, "cannot be used"),
    ],
)
def test_errors_of_the_database_are_told_by_their_numbers(store, code, said):
    error = sqlite3.OperationalError("in words that say neither full, locked nor malformed")
    error.sqlite_errorcode = code
    with pytest.raises(StoreError, match=said), store.database.reading():
        raise error


def test_words_do_not_decide_what_an_error_is(store):
    with pytest.raises(StoreError) as caught, store.database.reading():
        raise sqlite3.OperationalError("no such column: full_name, locked, malformed")
    assert "cannot be used" in str(caught.value)


def test_an_id_that_is_drawn_twice_costs_nobody_his_run(store, ready, monkeypatch):
    """Two processes draw the same id at once: neither sees the other's folder before it makes its own."""
    drawn = iter("aaaa" + "aaaa" + "aaab")
    monkeypatch.setattr(queue.secrets, "choice", lambda letters: next(drawn))
    [winner] = store.submit([ready])
    content = (store.folder_of(winner) / "facts.jsonl").read_bytes()
    with store.database.writing() as db:  # as if the winner's row were not written yet
        db.execute("UPDATE runs SET id = 'elsewhere'")
    monkeypatch.setattr(type(store.folder), "exists", lambda path: False)  # looking first does not help
    [loser] = store.submit([ready])
    assert (winner, loser) == ("encore-aaaa", "encore-aaab")
    assert (store.folder_of(winner) / "facts.jsonl").read_bytes() == content


def test_a_submission_that_fails_removes_its_own_folders_alone(store, ready, monkeypatch):
    drawn = iter("aaaa" + "aaab")
    monkeypatch.setattr(queue.secrets, "choice", lambda letters: next(drawn))
    other = store.folder_of("encore-aaaa")
    other.mkdir()
    (other / "facts.jsonl").write_text("of another process", encoding="utf-8")
    monkeypatch.setattr(type(store.folder), "exists", lambda path: False)  # looking first does not help
    monkeypatch.setattr(queue, "replacing", full_disk)
    assert "No space left" in refusal(store.submit, [ready])
    assert (other / "facts.jsonl").read_text("utf-8") == "of another process"
    assert [path.name for path in store.folder.iterdir() if path.is_dir()] == ["encore-aaaa"]


def test_a_run_whose_folder_was_removed_keeps_its_id(store, ready, monkeypatch):
    drawn = iter("aaaa" + "aaaa" + "aaab")
    monkeypatch.setattr(queue.secrets, "choice", lambda letters: next(drawn))
    [first] = store.submit([ready])
    shutil.rmtree(store.folder_of(first))
    assert store.submit([ready]) == ["encore-aaab"]


def test_a_cancelled_run_is_not_told_to_resume(store, ready):
    cancelled, left = store.submit([ready] * 2)
    store.claim("cpu"), store.claim("cpu")
    store.cancel(cancelled)
    store.abandon("cpu")
    assert "resum" not in store.get(cancelled).error and "cancelled" in store.get(cancelled).error
    assert "resuming goes on from 0 edits" in store.get(left).error


def test_a_lock_that_cannot_be_made_is_said(store, ready, monkeypatch):
    [run_id] = store.submit([ready])
    store.claim("cpu")

    def refused(lock, *args, **named):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(database.FileLock, "acquire", refused)
    assert "Read-only file system" in refusal(store.has_worker, "cpu")
    monkeypatch.setattr(lookup, "seems_dead", lambda row: True)
    assert store.get(run_id).status == "running"  # nobody can say, and looking is no error
