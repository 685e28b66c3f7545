"""A run uses the key statistics that it was submitted with, or says what has changed; what it has read is recorded."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import tiny_runs
import torch

from encore_core.editing import stored_statistics
from encore_core.editing.covariance import SAMPLED_TEXT, windows_of
from encore_core.editing.session import EditSession
from encore_core.models.editable import load_model
from encore_core.runs import MeasurePlan, RunInfo, RunStore, key_statistics, prepare
from encore_core.runs.compare import differences
from encore_core.runs.export import command_line
from encore_core.runs.heartbeat import Stopped
from encore_core.runs.schema import SINCE, later
from encore_core.statistics.npz import import_npz

FEWEST = MeasurePlan(
    subsets=(), perplexity=False, foretold_damage=False, generation_entropy=False, contributions=False, share_cap=None
)


@pytest.fixture
def store(tmp_path, monkeypatch) -> RunStore:
    """With a data folder of its own: what is chosen here is nobody else's choice."""
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    return RunStore(tmp_path / "runs")


@pytest.fixture
def text(statistics_text, tmp_path) -> Path:
    return Path(shutil.copy(statistics_text, tmp_path / "text.txt"))


@pytest.fixture
def submit(store, tiny_folder):
    """`submit(**plan values)`: queue a run on what is chosen, or the bundled text, and give its id."""

    def make(**values) -> str:
        plan = tiny_runs.plan(tiny_folder, Path("unused"), **{"statistics_text": None, "measure": FEWEST} | values)
        return store.submit([prepare(plan, tiny_runs.FACTS)])[0]

    return make


def served(store: RunStore, run_id: str) -> RunInfo:
    tiny_runs.worker(store).serve()
    return store.get(run_id)


def chosen_for(folder: Path, tmp_path: Path, factor: float) -> dict[int, Path]:
    """Import statistics of the edited layers as a user does, and so choose them."""
    lm = load_model(str(folder), "cpu")
    found = {}
    for layer in (0, 1):
        file = tmp_path / f"transformer.h.{layer}.mlp.npz"
        matrix = factor * torch.eye(lm.d_mlp).numpy().astype(np.float64)
        np.savez(file, **{"mom2.mom2": matrix * 50, "mom2.count": np.array(50)})
        found[layer] = import_npz(lm, file).file
    return found


def interrupted(store: RunStore, run_id: str, monkeypatch, at: int = 4) -> None:
    """Serve a run until it has made so many edits and is interrupted."""
    edit = EditSession.edit

    def asking(session, facts, **values):
        if session.n_edits == at:
            store.interrupt(run_id)
            raise Stopped("interrupt")
        return edit(session, facts, **values)

    with monkeypatch.context() as patch:
        patch.setattr(EditSession, "edit", asking)
        assert served(store, run_id).status == "interrupted"


# -- what is recorded --------------------------------------------------------------------------------------------------


def test_what_was_read_is_recorded_and_not_what_was_asked_for(store, submit, text, tiny_folder):
    lm = load_model(str(tiny_folder), "cpu")
    n_read = sum(map(len, windows_of(lm, text.read_text("utf-8"), 2000)))
    run_id = submit(statistics_text=str(text))
    assert store.get(run_id).statistics_used == ()
    run = served(store, run_id)
    assert run.status == "done" and run.settings["statistics_tokens"] == 2000 > n_read
    for layer, row in zip((0, 1), run.statistics_used, strict=True):
        file = stored_statistics.folder_of(lm.fingerprint) / row["file"]
        assert row["layer"] == layer and row["source"] == "text text.txt" and row["tokens"] == n_read
        assert row["content"] == stored_statistics.content_digest(file) and len(row["content"]) == 64
    assert run.key_statistics == f"text text.txt, {n_read:,} tokens" and run.statistics_size == f"{n_read:,} tokens"
    assert f"Key statistics: text text.txt, {n_read:,} tokens." in store.read_log(run_id)
    assert run.as_dict()["statistics_used"] == list(run.statistics_used)


def test_a_run_that_has_not_begun_says_what_was_asked_for(store, submit):
    run = store.get(submit())
    assert run.key_statistics.startswith("asked for: ") and run.statistics_size == "up to 2,000 tokens"
    imported = [{"layer": 0, "file": "f", "source": "imported x.npz", "tokens": 0, "content": "c"}]
    assert replace(run, statistics_used=imported).statistics_size == "number of tokens not known"
    assert replace(run, statistics_used=imported).key_statistics == "imported x.npz, number of tokens not known"


