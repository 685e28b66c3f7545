"""The list of runs with their results, and what is said of an opened run, against the series read row by row."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import tiny_runs
from streamlit.testing.v1 import AppTest
from tiny_pages import address_of, figures, opened, words

from dashboard.parts.runs import run_list
from dashboard.reading import run_frames, run_outcome, run_overviews
from encore_core.runs import RunStore, recorded
from encore_core.runs.overview import overviews
from encore_core.runs.rows import BatchRecord, CheckpointRecord

N_LAYERS, EDITED = 5, (0, 1)


def leave(store: RunStore, factor: float) -> None:
    """What the next run of the queue leaves behind after ten edits, without a model that makes them."""
    claim = store.claim("cpu")
    for edits in (0, 4, 10):
        if edits:
            store.record_batch(claim, BatchRecord(edits=edits, facts=edits - (edits > 4) * 4, skipped=0,
                               seconds={"targets": 60.0}, targets=[], trajectories=[], resident_bytes=1, peak_bytes=1,
                               device_peak_bytes=None))  # fmt: skip
        ratios = {
            layer: 1 + factor * edits / 100 * (layer + 1) if layer in EDITED else 1.0 for layer in range(N_LAYERS)
        }
        scores = [
            (subset, metric, 20.0 + edits * (subset == "sample"), 4, 10.0, 60.0)
            for subset in ("sample", "first")
            for metric in ("edit_score", "neighborhood_score", "generated_edit_contained")
        ]
        store.record_checkpoint(claim, CheckpointRecord(
            edits=edits, norms=[(layer, 10 * ratio, ratio) for layer, ratio in ratios.items()], scores=scores,
            contributions=[], measures=[("perplexity", 40.0 * (1 + factor * edits))], downstream=[],
            seconds={"norms": 6.0}, left_out={}))  # fmt: skip
    store.finish(claim, "done")


@pytest.fixture(scope="module")
def made(tiny_folder, statistics_text, tmp_path_factory) -> tuple[Path, list[str]]:
    """A data folder with two finished runs and a queued one."""
    home = tmp_path_factory.mktemp("overview")
    store = RunStore(home / "runs")
    ids = [store.submit([tiny_runs.prepared(tiny_folder, statistics_text, method=method)])[0]
           for method in ("MEMIT", "ENCORE", "EMMET")]  # fmt: skip
    leave(store, 0.5)
    leave(store, 0.1)
    return home, ids


@pytest.fixture
def ids(made, tmp_path, monkeypatch, surroundings, tiny_folder) -> list[str]:
    shutil.copytree(made[0], tmp_path / "home")
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", tmp_path / "recorded")
    return made[1]


def agrees(store: RunStore) -> int:
    """Compare every overview of a store with the frames that the charts are drawn from; how many figures agreed."""
    runs, n_figures = store.runs(), 0
    for run_id, seen in overviews(store, runs).items():
        frame = run_frames.scores([store.get(run_id)], "sample")
        if frame.empty:
            assert (seen.scores, seen.perplexity, seen.growth) == ({}, (), ())
            continue
        frame = frame.astype({"metric": str})
        for metric, curve in (("perplexity_ratio", seen.perplexity), ("norm_ratio", seen.growth)):
            rows = frame[(frame["metric"] == metric) & frame["value"].notna()]
            assert [edits for edits, _ in curve] == list(rows["edits"])
            assert [value for _, value in curve] == pytest.approx(list(rows["value"]))
            n_figures += len(rows)
        scored = frame[frame["metric"].isin(("edit_score", "paraphrase_score", "neighborhood_score"))]
        for row in scored[scored["edits"] == scored["edits"].max()].itertuples():
            assert seen.scores[row.metric].value == pytest.approx(row.value)
            n_figures += 1
    return n_figures


def test_the_overview_is_what_the_frames_say(ids):
    assert agrees(RunStore()) == 2 * (3 + 3 + 2)


def test_the_recorded_runs_are_read_likewise_and_in_no_time():
    store = recorded.recorded_runs()
    assert agrees(store) > 100
    runs = store.runs()
    started = time.perf_counter()
    overviews(store, runs)
    assert time.perf_counter() - started < 0.5  # 5 ms on an idle machine


def test_the_list_has_figures_as_numbers_and_curves(ids):
    frame = opened("runs").dataframe[0].value.set_index("Id")
    memit, encore, queued = (frame.loc[run_id] for run_id in ids)
    for name in ("Edits", "Planned", "Edit score", "n", "Perplexity ×", "‖W‖ / ‖W₀‖", "Time, min"):
        assert pd.api.types.is_numeric_dtype(frame[name]), name
    assert (memit["Edits"], memit["Planned"], memit["n"]) == (10, 10, 4) and encore["Time, min"] == pytest.approx(2.3)
    assert len(encore["‖W‖, log"]) == run_overviews.CURVE_POINTS
    assert encore["‖W‖, log"][-1] == pytest.approx(math.log10(encore["‖W‖ / ‖W₀‖"]))
    assert math.isnan(queued["Edit score"]) and not len(queued["‖W‖, log"]) and queued["Edits"] == 0
    assert "Tags" not in frame and "Says it" in frame  # a column without any figure is not there


def test_the_list_tells_runs_on_other_facts_apart():
    frame = run_overviews.listed(recorded.recorded_runs().runs()).set_index("Id")
    assert frame.loc["recorded-encore-1000", "Facts"] == "counterfact_10k"
    assert frame.loc["recorded-encore-long", "Facts"] == "long set"
    assert frame.loc["recorded-memit-bundled", "Facts"] == "bundled"


def test_what_all_rows_share_takes_no_room():
    """The columns up to the time fit on a page 1400 wide, where 1,075 pixels are left for the table."""
    runs = recorded.recorded_runs().runs()
    frame = run_overviews.listed(runs)
    assert "Status" not in frame and list(frame).index("Model") > list(frame).index("Time, min")
    frame.insert(0, run_list.OPENED, "")
    columns = run_list._columns(frame)
    first = list(frame)[: list(frame).index("Time, min") + 1]
    assert {"Edits", "Edit score", "Says it", "Perplexity ×", "‖W‖ / ‖W₀‖", "‖W‖, log"} < set(first)
    assert 34 + sum(columns[name]["width"] for name in first) <= 1075
    assert len(runs) <= run_list.SHOWN_ROWS
    other = replace(runs[0], plan_json=runs[0].plan_json | {"model": "gpt2-xl"}, recorded=False, status="failed")
    mixed = run_overviews.listed([*runs, other])
    assert list(mixed)[:2] == ["Method", "Model"] and "Status" in mixed


def test_a_curve_is_drawn_at_equal_steps_of_edits():
    curve = run_overviews.stretched([(0, 0.0), (10, 1.0), (100, 1.0)])
    assert curve[0] == 0 and curve[3:] == [1.0] * (len(curve) - 3) and 0 < curve[1] < 1
    assert run_overviews.stretched([(0, 1.0)]) == []


def ticked(app: AppTest, rows: list[int], cells: list | None = None) -> AppTest:
    """The page after rows were ticked, or a cell was clicked."""
    app.session_state[run_list.table_key(list(app.dataframe[0].value["Id"]))] = {
        "selection": {"rows": rows, "columns": [], "cells": cells or []}
    }
    return app.run()


def test_the_opened_runs_row_is_marked(ids):
    app = opened("runs", run=ids[1])
    frame = app.dataframe[0].value.set_index("Id")
    assert frame.index[frame[run_list.OPENED] == "▶"].tolist() == [ids[1]]


def test_two_runs_are_ticked_and_sent_to_compare_by_one_press(ids):
    app = opened("runs")
    assert app.button(key="compare_picked").disabled and "tick 2" in " ".join(c.value for c in app.caption)
    listed = list(app.dataframe[0].value["Id"])
    ticked(app, [listed.index(run_id) for run_id in ids[:2]])
    assert app.button(key="compare_picked").label == "Compare these 2 runs"
    app.button(key="compare_picked").click().run()
    assert not app.exception and set(address_of(app)["run"]) == set(ids[:2])
    assert set(app.multiselect(key="chosen_runs").value) == set(ids[:2])


def test_a_run_that_was_not_measured_cannot_be_compared(ids):
    app = opened("runs")
    ticked(app, [0, 1, 2])
    assert app.button(key="compare_picked").disabled
    assert "not been measured" in " ".join(caption.value for caption in app.caption)


def test_an_opened_run_begins_with_its_outcome_and_curves(ids):
    app = opened("runs", run=ids[1])
    assert "After 10 of 10 edits." in words(app) and "95 % interval" in words(app)
    assert len(figures(app)) == 2 and "lambda_n" not in words(app)  # settings are behind their tab
    for spec in figures(app):
        low, high = spec["layouts"]["wide"]["xaxis"]["range"]
        assert low <= 0 and 10 <= high <= 11
    app.session_state["record_tabs"] = "Settings"
    assert "lambda_n" in words(app.run())


def frame_of(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["edits", "metric", "value", "n", "low", "high"])


def test_the_outcome_says_what_was_measured_and_no_more(ids):
    run = RunStore().get(ids[0])
    nan = math.nan
    frame = frame_of((0, "edit_score", 27.0, 50, 16, 40), (10, "edit_score", 72.0, 50, 58.4, 82.6),
                     (10, "perplexity_ratio", 128.3, nan, nan, nan),
                     (10, "norm_ratio", 2.1, nan, nan, nan))  # fmt: skip
    said = run_outcome.outcome(run, frame)
    assert "after 72 % of 50 edited prompts (95 % interval 58 to 83; before editing 27 %)" in said
    assert "Perplexity is 128 times" in said and "110.0 % larger" in said and "neighbours" not in said
    assert said.count("the new answer is the most probable one after") + said.count("The new answer is the most") == 1
    scored = pd.concat([frame, frame_of((10, "magnitude", 0.3, 50, 0.2, 0.4))])
    assert "more probable than the true one after 72 %" in run_outcome.outcome(run, scored)
    assert run_outcome.outcome(run, frame[:1]).startswith("Only the unedited model")
    assert run_outcome.outcome(run, frame[:0]) == ""
