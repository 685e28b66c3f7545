"""Workers: a run gives what editing by hand gives, stops when asked, goes on where it stood, and fails with a word."""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import tiny_runs
import torch

from encore_core.editing import batch as batch_module
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.measures.scores import evaluate
from encore_core.models.editable import load_model
from encore_core.runs import (
    MeasurePlan,
    PreparedRun,
    RunPlan,
    RunStore,
    model_keeper,
    prepare,
    runner,
    series,
    start_worker,
)
from encore_core.runs import resume_state as state_module
from encore_core.runs import worker as worker_module
from encore_core.runs.fact_order import batch_ends
from encore_core.runs.heartbeat import Pulse, Stopped
from encore_core.runs.measuring import Measurer
from encore_core.runs.resume_state import EDITED_FILE, load_matrices, weights_digest
from encore_core.tuned_rows import TunedRow, forget_row, store_row

FEWEST = MeasurePlan(
    subsets=(), perplexity=False, foretold_damage=False, generation_entropy=False, contributions=False, share_cap=None
)


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def submit(store, tiny_folder, statistics_text):
    """`submit(**plan values)`: queue a run, and give its id."""

    def make(facts=tiny_runs.FACTS, **values) -> str:
        return store.submit([prepare(tiny_runs.plan(tiny_folder, statistics_text, **values), facts)])[0]

    return make


def serve(store: RunStore, **values) -> None:
    tiny_runs.worker(store, **values).serve()


def by_hand(folder: Path, text: Path, method: str = "ENCORE", n: int = 10, **settings) -> EditSession:
    """The same edits without a run."""
    plan = tiny_runs.plan(folder, text, method=method)
    lm = load_model(str(folder), "cpu")
    session = EditSession(
        lm, method, settings=dict(plan.overrides) | settings, statistics_text=text, keep_history=False
    )
    for start in range(0, n, 2):
        session.edit(tiny_runs.FACTS[start : start + 2], known="edit", measure=False)
    return session


# -- what a run gives --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ENCORE", "MEMIT", "EMMET", "AlphaEdit"])
def test_a_run_gives_the_weights_of_editing_by_hand(store, submit, tiny_folder, statistics_text, method):
    run_id = submit(method=method, measure=FEWEST)
    serve(store)
    run = store.get(run_id)
    assert (run.status, run.error, run.done, run.cursor, run.skipped) == ("done", None, 10, 10, 0)
    matrices, _ = load_matrices(store.folder_of(run_id), [])
    by_hand_digest = weights_digest(by_hand(tiny_folder, statistics_text, method).matrices())
    assert weights_digest(matrices) == run.weights_digest == by_hand_digest
    assert run.fingerprint == load_model(str(tiny_folder), "cpu").fingerprint and run.threads == 1
    assert run.versions["torch"] == torch.__version__
    left = {path.name for path in store.folder_of(run_id).iterdir()}
    assert left == {"facts.jsonl", "log.txt", EDITED_FILE}