# -- between submission and start --------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["changed", "gone"])
def test_a_text_that_changed_while_the_run_was_queued_is_refused(store, submit, text, change):
    run_id = submit(statistics_text=str(text))
    content = text.read_bytes()
    if change == "changed":
        text.write_bytes(content + b"\n\nThe capital of Utopia is nowhere.")
    else:
        text.unlink()
    run = served(store, run_id)
    assert run.status == "failed" and run.done == 0 and str(text) in run.error
    assert ("has changed since the run was submitted" if change == "changed" else "cannot be read") in run.error
    text.write_bytes(content)
    store.resume(run_id)
    assert served(store, run_id).status == "done"


def test_a_text_that_changed_under_statistics_that_were_gathered_before_is_refused(store, submit, text):
    assert served(store, submit(statistics_text=str(text))).status == "done"
    run_id = submit(statistics_text=str(text))
    text.write_text("\n\n".join(tiny_models.CORPUS), encoding="utf-8")
    assert "has changed since" in served(store, run_id).error


def test_statistics_chosen_while_a_run_was_queued_are_not_its_own(store, submit, tiny_folder, tmp_path):
    """Submitted with the bundled text; another choice afterwards, by --import, is for runs after it."""
    before, run_id = served(store, submit()), submit()
    chosen_for(tiny_folder, tmp_path, 2.0)
    run, after = served(store, run_id), served(store, submit())
    assert run.statistics_used == before.statistics_used and run.weights_digest == before.weights_digest
    assert run.statistics_used[0]["source"] == "bundled sample"
    assert after.statistics_used[0]["source"].startswith("imported") and after.weights_digest != run.weights_digest


@pytest.mark.parametrize("change", ["forgotten", "another"])
def test_a_choice_that_is_taken_back_while_a_run_was_queued_is_its_own(store, submit, tiny_folder, tmp_path, change):
    places = chosen_for(tiny_folder, tmp_path, 2.0)
    before, run_id = served(store, submit()), submit()
    if change == "forgotten":
        stored_statistics.forget_choice(load_model(str(tiny_folder), "cpu").fingerprint)
    else:
        chosen_for(tiny_folder, tmp_path, 3.0)
    run = served(store, run_id)
    assert [row["file"] for row in run.statistics_used] == [places[layer].name for layer in (0, 1)]
    assert run.statistics_used == before.statistics_used and run.weights_digest == before.weights_digest
    assert run.statistics_used[0]["tokens"] == 50


def test_a_chosen_file_that_is_gone_is_refused(store, submit, tiny_folder, tmp_path):
    places = chosen_for(tiny_folder, tmp_path, 2.0)
    run_id = submit()
    places[1].unlink()
    run = served(store, run_id)
    assert run.status == "failed" and "layer 1 that were chosen when the run was submitted" in run.error


def test_a_choice_is_for_the_model_as_loaded_and_not_for_the_name_it_was_last_used_under(
    store, submit, tiny_folder, tmp_path
):
    places = chosen_for(tiny_folder, tmp_path, 2.0)
    begun = load_model(str(tiny_folder), "cpu", start_token="<|begin|>")
    stored_statistics.note_model(begun.texts_key, begun.name)
    bare = store.get(submit())
    assert "imported" in bare.notices[-1] and "imported" in bare.statistics
    run, other = served(store, bare.id), served(store, submit(start_token="<|begin|>"))
    assert [row["file"] for row in run.statistics_used] == [places[layer].name for layer in (0, 1)]
    assert other.status == "done" and other.statistics_used[0]["source"] == "bundled sample"
    # A store of an earlier version has the files alone.
    lm, rows = load_model(str(tiny_folder), "cpu"), [{"layer": 0, "file": places[0].name, "source": "", "tokens": 0}]
    assert key_statistics.files_of(lm, rows, 2000, None) == {0: places[0]}


