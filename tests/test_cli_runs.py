"""`encore run` and `encore runs …`: from the command to the curves, and the one line with which they refuse."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_runs
from transformers import AutoModelForCausalLM

from encore_core.cli import main, output, watching
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import write_facts
from encore_core.runs import RunStore, series
from encore_core.runs.heartbeat import Pulse, Stopped
from encore_core.words import counted

SETTINGS = [f"--set={name}={value}" for name, value in tiny_runs.SETTINGS.items() if name != "lambda_n"]
FEW = ["--measure=subsets=sample", "--measure=sample_facts=3", "--measure=generate=false", "--measure=perplexity=false",
       "--measure=generation_entropy=false", "--measure=contributions=false", "--measure=share_cap=none"]  # fmt: skip


@pytest.fixture
def facts(tmp_path) -> Path:
    write_facts(tiny_runs.FACTS, tmp_path / "facts.jsonl")
    return tmp_path / "facts.jsonl"


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def workers(monkeypatch) -> list[threading.Thread]:
    """Workers are threads of this process here: a process would take seconds to start. See test_runs_worker for one."""
    started: list[threading.Thread] = []

    def start(store: RunStore, device: str):
        if store.has_worker(device):
            return None
        thread = threading.Thread(target=tiny_runs.worker(store).serve)
        thread.poll = lambda: None if thread.is_alive() else 0
        thread.start()
        started.append(thread)
        return thread

    monkeypatch.setattr(watching, "start_worker", start)
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(Pulse.__init__, "__defaults__", (0.02,))
    yield started
    for thread in started:
        thread.join()


@pytest.fixture
def run(tiny_folder, statistics_text, facts, store, workers):
    """`run(*words)`: `encore run` of ten facts on the tiny model; gives the exit code."""

    def call(*words: str, method: str = "ENCORE") -> int:
        return main(
            ["run", f"--model={tiny_folder}", "--device=cpu", f"--method={method}", f"--facts={facts}", "--edits=10",
             "--batch-size=2", "--checkpoint-every=4", f"--store={store.folder}", "--set=ENCORE:lambda_n=0.001",
             f"--statistics-text={statistics_text}", *SETTINGS, *FEW, *words]
        )  # fmt: skip

    call.places = (tiny_folder, statistics_text)
    return call


def runs(store: RunStore, *words: str) -> int:
    return main(["runs", words[0], f"--store={store.folder}", *words[1:]])


def test_a_run_from_the_command_to_the_model(run, store, capsys, tmp_path):
    assert run("--name=Both", "--set=MEMIT:lr=0.25", method="ENCORE,memit") == 0
    said = capsys.readouterr()
    ids = said.out.split()
    assert len(ids) == 2 and ids[0].startswith("encore-") and ids[1].startswith("memit-")
    for run_id, method in zip(ids, ("ENCORE", "MEMIT"), strict=True):
        info = store.get(run_id)
        assert (info.status, info.done, info.method, info.name) == ("done", 10, method, f"Both {method}")
        assert info.settings["lr"] == {"ENCORE": 0.5, "MEMIT": 0.25}[method]
    assert store.get(ids[0]).facts_digest == store.get(ids[1]).facts_digest

    assert runs(store, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ids[::-1] and all(
        "done" in line and "10 of 10" in line for line in lines
    )
    assert runs(store, "list", "memit", "--json") == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)] == ids[1:]

    assert runs(store, "show", ids[0]) == 0
    shown = capsys.readouterr().out
    assert store.get(ids[0]).weights_digest in shown and "encore run --model" in shown and "done" in shown
    assert runs(store, "show", ids[0], "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == "done" and told["plan"]["n_edits"] == 10 and "Measured after 10 edits" in told["log"]

    out = tmp_path / "out"
    assert runs(store, "export", ids[0], "--out", str(out), "--model") == 0
    assert {"run.json", "model", *(f"{name}.csv" for name in series.ALL)} == {path.name for path in out.iterdir()}
    AutoModelForCausalLM.from_pretrained(out / "model")

    capsys.readouterr()
    assert runs(store, "delete", *ids) == 0 and store.runs() == []
    assert runs(store, "show", ids[0]) == 2
    assert "no run" in capsys.readouterr().err


def test_a_setting_of_one_method_is_not_for_the_others(run, store, capsys):
    assert run("--detach", method="MEMIT") == 2
    said = capsys.readouterr().err
    assert "ENCORE:lambda_n" in said and "which is not run" in said and store.runs() == []


def test_a_detached_run_goes_on_by_itself(run, store, workers, capsys):
    assert run("--detach", "--json", "--name", "By itself") == 0
    [told] = json.loads(capsys.readouterr().out)
    assert told["name"] == "By itself" and told["status"] in ("queued", "running")
    workers[0].join()
    assert store.get(told["id"]).status == "done"


def test_duplicates_are_told_before_the_start(run, capsys):
    assert run("--edits=27", "--detach") == 0
    assert "is edited 3 times in the same relation" in capsys.readouterr().err


def test_ctrl_c_leaves_a_run_to_be_resumed(run, store, capsys, monkeypatch):
    follow, edit = watching._follow, EditSession.edit

    def pressing(store, run_id, workers):
        while store.get(run_id).done < 4:
            time.sleep(0.01)
        raise KeyboardInterrupt

    def slow(session, facts, **values):
        time.sleep(0.1)
        return edit(session, facts, **values)

    monkeypatch.setattr(watching, "_follow", pressing)
    monkeypatch.setattr(EditSession, "edit", slow)
    assert run() == 130
    said = capsys.readouterr().err
    [info] = store.runs()
    assert info.status == "interrupted" and 4 <= info.cursor == info.done < 10
    assert f"encore runs resume {info.id}" in said
    monkeypatch.setattr(watching, "_follow", follow)
    monkeypatch.setattr(EditSession, "edit", edit)
    assert runs(store, "resume", info.id) == 0
    assert store.get(info.id).status == "done"
    assert runs(store, "resume", info.id) == 2
    assert "is done" in capsys.readouterr().err


def test_a_run_whose_worker_was_killed_is_no_success(run, store, capsys, monkeypatch):
    def stopped(session, facts, **values):
        raise Stopped("interrupt")

    with monkeypatch.context() as patch:
        patch.setattr(EditSession, "edit", stopped)
        assert run() == 2
        [info] = store.runs()
        said = capsys.readouterr().err
        assert info.status == "interrupted" and f"encore: Interrupted, not done: {info.id}" in said
        assert runs(store, "resume", info.id) == 2
    assert runs(store, "resume", info.id) == 0


def test_a_run_that_cannot_be_resumed_leaves_none_in_the_queue_without_a_worker(run, store, workers, capsys):
    ready = [tiny_runs.prepared(*run.places) for _ in range(3)]
    stopped, done, waiting = store.submit(ready)
    store.interrupt(stopped)
    with sqlite3.connect(store.file) as db:
        db.execute("UPDATE runs SET status = 'done', queue_place = NULL WHERE id = ?", (done,))
    assert runs(store, "resume", stopped, done) == 2
    assert f"Run {done} is done" in capsys.readouterr().err and store.get(stopped).status == "interrupted"
    # One that is in the queue, without a worker, gets one; and a run that is named twice is resumed once.
    assert runs(store, "resume", waiting, stopped, stopped) == 0
    assert {store.get(one).status for one in (stopped, waiting)} == {"done"}


def test_cancelling(run, store, workers, monkeypatch, capsys):
    edit = EditSession.edit

    def slow(session, facts, **values):
        time.sleep(0.2)
        return edit(session, facts, **values)

    monkeypatch.setattr(EditSession, "edit", slow)
    assert run("--detach", method="ENCORE,MEMIT") == 0
    first, second = capsys.readouterr().out.split()
    assert runs(store, "cancel", second, first) == 0
    for thread in workers:
        thread.join()
    assert [store.get(run_id).status for run_id in (first, second)] == ["cancelled"] * 2
    assert store.get(first).done < 10 and store.get(second).done == 0
    assert runs(store, "cancel", first) == 2
    assert runs(store, "delete", first, second) == 0


def test_a_run_that_fails_says_why(run, store, capsys, monkeypatch):
    def broken(*_, **__):
        raise InputError("The layers are on fire.")

    monkeypatch.setattr(EditSession, "edit", broken)
    assert run() == 2
    [info] = store.runs()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("encore:")]
    assert len(lines) == 1 and "on fire" in lines[0] and f"encore runs resume {info.id}" in lines[0]


def test_a_worker_that_never_begins_is_told(run, store, capsys, monkeypatch):
    class Dead:
        def poll(self):
            return 1

    store.worker_log("cpu").write_text("Traceback\nImportError: no such thing\n", encoding="utf-8")
    monkeypatch.setattr(watching, "start_worker", lambda store, device: Dead())
    assert run() == 2
    assert "ImportError: no such thing" in capsys.readouterr().err
    assert store.runs()[0].status == "queued"


def test_a_worker_that_has_taken_runs_may_be_started_again(store, monkeypatch):
    """Only workers that end before they have taken a run are given up."""
    started = []
    monkeypatch.setattr(watching, "start_worker", lambda store, device: started.append(device))
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.0)
    seen = iter(
        SimpleNamespace(id="a", method="ENCORE", n_edits=1, done=0, device="cpu", status=status, position=1, detail={},
                        stop=None, ended=status == "done")
        for status in ("queued", "running", "queued", "queued", "running", "queued", "done")
    )  # fmt: skip
    monkeypatch.setattr(store, "get", lambda run_id: next(seen))
    watching._follow(store, "a", watching.Workers(store))
    assert len(started) == 4 > watching.STARTS


def test_a_store_that_is_not_there_is_refused_and_not_made(tmp_path, capsys):
    for words in ("runs list", "runs show x", "runs resume x", "runs cancel x", "runs delete x", "cluster status",
                  f"runs export x --out={tmp_path / 'out'}", "cluster cancel x"):  # fmt: skip
        assert main([*words.split(), f"--store={tmp_path / 'nowhere'}"]) == 2
        assert f"--store {tmp_path / 'nowhere'} holds no runs" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_one_is_no_plural(run, store, capsys):
    assert run("--edits=1", "--dry-run") == 0
    assert " 1 edit " in capsys.readouterr().out
    assert run("--edits=1", "--detach") == 0
    assert store.runs()[0].name == "ENCORE, 1 edit"
    assert [counted(n, "fact") for n in (0, 1, 2, 2000)] == ["0 facts", "1 fact", "2 facts", "2,000 facts"]


def test_what_it_would_cost(run, store, capsys):
    assert run("--dry-run", "--json", method="ENCORE,MEMIT") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in rows] == ["ENCORE", "MEMIT"] and all(row["seconds"] > 0 for row in rows)
    assert run("--dry-run") == 0
    assert "10 edits" in capsys.readouterr().out and store.runs() == []


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--method=ROME"], "Unknown method"),
        (["--method=ENCORE,encore"], "names a method twice"),
        (["--method="], "Unknown method"),
        (["--facts=nowhere.jsonl"], "nowhere.jsonl"),
        (["--edits=0"], "whole number"),
        (["--edits=28"], "more than the 27 facts"),
        (["--batch-size=-1"], "whole number"),
        (["--checkpoint-every=x"], "whole number"),
        (["--seed=-1"], "whole number"),
        (["--order=random"], "random"),
        (["--known=refuse"], "refuse"),
        (["--model=nowhere/at/all"], "nowhere/at/all"),
        (["--device=tpu"], "tpu"),
        (["--dtype=float16"], "float16"),
        (["--set=lambda_q=3"], "lambda_q"),
        (["--set=lambda_p=-3"], "lambda_p"),
        (["--set=lambda_p"], "NAME=VALUE"),
        (["--set=ROME:lr=1"], "Unknown method"),
        (["--measure=everything=true"], "everything"),
        (["--measure=perplexity=maybe"], "truth value"),
        (["--measure=sample_facts=many"], "not a number"),
        (["--measure=sample_facts=0"], "sample_facts"),
        (["--measure=share_cap=nan"], "share_cap"),
        (["--measure=subsets=oldest"], "oldest"),
        (["--measure"], "expected one argument"),
        (["--downstream=nowhere"], "nowhere"),
        (["--statistics-text=nowhere.txt"], "nowhere.txt"),
        (["--name", "x" * 101], "name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_refused_with_a_line_and_nothing_is_started(run, store, workers, capsys, words, wanted):
    assert run(*words) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("encore")]
    assert len(lines) == 1 and wanted in lines[0] and "Traceback" not in said.err and said.out == ""
    assert store.runs() == [] and not workers


@pytest.mark.parametrize("action", ["show", "resume", "cancel", "delete", "export"])
def test_unknown_runs_are_refused(store, capsys, tmp_path, action):
    words = [action, "nothing", *(["--out", str(tmp_path / "out")] if action == "export" else [])]
    assert runs(store, *words) == 2
    assert "There is no run 'nothing'" in capsys.readouterr().err


def test_commands_without_an_action_are_refused(capsys):
    assert main(["runs"]) == 2 and main(["runs", "repair"]) == 2
    assert capsys.readouterr().err.count("encore: ") == 2


def test_durations_are_said_as_people_say_them():
    spoken = [output.duration(seconds) for seconds in (0.4, 45, 119, 121, 3600, 7300, 100_000)]
    assert spoken == ["0 s", "45 s", "119 s", "2 min", "60 min", "2 h 02 min", "27 h 47 min"]


def test_a_reader_that_has_seen_enough_is_no_error(store, run, capfd, monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

        def fileno(self):
            return spare

    assert run("--detach") == 0
    spare = os.open(os.devnull, os.O_WRONLY)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Closed())
        assert runs(store, "list") == 0
    os.close(spare)
    assert "Traceback" not in capfd.readouterr().err