def test_what_is_recorded_is_what_one_measures(store, submit, tiny_folder, statistics_text):
    """Norms, scores and targets against the engine's own functions, at the start and at the end."""
    run_id = submit(measure=tiny_runs.EVERYTHING)
    serve(store)
    session = by_hand(tiny_folder, statistics_text)
    norms = series.norms(store, [run_id])
    assert list(norms.edits.unique()) == [0, 4, 8, 10] and list(norms.layer.unique()) == [0, 1, 2, 3, 4]
    at_end = norms[norms.edits == 10].set_index("layer")
    for layer, (before, after) in session.norms().items():
        assert at_end.norm[layer] == pytest.approx(after, rel=1e-6)
        assert at_end.ratio[layer] == pytest.approx(after / before, rel=1e-6)
    assert list(at_end.ratio[[2, 3, 4]]) == [1.0, 1.0, 1.0] and at_end.ratio[0] != 1.0
    assert set(norms[norms.edits == 0].ratio) == {1.0}

    plan = store.get(run_id).plan
    measurer = Measurer(plan, tiny_runs.FACTS[:10], batch_ends(tiny_runs.FACTS[:10], 2), session)
    scores = series.scores(store, [run_id])
    for edits, context in ((0, session.pristine), (10, session.edited)):
        for subset, places in measurer.subsets(edits).items():
            with context() as lm:
                expected = evaluate(lm, [tiny_runs.FACTS[place] for place in places]).as_dict()
                assert expected["generation_efficacy"] is not None
            rows = scores[(scores.edits == edits) & (scores.subset == subset)].set_index("metric")
            assert set(rows.n[rows.value.notna() & ~rows.index.str.startswith("generated")]) == {expected.pop("facts")}
            for metric, value in expected.items():
                wanted = math.nan if value is None else value
                assert rows.value[metric] == pytest.approx(wanted, nan_ok=True, abs=1e-4)

    targets = series.targets(store, [run_id])
    assert list(targets.fact) == list(range(10)) and list(targets.edits) == [2, 2, 4, 4, 6, 6, 8, 8, 10, 10]
    assert set(targets.stopped) <= {"loss", "mpes", "steps"} and (targets.steps < 4).all()
    assert targets.probability.between(0, 1, inclusive="neither").all()
    steps = series.trajectories(store, [run_id])
    last = steps.groupby("fact").last()
    assert list(last.loss) == list(targets.loss) and list(last.step) == list(targets.steps)
    first = steps.groupby("fact").first()
    assert list(first.probability) == list(targets.probability_before)

    timings = series.timings(store, [run_id])
    assert set(timings.phase) == {"targets", "keys", "update", "measuring", "saving"}
    assert store.get(run_id).editing_seconds == pytest.approx(timings.seconds.sum())
    assert store.get(run_id).measuring_seconds == pytest.approx(series.measuring(store, [run_id]).seconds.sum())
    parts = {"norms", "scores", "generated", "perplexity", "foretold", "contributions", "entropy"}
    assert set(series.measuring(store, [run_id]).part) == parts
    assert (series.memory(store, [run_id]).resident_bytes > 1e8).all()
    contributions = series.contributions(store, [run_id])
    assert contributions.groupby("edits", observed=True).share.sum().to_list() == pytest.approx([1.0] * 4)
    measures = series.measures(store, [run_id])
    foretold = measures[measures.metric.str.startswith("foretold_damage")]
    assert set(measures.metric) - set(foretold.metric) == {"perplexity", "generation_entropy"}
    assert ((foretold.value > 0) == (foretold.edits > 0)).all()
    of_layers = foretold[foretold.metric != "foretold_damage"].groupby("edits").value.sum()
    assert of_layers.to_list() == pytest.approx(foretold[foretold.metric == "foretold_damage"].value.to_list())
    assert (measures[~measures.index.isin(foretold.index)].value > 0).all()
    assert set(series.checkpoints(store, [run_id]).left_out) == {"{}"}


def test_subsets_are_fixed_and_grow(tiny_folder, statistics_text, gpt2, new_session):
    plan = tiny_runs.plan(tiny_folder, statistics_text, n_edits=27, measure=MeasurePlan(sample_facts=5, batch_facts=2))
    ends = batch_ends(tiny_runs.FACTS, 4)
    measurer = Measurer(plan, tiny_runs.FACTS, ends, new_session(gpt2))
    seen = [measurer.subsets(edits) for edits in (0, *ends)]
    for edits, start, subsets in zip((0, *ends), (0, 0, *ends), seen, strict=False):
        assert subsets["first"] == seen[0]["first"] and max(subsets["first"]) < 4
        assert len(subsets["sample"]) == min(5, edits or 27) and max(subsets["sample"]) < (edits or 27)
        assert len(subsets["newest"]) == 2 or edits == 27
        assert all(start <= place < edits for place in subsets["newest"]) or not edits
    # A fact leaves the sample only for one edited later, and the last sample is the one measured before any edit.
    for before, after, end in zip(seen[1:], seen[2:], ends, strict=False):
        assert {place for place in after["sample"] if place < end} <= set(before["sample"])
    assert seen[-1]["sample"] == seen[0]["sample"]


def test_the_cap_leaves_parts_out_and_says_so(store, submit):
    tight = replace(tiny_runs.EVERYTHING, share_cap=0.0)
    run_id = submit(measure=tight)
    serve(store)
    checkpoints = left_out_of(store, run_id)
    everything = {"scores", "generated", "perplexity", "foretold", "contributions", "entropy"}
    assert checkpoints[0] == checkpoints[10] == {}
    assert checkpoints[4] == checkpoints[8] == dict.fromkeys(everything, "cost")
    assert set(series.norms(store, [run_id]).edits) == {0, 4, 8, 10}
    assert set(series.scores(store, [run_id]).edits) == {0, 10}