# -- between the end of a worker and the next --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "text changed",
        "imported",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("text gone", "statistics gone")),
    ],
)
def test_a_resumed_run_goes_on_with_the_statistics_that_it_began_with(
    store, submit, text, tiny_folder, tmp_path, monkeypatch, change
):
    whole, run_id = served(store, submit(statistics_text=str(text))), submit(statistics_text=str(text))
    interrupted(store, run_id, monkeypatch)
    assert store.get(run_id).cursor == 4
    if change == "text changed":
        text.write_text("\n\n".join(tiny_models.CORPUS), encoding="utf-8")
    elif change == "text gone":
        text.unlink()
    elif change == "imported":
        chosen_for(tiny_folder, tmp_path, 2.0)
    else:
        shutil.rmtree(stored_statistics.folder_of(whole.fingerprint))
    store.resume(run_id)
    run = served(store, run_id)
    assert run.status == "done" and run.weights_digest == whole.weights_digest
    assert run.statistics_used == whole.statistics_used


@pytest.mark.parametrize("change", ["forgotten", "imported"])
def test_a_resumed_run_keeps_to_what_was_chosen_when_it_began(
    store, submit, tiny_folder, tmp_path, monkeypatch, change
):
    chosen_for(tiny_folder, tmp_path, 2.0)
    whole, run_id = served(store, submit()), submit()
    interrupted(store, run_id, monkeypatch)
    if change == "forgotten":
        stored_statistics.forget_choice(whole.fingerprint)
    else:
        chosen_for(tiny_folder, tmp_path, 3.0)
    store.resume(run_id)
    run = served(store, run_id)
    assert run.weights_digest == whole.weights_digest and run.statistics_used == whole.statistics_used


def test_a_run_without_a_saved_state_looks_again(store, submit, text, monkeypatch):
    run_id = submit(statistics_text=str(text))
    interrupted(store, run_id, monkeypatch, at=0)
    assert store.get(run_id).statistics_used and not store.states(run_id)
    text.write_text("\n\n".join(tiny_models.CORPUS), encoding="utf-8")
    store.resume(run_id)
    assert "has changed since the run was submitted" in served(store, run_id).error


# -- comparisons and older stores --------------------------------------------------------------------------------------


def test_runs_are_told_apart_by_what_they_used(store, submit):
    a, b = served(store, submit()), served(store, submit())
    assert differences([a, b]) == []
    other = replace(b, statistics_used=tuple({**row, "content": "0" * 64} for row in b.statistics_used))
    [found] = differences([a, other])
    assert found.what == "statistics" and len(set(found.values)) == 2 and a.key_statistics in found.values[0]
    shorter = replace(other, statistics_used=tuple({**row, "tokens": 895} for row in other.statistics_used))
    assert differences([a, shorter])[0].values == (a.key_statistics, "bundled sample, 895 tokens")
    # Other layers of the same text are a matter of the method.
    elsewhere = replace(b, statistics_used=tuple({**row, "layer": row["layer"] + 2} for row in b.statistics_used))
    assert differences([a, elsewhere]) == []
    # One that has used nothing yet can only be judged by what it asks for.
    assert differences([a, store.get(submit())]) == []


def test_what_stands_in_front_of_texts_is_recorded_and_tells_runs_apart(store, submit):
    bare, begun = submit(start_token="none"), submit(start_token="<|begin|>")
    assert [store.get(run_id).in_front for run_id in (bare, begun)] == ["asked for: none", "asked for: <|begin|>"]
    one, other = served(store, bare), served(store, begun)
    assert (one.in_front, other.in_front) == ("nothing", "<|begin|>")
    assert one.as_dict()["start_token"] is None and other.as_dict()["start_token"] == "<|begin|>"
    assert "--start-token '<|begin|>'" in command_line(other.plan) and "--start-token none" in command_line(one.plan)
    assert {found.what: found.values for found in differences([one, other])}["start token"] == ("nothing", "<|begin|>")
    assert one.weights_digest != other.weights_digest


def test_a_store_of_the_first_version_is_brought_up_to_date(store, submit):
    old = submit()
    with sqlite3.connect(store.file) as db:
        for version in (1, 2, 3):
            for table in ("runs", "scores", "downstream"):
                for name in set(later(table, version - 1)) - set(later(table, version)):
                    db.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
        for table in SINCE:
            db.execute(f"DROP TABLE {table}")
        db.execute("PRAGMA user_version = 1")
    db.close()
    again = RunStore(store.folder)
    assert again.get(old).statistics_wanted == ()
    run = served(again, old)
    assert run.status == "done" and run.statistics_used[0]["source"] == "bundled sample"
    assert served(again, submit()).weights_digest == run.weights_digest
    assert SAMPLED_TEXT.is_file()
