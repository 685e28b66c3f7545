"""Series of runs: what was recorded is what is read, thinned where a line is long, and quick."""

from __future__ import annotations

import json
import random
import time

import numpy as np
import pandas as pd
import pytest
import tiny_runs
from refusals import refusal

from encore_core.runs import RunStore, series
from encore_core.runs.preparing import PreparedRun
from encore_core.runs.rows import BatchRecord, CheckpointRecord, TargetRow

LAYERS, SCORES, SUBSETS = 30, 9, ("sample", "newest", "first")


@pytest.fixture(scope="module")
def ready(tiny_folder, statistics_text) -> PreparedRun:
    return tiny_runs.prepared(tiny_folder, statistics_text)


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "runs")


def record(store: RunStore, shift: float) -> str:
    """A run of three batches with a checkpoint at 0 and at the end; returns its id."""
    claim = store.claim("cpu")
    for edits in (2, 4, 6):
        rows = [TargetRow(p, 3, "mpes", 1.0 + p, 0.5, 0.25, 0.25, 0.5 + p / 20, 0.1) for p in range(edits - 2, edits)]
        seconds = {"targets": 1.0 + edits, "keys": 0.5}
        store.record_batch(claim, BatchRecord(edits, 2, 0, seconds, rows, [], 100 + edits, 200, None))
        if edits in (2, 6):
            store.record_checkpoint(claim, point(edits, shift))
    store.finish(claim, "done")
    return claim.id


def point(edits: int, shift: float) -> CheckpointRecord:
    return CheckpointRecord(
        edits,
        [(layer, shift + layer + edits, 1.0 + edits / 10) for layer in range(3)],
        [(subset, metric, shift + edits, 4, shift, None) for subset in SUBSETS for metric in ("edit_score", "accuracy")]
        + [("sample", "overall_score", None, 0, None, None)],
        [(0, "input", "input", None, 0.25, 0.5), (1, "attention 0", "attention", 0, 0.75, 0.5)],
        [("perplexity", 50.0 + edits)],
        [("sst2", "f1", 80.0, 20, 60.0, 90.0), ("sst2", "n", 20, None, None, None)],
        {"norms": 0.5, "scores": 1.5},
        {"entropy": "cost"},
    )


@pytest.fixture
def two_runs(store, ready) -> list[str]:
    store.submit([ready, ready])
    return [record(store, 0.0), record(store, 100.0)]


def test_frames_hold_what_was_recorded(store, two_runs):
    norms = series.norms(store, two_runs)
    expected = [
        (run_id, edits, layer, shift + layer + edits, 1.0 + edits / 10)
        for run_id, shift in zip(two_runs, (0.0, 100.0), strict=True)
        for edits in (2, 6)
        for layer in range(3)
    ]
    assert [tuple(row) for row in norms.itertuples(index=False)] == expected
    scores = series.scores(store, two_runs[:1])
    assert len(scores) == 14 and set(scores.subset) == set(SUBSETS)
    assert scores[scores.metric == "overall_score"].value.isna().all()
    contributions = series.contributions(store, two_runs, edits=[6])
    assert list(contributions.layer.isna()) == [True, False] * 2 and set(contributions.edits) == {6}
    assert series.measures(store, two_runs).value.tolist() == [52.0, 56.0] * 2
    assert series.downstream(store, two_runs).groupby("metric", observed=True).value.max().to_dict() == {
        "f1": 80,
        "n": 20,
    }
    checkpoints = series.checkpoints(store, two_runs)
    assert checkpoints.seconds.tolist() == [2.0] * 4 and json.loads(checkpoints.left_out[0]) == {"entropy": "cost"}
    assert series.measuring(store, two_runs[1:]).seconds.sum() == 4.0
    timings = series.timings(store, two_runs)
    assert timings[timings.phase == "targets"].seconds.tolist() == [3.0, 5.0, 7.0] * 2 and set(timings.facts) == {2}
    assert series.memory(store, two_runs[:1]).resident_bytes.tolist() == [102, 104, 106]
    assert series.targets(store, two_runs).loss.tolist() == [1, 2, 3, 4, 5, 6] * 2
    assert series.trajectories(store, two_runs).empty


def test_runs_come_in_the_order_asked_for_and_by_name(store, two_runs):
    frame = series.norms(store, [*two_runs[::-1], two_runs[0]])
    assert list(frame.run.cat.categories) == two_runs[::-1]
    assert frame.groupby("run", observed=True).norm.min().to_dict() == {two_runs[0]: 2.0, two_runs[1]: 102.0}


def test_parts_can_be_asked_for(store, two_runs):
    assert set(series.norms(store, two_runs, layers=[1]).layer) == {1}
    assert series.norms(store, two_runs, layers=[]).empty
    some = series.scores(store, two_runs, subsets=["first"], metrics=["accuracy", "nonsense'"])
    assert set(zip(some.subset, some.metric, strict=True)) == {("first", "accuracy")}


@pytest.mark.parametrize("name", series.ALL)
def test_frames_without_rows_have_their_columns(store, two_runs, ready, name):
    [empty] = store.submit([ready])
    full, bare = getattr(series, name)(store, two_runs), getattr(series, name)(store, [empty])
    assert bare.empty and list(bare.columns) == list(full.columns)
    assert list(getattr(series, name)(store, []).columns) == list(full.columns)
    assert pd.concat([full, bare]).shape == full.shape


def test_unknown_runs_are_refused(store, two_runs):
    assert "no run" in refusal(series.norms, store, [two_runs[0], "nothing"])


# -- thinning ----------------------------------------------------------------------------------------------------------


def long_frame(n: int) -> pd.DataFrame:
    numbers = random.Random(1)
    return pd.DataFrame(
        {
            "run": pd.Categorical(["a"] * n + ["b"] * 10),
            "edits": [*range(n), *range(10)],
            "value": [numbers.gauss(0, 1) for _ in range(n + 10)],
        }
    )