def test_a_costly_part_does_not_starve_and_is_not_starved(tiny_folder, statistics_text, gpt2, new_session):
    """Of a budget of 12 s each of the six costly parts has 2; what the first checkpoint took does not count."""
    plan = tiny_runs.plan(tiny_folder, statistics_text, n_edits=8, measure=tiny_runs.EVERYTHING)
    session = new_session(gpt2)
    measurer = Measurer(plan, tiny_runs.FACTS[:8], [4, 8], session)
    spent = {"scores": [9.0, 1.5], "perplexity": [9.0, 0.5, 0.5], "contributions": [0.1], "entropy": [2.5]}
    record = measurer.measure(session, 4, 12.0, spent, lambda part: None)
    assert record.left_out == {"scores": "cost", "entropy": "cost"}
    assert set(record.seconds) == {"norms", "generated", "perplexity", "foretold", "contributions"}


def left_out_of(store: RunStore, run_id: str) -> dict[int, dict[str, str]]:
    frame = series.checkpoints(store, [run_id])
    return {edits: json.loads(text) for edits, text in zip(frame.edits, frame.left_out, strict=True)}


def test_a_part_that_a_model_does_not_take_costs_nothing_else(store, submit, monkeypatch):
    def cannot(lm, texts):
        raise InputError("This family does not take it.")

    monkeypatch.setattr("encore_core.runs.measuring.measure_contributions", cannot)
    run_id = submit()
    serve(store)
    assert list(left_out_of(store, run_id).values()) == [{"contributions": "This family does not take it."}] * 4
    assert store.get(run_id).status == "done" and len(series.scores(store, [run_id]))


def test_facts_that_the_model_says_are_skipped_when_asked(store, submit, gpt2):
    said = Fact("France", "The capital of {} is", "Paris")  # what the tiny model has learned
    facts = [said, *tiny_runs.FACTS[1:6]]
    run_id = submit(facts, n_edits=6, known="skip", measure=FEWEST)
    serve(store)
    run, targets = store.get(run_id), series.targets(store, [run_id])
    if targets.stopped[0] != "already said":
        pytest.skip("the tiny model did not learn this")
    assert run.skipped >= 1 and run.status == "done" and math.isnan(targets.loss[0])
    other = submit(facts, n_edits=6, known="edit", measure=FEWEST)
    serve(store)
    assert store.get(other).skipped == 0


def test_runs_of_one_queue_follow_each_other_on_a_model_loaded_once(store, submit, monkeypatch):
    loads = []
    monkeypatch.setattr(model_keeper, "load_model", lambda *a: loads.append(a) or load_model(*a))
    a, b = submit(measure=FEWEST), submit(measure=FEWEST, method="MEMIT")
    c = submit(measure=FEWEST)
    serve(store)
    assert [store.get(run_id).status for run_id in (a, b, c)] == ["done"] * 3 and len(loads) == 1
    # No run leaves anything behind for the next.
    assert store.get(a).weights_digest == store.get(c).weights_digest != store.get(b).weights_digest


def test_a_model_folder_that_changes_between_runs_is_loaded_anew(store, submit, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    a = submit(model=str(folder), measure=FEWEST)
    worker = tiny_runs.worker(store)
    worker.serve()
    change(folder)
    b = submit(model=str(folder), measure=FEWEST)
    worker.serve()
    assert store.get(a).fingerprint != store.get(b).fingerprint


def change(folder: Path) -> None:
    """Another model in the same folder."""
    lm = load_model(str(folder), "cpu")
    lm.parameter(3).data.mul_(1.5)
    lm.model.save_pretrained(folder)


# -- stopping and going on ---------------------------------------------------------------------------------------------


def stop_at(monkeypatch, store: RunStore, run_id: str, edits: int, ask: str) -> None:
    """Ask the run to stop while the targets of the batch behind `edits` are sought."""
    edit = EditSession.edit

    def asking(session, facts, **values):
        if session.n_edits == edits:
            getattr(store, ask)(run_id)
            heard_from = store.get(run_id).heartbeat
            give_up = time.monotonic() + 10
            while store.get(run_id).heartbeat == heard_from and time.monotonic() < give_up:
                time.sleep(0.01)
            time.sleep(0.05)  # between the beat and its end
        return edit(session, facts, **values)

    monkeypatch.setattr(EditSession, "edit", asking)
    monkeypatch.setattr(Pulse.__init__, "__defaults__", (0.02,))


@pytest.mark.parametrize(("ask", "status"), [("cancel", "cancelled"), ("interrupt", "interrupted")])
def test_a_run_stops_within_a_batch_and_goes_on_to_the_same_weights(store, submit, monkeypatch, ask, status):
    whole, stopped = submit(), submit()
    store.interrupt(stopped)
    serve(store)
    store.resume(stopped)
    with monkeypatch.context() as patch:
        stop_at(patch, store, stopped, 6, ask)
        serve(store)
    run = store.get(stopped)
    # The batch at hand was given up; the two behind the checkpoint at 4 were saved though none was due.
    assert (run.status, run.done, run.cursor, run.error) == (status, 6, 6, None)
    assert [state.edits for state in store.states(stopped)] == [6, 4]
    store.resume(stopped)
    serve(store)
    assert store.get(stopped).status == "done"
    assert_same_run(store, whole, stopped)


def assert_same_run(store: RunStore, a: str, b: str) -> None:
    """The same weights, and the same series but for seconds and memory."""
    same_series(store, a, store, b)


def same_series(store: RunStore, a: str, other: RunStore, b: str) -> None:
    """The same of runs in two stores."""
    assert store.get(a).weights_digest == other.get(b).weights_digest
    for name in series.ALL:
        frames = [series.every_row(of, name, [run_id]).drop(columns="run") for of, run_id in ((store, a), (other, b))]
        frames = [
            frame.drop(columns=[c for c in frame.columns if c == "seconds" or c.endswith("_bytes")]) for frame in frames
        ]
        if name == "timings":  # state is saved oftener in a run that was stopped
            frames = [frame[frame.phase != "saving"].reset_index(drop=True) for frame in frames]
        texts = [frame.to_csv(index=False) for frame in frames]
        assert texts[0] == texts[1], name


def test_a_run_without_a_saved_state_begins_again(store, submit, monkeypatch):
    whole, stopped = submit(), submit()
    store.interrupt(stopped)
    serve(store)
    store.resume(stopped)
    claim = store.claim("cpu")
    with monkeypatch.context() as patch, Pulse(store, claim) as pulse, pytest.raises(Killed):
        patch.setattr(runner, "save_state", killed)
        runner.execute(store, claim, pulse, model_keeper.ModelKeeper(), threads=1)
    store.abandon("cpu")
    run = store.get(stopped)
    assert (run.status, run.done, run.cursor) == ("interrupted", 4, 0)
    store.resume(stopped)
    serve(store)
    assert_same_run(store, whole, stopped)


class Killed(BaseException):
    """Stands for SIGKILL: nobody catches it."""


def killed(*_):
    raise Killed


@pytest.fixture(scope="module")
def unharmed(tiny_folder, statistics_text, tmp_path_factory) -> tuple[RunStore, PreparedRun, str]:
    """A store with a run that nobody killed: what it was made of, and its id."""
    store = RunStore(tmp_path_factory.mktemp("unharmed") / "runs")
    quick = replace(tiny_runs.QUICK, subsets=("newest",), contributions=False)
    ready = tiny_runs.prepared(tiny_folder, statistics_text, n_edits=8, checkpoint_every=2, measure=quick)
    [run_id] = store.submit([ready])
    serve(store)
    return store, ready, run_id


@pytest.mark.slow
@pytest.mark.parametrize("place", ["save_state", "save_matrices", "record_state", "record_checkpoint", "finish"])
def test_a_run_killed_at_the_worst_moments_ends_the_same(unharmed, monkeypatch, place):
    """Right before each step that moves the run on, the second time it is reached; and right behind it."""
    store, ready, whole = unharmed
    for behind in (False, True):
        [run_id] = store.submit([ready])
        owner = runner if hasattr(runner, place) else RunStore
        real, calls = getattr(owner, place), []

        def deadly(*args, real=real, calls=calls, behind=behind, **kwargs):
            calls.append(1)
            if len(calls) == (1 if place in ("finish", "save_matrices") else 2):
                if behind:
                    real(*args, **kwargs)
                raise Killed
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(owner, place, deadly)
            with pytest.raises(Killed):
                serve(store)
        store.abandon("cpu")
        if store.get(run_id).status != "done":  # killed right behind the last step, it is
            assert store.get(run_id).status == "interrupted"
            store.resume(run_id)
            serve(store)
        serve(store)
        assert_same_run(store, whole, run_id)
        assert {path.name for path in store.folder_of(run_id).iterdir()} == {"facts.jsonl", "log.txt", EDITED_FILE}


def test_what_killed_writers_have_left_goes(store, submit):
    """In the run that is served, and in those that were done when the process was killed; found by the campaign."""
    done, run_id = submit(measure=FEWEST), submit(measure=FEWEST)
    store.interrupt(run_id)
    serve(store)
    store.resume(run_id)
    for left in (done, run_id):
        folder = store.folder_of(left)
        (folder / ".tmpqFDzjE").write_bytes(b"half of it")
        (folder / ".edited.safetensors.1-abc.part").mkdir()
        (folder / ".edited.safetensors.1-abc.part" / ".tmpqFDzjE").write_bytes(b"half of it")
        (folder / ".edited.safetensors.2-abc.part").write_bytes(b"half of it")  # of earlier versions
    serve(store)
    for left in (done, run_id):
        assert {path.name for path in store.folder_of(left).iterdir()} == {"facts.jsonl", "log.txt", EDITED_FILE}


def test_state_is_saved_in_time_though_no_checkpoint_is_due(store, submit, monkeypatch):
    saved = []
    real = runner.save_state
    monkeypatch.setattr(
        runner, "save_state", lambda folder, edits, session: saved.append(edits) or real(folder, edits, session)
    )
    submit(checkpoint_every=10, measure=FEWEST)
    serve(store, save_seconds=0.0)
    assert saved == [2, 4, 6, 8, 10]


def test_a_damaged_state_costs_one_checkpoint_and_nothing_else(store, submit, monkeypatch):
    whole, stopped = submit(), submit()
    store.interrupt(stopped)
    serve(store)
    store.resume(stopped)
    with monkeypatch.context() as patch:
        stop_at(patch, store, stopped, 8, "interrupt")
        serve(store)
    newest, older = store.states(stopped)
    assert (newest.edits, older.edits) == (8, 4)
    path = store.folder_of(stopped) / newest.file
    path.write_bytes(path.read_bytes()[:-1])
    store.resume(stopped)
    serve(store)
    assert "cannot be used" in store.read_log(stopped)
    assert_same_run(store, whole, stopped)


@pytest.mark.parametrize("trouble", [RuntimeError("no such thing"), worker_module.StoreError("The disk is full.")])
def test_a_pulse_that_stumbles_still_hears_that_the_run_is_to_stop(store, submit, monkeypatch, trouble):
    run_id = submit(measure=FEWEST)
    claim, beat, stumbles = store.claim("cpu"), RunStore.beat, []

    def stumbling(self, *args):
        if len(stumbles) < 3:
            stumbles.append(1)
            raise trouble
        return beat(self, *args)

    monkeypatch.setattr(RunStore, "beat", stumbling)
    store.cancel(run_id)
    with Pulse(store, claim, seconds=0.01) as pulse:
        end = time.monotonic() + 10
        while pulse._stop is None and time.monotonic() < end:
            time.sleep(0.01)
        with pytest.raises(Stopped, match="cancel"):
            pulse.check()
    assert len(stumbles) == 3


def test_a_worker_told_to_end_interrupts_its_run(store, submit, monkeypatch):
    run_id = submit()
    worker = tiny_runs.worker(store)
    edit = EditSession.edit

    def ending(session, facts, **values):
        if session.n_edits == 4:
            worker.end()
        return edit(session, facts, **values)

    monkeypatch.setattr(EditSession, "edit", ending)
    other = submit()
    worker.serve()
    assert store.get(run_id).status == "interrupted" and store.get(run_id).cursor == 4
    assert store.get(other).status == "queued"


# -- what can go wrong -------------------------------------------------------------------------------------------------


@pytest.fixture
def halfway(store, submit, monkeypatch, tiny_folder, tmp_path):
    """A run interrupted after four edits, on a model folder of its own."""
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    run_id = submit(model=str(folder))
    with monkeypatch.context() as patch:
        stop_at(patch, store, run_id, 4, "interrupt")
        serve(store)
    assert store.get(run_id).cursor == 4
    return run_id, folder


def everything(store: RunStore, run_id: str) -> tuple:
    files = {path.name: path.read_bytes() for path in store.folder_of(run_id).iterdir() if path.name != "log.txt"}
    run = store.get(run_id)
    rows = {name: series.every_row(store, name, [run_id]).to_csv() for name in series.ALL}
    return files, rows, run.cursor, run.done, store.states(run_id)


def failed(store: RunStore, run_id: str) -> str:
    """Resume a run that cannot go on. Returns its error; nothing of the run has changed."""
    before = everything(store, run_id)
    store.resume(run_id)
    serve(store)
    run = store.get(run_id)
    assert run.status == "failed" and "\n" not in run.error
    assert everything(store, run_id) == before
    return run.error


def test_a_deleted_facts_file(store, halfway):
    run_id, _ = halfway
    path = store.folder_of(run_id) / "facts.jsonl"
    text = path.read_bytes()
    path.unlink()
    assert "facts.jsonl" in failed(store, run_id)
    path.write_bytes(text)
    finish(store, run_id)


def finish(store: RunStore, run_id: str) -> None:
    store.resume(run_id)
    serve(store)
    assert store.get(run_id).status == "done" and store.get(run_id).error is None


def test_a_model_folder_that_changed_underneath(store, halfway, tiny_folder):
    run_id, folder = halfway
    change(folder)
    assert "has changed since the run was started" in failed(store, run_id)
    shutil.rmtree(folder)
    assert "does not exist" in failed(store, run_id)
    shutil.copytree(tiny_folder, folder)
    finish(store, run_id)


def test_all_states_damaged(store, halfway):
    run_id, _ = halfway
    for state in store.states(run_id):
        (store.folder_of(run_id) / state.file).write_bytes(b"")
    assert "No saved state" in failed(store, run_id)


def test_a_disk_that_is_full_when_state_is_saved(store, halfway, monkeypatch):
    run_id, _ = halfway
    before = everything(store, run_id)

    def without_room(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state_module, "save_file", without_room)
        store.resume(run_id)
        serve(store)
    run = store.get(run_id)
    assert run.status == "failed" and "is full" in run.error and run.cursor == 4 and run.done == 8
    files, _, _, _, states = everything(store, run_id)
    assert states == before[4] and files == before[0]
    finish(store, run_id)


def test_a_store_that_is_full_ends_the_worker_and_loses_nothing(store, halfway, monkeypatch):
    run_id, _ = halfway
    store.resume(run_id)
    with monkeypatch.context() as patch:
        patch.setattr(worker_module.time, "sleep", lambda seconds: None)
        for name in ("record_batch", "finish"):
            patch.setattr(RunStore, name, full_store)
        with pytest.raises(worker_module.StoreError, match="full"):
            serve(store)
    store.abandon("cpu")  # the process is gone then; here it is ours
    assert store.get(run_id).status == "interrupted" and store.get(run_id).cursor == 4
    finish(store, run_id)


def full_store(*_):
    raise worker_module.StoreError("The disk is full.")


def test_settings_that_this_version_does_not_have(store, halfway):
    run_id, _ = halfway
    values = store.get(run_id).settings
    with store.database.writing() as db:
        db.execute("UPDATE runs SET settings = ?", (json.dumps({**values, "friction": 0.1}),))
    assert "Setting friction" in failed(store, run_id)


def test_a_setting_that_came_after_a_run_is_as_it_was_without_it(store, submit, monkeypatch):
    """Today's row of ENCORE-N looks at two contexts at once; runs from before it looked at all of them."""
    run_id = submit(method="ENCORE-N", measure=FEWEST)
    values = store.get(run_id).settings
    assert values.pop("contexts_at_once") == 2
    with store.database.writing() as db:
        db.execute("UPDATE runs SET settings = ?", (json.dumps(values),))
    with monkeypatch.context() as patch:
        stop_at(patch, store, run_id, 4, "interrupt")
        serve(store)
    store.resume(run_id)
    serve(store)
    overrides = dict(store.get(run_id).plan.overrides) | {"contexts_at_once": 0}
    whole = submit(method="ENCORE-N", measure=FEWEST, overrides=overrides)
    in_turn = submit(method="ENCORE-N", measure=FEWEST)
    serve(store)
    digests = [store.get(one).weights_digest for one in (run_id, whole, in_turn)]
    assert store.get(run_id).status == "done" and digests[0] == digests[1] != digests[2]
    before = [series.every_row(store, "targets", [one]).probability_before for one in (run_id, in_turn)]
    assert before[0].notna().all() and before[1].isna().all()


def test_what_is_tuned_or_forgotten_meanwhile_does_not_count(store, submit, gpt2, monkeypatch, tmp_path):
    """A queued run keeps the settings that it was submitted with, and so does one that is resumed."""
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    row = TunedRow(gpt2.shape, "tiny", gpt2.fingerprint, "ENCORE", {"lr": 0.25}, True, {}, "thousands")
    store_row(row)
    overrides = tiny_runs.SETTINGS | {"tuned_for": "thousands"}
    del overrides["lr"]
    first, second = (submit(measure=FEWEST, overrides=overrides) for _ in range(2))
    assert store.get(first).settings["lr"] == 0.25
    serve(store)
    assert store.get(first).status == "done"
    again = submit(measure=FEWEST, overrides=overrides)
    forget_row(gpt2.shape, "ENCORE", "thousands")
    serve(store)
    assert store.get(again).status == "done"
    assert len({store.get(run_id).weights_digest for run_id in (first, second, again)}) == 1


def test_a_batch_that_would_change_a_matrix_too_much_is_left_out(store, submit, tiny_folder, statistics_text):
    """The others are edited, and a run that has met such a batch goes on."""
    found = []
    session = by_hand(tiny_folder, statistics_text, "MEMIT", n=0, most_change=1e9)
    check = batch_module.check_change
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_module, "check_change", lambda update, n, layer, s: found.append(
            (layer, update.norm() / n**0.5)) or check(update, n, layer, s))  # fmt: skip
        for start in range(0, 6, 2):
            session.edit(tiny_runs.FACTS[start : start + 2], known="edit", measure=False)
    largest = [max(change for _, change in found[start : start + 2]) for start in range(0, 6, 2)]
    limit = (sorted(largest)[1] + sorted(largest)[2]) / 2
    overrides = {**tiny_runs.SETTINGS, "most_change": limit}
    del overrides["lambda_n"]
    run_id = submit(n_edits=6, method="MEMIT", measure=FEWEST, overrides=overrides)
    serve(store)
    run, targets = store.get(run_id), series.targets(store, [run_id])
    refused = [place for place, why in enumerate(targets.stopped) if why == "refused"]
    at = 2 * largest.index(max(largest))
    assert (run.status, run.skipped, refused[:2]) == ("done", len(refused), [at, at + 1]) and len(refused) < 6
    assert "refuses this batch" in store.read_log(run_id)
    kept = EditSession(session.lm, "MEMIT", settings=overrides, statistics_text=statistics_text, keep_history=False)
    for start in (0, 2, 4):
        if start not in refused:
            kept.edit(tiny_runs.FACTS[start : start + 2], known="edit", measure=False)
    assert weights_digest(kept.matrices()) == run.weights_digest