@pytest.mark.parametrize("max_points", [4, 10, 100, 1000])
def test_a_thinned_line_keeps_its_extremes_and_ends(max_points):
    frame = long_frame(5000)
    thin = series.thinned(frame, ("run",), "edits", "value", max_points)
    long, short = thin[thin.run == "a"], thin[thin.run == "b"]
    before = frame[frame.run == "a"]
    assert max_points / 2 - 2 <= len(long) <= max_points
    assert (long.value.min(), long.value.max()) == (before.value.min(), before.value.max())
    assert (long.edits.iloc[0], long.edits.iloc[-1]) == (0, 4999) and long.edits.is_monotonic_increasing
    assert set(map(tuple, long.to_numpy())) <= set(map(tuple, before.to_numpy()))
    if max_points >= 10:
        assert len(short) == 10


def test_thinning_spares_short_lines_and_bears_gaps():
    frame = long_frame(50)
    assert series.thinned(frame, ("run",), "edits", "value", 1000) is frame
    assert series.thinned(frame, ("run",), "edits", "value", None) is frame
    frame.loc[10:40, "value"] = np.nan
    thin = series.thinned(frame, ("run",), "edits", "value", 12)
    assert thin.value.max() == frame.value.max() and len(thin[thin.run == "a"]) <= 12
    assert series.thinned(frame.assign(value=np.nan), ("run",), "edits", "value", 12).run.nunique() == 2


def test_long_timings_are_added_up_and_nothing_is_lost(store, ready):
    [run_id] = store.submit([ready])
    with store.database.writing() as db:
        (number,) = db.execute("SELECT number FROM runs").fetchone()
        rows = range(1, 5001)
        db.executemany("INSERT INTO batches VALUES (?, ?, 1, 0, ?, 1, NULL)", [(number, n, n) for n in rows])
        db.executemany("INSERT INTO timings VALUES (?, ?, 'targets', ?)", [(number, n, 0.5 * n) for n in rows])
    thin, full = series.timings(store, [run_id]), series.every_row(store, "timings", [run_id])
    assert len(full) == 5000 and len(thin) == 1000
    assert thin.seconds.sum() == full.seconds.sum() and thin.facts.sum() == 5000
    assert thin.edits.iloc[0] == 5 and thin.edits.iloc[-1] == 5000
    assert thin.seconds.iloc[0] == 0.5 * (1 + 2 + 3 + 4 + 5)
    memory = series.memory(store, [run_id])
    assert len(memory) == 1000 and memory.resident_bytes.max() == 5000


# -- quick -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ten_long_runs(tmp_path_factory, ready) -> tuple[RunStore, list[str]]:
    """Ten runs of 10,000 edits, batch 50, measured every 100."""
    store = RunStore(tmp_path_factory.mktemp("long") / "runs")
    ids = store.submit([ready] * 10)
    numbers = random.Random(0)
    ends, points = range(50, 10_001, 50), range(0, 10_001, 100)
    with store.database.writing() as db:
        for (run,) in db.execute("SELECT number FROM runs").fetchall():
            tables = {
                "batches": [(run, end, 50, 0, 10**9, 10**9, None) for end in ends],
                "timings": [(run, end, p, 1.0) for end in ends for p in ("targets", "keys", "update", "measuring")],
                "targets": [
                    (run, n, 50 * (n // 50 + 1), 9, "mpes", 1.0, 0.5, 0.2, 0.1, 0.9, 0.1) for n in range(10_000)
                ],
                "checkpoints": [(run, at, "{}") for at in points],
                "measuring": [(run, at, p, 1.0) for at in points for p in ("norms", "scores", "entropy")],
                "norms": [(run, at, layer, numbers.random(), 1.0) for at in points for layer in range(LAYERS)],
                "scores": [
                    (run, at, subset, f"metric {m}", numbers.random(), 50, 0.0, 1.0)
                    for at in points for subset in SUBSETS for m in range(SCORES)
                ],
                "contributions": [
                    (run, at, s, f"MLP {s}", "MLP", s // 2, 0.1, 0.1) for at in points for s in range(2 * LAYERS + 1)
                ],
                "measures": [(run, at, m, 1.0) for at in points for m in ("perplexity", "generation_entropy")],
            }  # fmt: skip
            for table, rows in tables.items():
                db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
    return store, ids


READS = {
    "the list of runs": lambda store, ids: store.runs(),
    "norms of the edited layers": lambda store, ids: series.norms(store, ids, layers=range(6, 11)),
    "norms of all layers": lambda store, ids: series.norms(store, ids),
    "the scores of a chart": lambda store, ids: series.scores(
        store, ids, subsets=["sample"], metrics=["metric 0", "metric 1", "metric 2"]
    ),
    "all scores": lambda store, ids: series.scores(store, ids),
    "contributions at two checkpoints": lambda store, ids: series.contributions(store, ids, edits=[0, 10_000]),
    "perplexity": lambda store, ids: series.measures(store, ids),
    "seconds": lambda store, ids: series.timings(store, ids),
    "memory": lambda store, ids: series.memory(store, ids),
    "targets of a run": lambda store, ids: series.targets(store, ids[:1]),
    "what measuring took": lambda store, ids: (series.measuring(store, ids), series.checkpoints(store, ids)),
}


SLACK = 5
"""The aim is 200 ms; a test must not fail because the machine is busy."""


@pytest.mark.parametrize("what", READS)
def test_reads_of_ten_long_runs_are_quick(ten_long_runs, what):
    """The best of three, because the machine is not ours alone."""
    store, ids = ten_long_runs
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        READS[what](store, ids)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.2 * SLACK