def test_methods_that_follow_gradients_record_their_steps_and_sample_no_prefixes(store, submit, monkeypatch):
    monkeypatch.setattr("encore_core.editing.edited_model.shared_prefixes", lambda *_: pytest.fail("sampled"))
    overrides = {"layers": (0, 1), "lr": 0.1, "statistics_tokens": 500}
    run_id = submit(n_edits=2, method="UltraEdit", measure=FEWEST, overrides=overrides)
    serve(store)
    targets = series.targets(store, [run_id])
    assert store.get(run_id).status == "done" and list(targets.steps) == [1, 1]


def test_what_foretelling_needs_is_gathered_before_the_first_edit(store, submit, monkeypatch):
    seen, prepare_foretelling = [], EditSession.prepare_foretelling

    def watched(session, progress=None):
        seen.append(session.n_edits)
        return prepare_foretelling(session, progress)

    monkeypatch.setattr(EditSession, "prepare_foretelling", watched)
    submit(n_edits=4, measure=replace(FEWEST, foretold_damage=True))
    serve(store)
    assert seen[0] == 0


def test_a_defect_of_ours_fails_the_run_and_not_the_worker(store, submit, monkeypatch):
    a, b = submit(measure=FEWEST), submit(measure=FEWEST, method="MEMIT")
    edit = EditSession.edit

    def defective(session, facts, **values):
        if session.settings.method == "ENCORE" and session.n_edits == 4:
            raise ZeroDivisionError("one\ntwo")
        return edit(session, facts, **values)

    monkeypatch.setattr(EditSession, "edit", defective)
    serve(store)
    run = store.get(a)
    assert (run.status, run.error, run.cursor) == ("failed", "ZeroDivisionError: one", 4)
    assert "Traceback" in store.read_log(a) and store.get(b).status == "done"


def test_facts_that_cannot_be_edited_are_refused_at_the_start(store, submit):
    long = Fact("France", "The capital of {} " + "which is large and old " * 20 + "is", "Rome")
    run_id = submit([*tiny_runs.FACTS[:7], long], n_edits=8, measure=FEWEST)
    serve(store)
    run = store.get(run_id)
    assert run.status == "failed" and run.error.startswith("Fact 8 of the run cannot be edited") and run.done == 0


def test_a_fact_that_cannot_be_scored_is_left_out_of_scores(store, submit):
    long = replace(tiny_runs.FACTS[0], paraphrases=("France is large and old, and " * 20,))
    run_id = submit([long, *tiny_runs.FACTS[1:10]], batch_size=2)
    serve(store)
    scores = series.scores(store, [run_id], subsets=["first"], metrics=["edit_score"])
    assert store.get(run_id).status == "done" and set(scores.n) == {1} and len(scores)
    assert "Fact 1 is left out of scores" in store.read_log(run_id)


def test_a_model_that_breaks_fails_the_run_with_its_series(store, submit):
    run_id = submit(method="MEMIT", overrides=tiny_models.DEFAULTS | {"lambda_p": 1e-12, "clamp": 100, "lr": 100})
    serve(store)
    run = store.get(run_id)
    # However far it gets: it has ended with a word, or it is done; and what was measured can be read.
    assert run.status in ("done", "failed") and (run.status == "done" or run.error)
    assert len(series.norms(store, [run_id])) >= 5
    for name in series.ALL:
        series.every_row(store, name, [run_id])


# -- processes ---------------------------------------------------------------------------------------------------------


def test_one_worker_serves_a_device(store, submit, monkeypatch):
    run_id = submit(measure=FEWEST)
    monkeypatch.setattr(worker_module, "LOCK_SECONDS", 0.1)
    lock = store.device_lock("cpu")
    holder = threading.Thread(target=lambda: (lock.acquire(), time.sleep(0.5), lock.release()))
    holder.start()
    time.sleep(0.2)
    assert store.has_worker("cpu") and start_worker(store, "cpu") is None
    serve(store)
    assert store.get(run_id).status == "queued"
    holder.join()
    serve(store)
    assert store.get(run_id).status == "done"


def test_a_run_submitted_while_a_worker_ends_is_taken(store, submit, monkeypatch):
    """The submitter sees the lock held and relies on the worker, which has just found its queue empty."""
    late: list[str] = []
    real = worker_module.Worker._serve_queue

    def serve_and_submit(worker):
        real(worker)
        if not late:
            late.append(submit(measure=FEWEST))
            assert store.has_worker("cpu")

    monkeypatch.setattr(worker_module.Worker, "_serve_queue", serve_and_submit)
    serve(store)
    assert store.get(late[0]).status == "done"


def test_a_worker_is_a_process_of_its_own(store, submit):
    """Started as the pages and the command line start it; SIGTERM saves and interrupts, another worker finishes."""
    run_id = submit(n_edits=27, batch_size=1, checkpoint_every=9)
    process = start_worker(store, "cpu")
    wait_for(lambda: store.get(run_id).done >= 3)
    run = store.get(run_id)
    assert run.pid == process.pid and run.status == "running"
    wait_for(lambda: "seconds_per_edit" in store.get(run_id).detail or store.get(run_id).ended)
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: store.get(run_id).ended)
    run = store.get(run_id)
    assert run.status == "interrupted" and run.cursor == run.done >= 3
    assert process.wait(30) == 0 and not store.has_worker("cpu")
    store.resume(run_id)
    serve(store)
    assert store.get(run_id).status == "done" and store.get(run_id).done == 27


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_worker_of_a_broken_store_says_so(tmp_path, capsys, caplog):
    (tmp_path / "runs.sqlite").write_bytes(b"nonsense" * 1000)
    assert worker_module.main(["--store", str(tmp_path), "--device", "cpu"]) == 2
    assert "damaged" in caplog.text


@pytest.mark.slow  # what it guards, that tensors are saved as they lie, is tested with tiny ones, too
@pytest.mark.embedded
def test_a_killed_run_of_the_embedded_model_ends_the_same(tmp_path, embedded_model, monkeypatch):
    """Matrices large enough for threads and vector units, where layout and alignment decide how BLAS sums."""
    torch.set_num_threads(2)
    store = RunStore(tmp_path / "runs")
    plan = RunPlan(
        facts="bundled",
        n_edits=6,
        batch_size=2,
        checkpoint_every=2,
        device="cpu",
        overrides={"steps": 4},
        measure=FEWEST,
    )
    whole, killed = store.submit([prepare(plan)] * 2)
    store.interrupt(killed)
    serve(store)
    store.resume(killed)
    record = RunStore.record_batch

    def deadly(self, claim, batch):
        if batch.edits == 6:
            raise Killed
        return record(self, claim, batch)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunStore, "record_batch", deadly)
        serve(store)
    store.abandon("cpu")
    assert store.get(killed).cursor == 4
    store.resume(killed)
    serve(store)
    assert_same_run(store, whole, killed)
