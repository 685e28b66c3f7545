"""What pages read of runs, cached by each run's progress: a page that is drawn again reads nothing twice."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.charts.downstream import MEAN, in_panels
from dashboard.charts.runs import RATIO, Line
from dashboard.reading import run_words
from dashboard.reading.run_words import BOOTSTRAP, BY_TASKS, EDITING, MEASURES, TASKS_UNSURE, WILSON, Measure, in_order
from encore_core.measures import intervals
from encore_core.measures.intervals import Interval
from encore_core.runs import RunInfo, RunStore, paired, recorded, series
from encore_core.runs.fact_values import NO_INTERVAL
from encore_core.runs.paired import RunAt
from encore_core.storage import data_folder

KEPT_FRAMES = 200
LONGEST_NAME = 28
YES_OR_NO = ("edit_score", "accuracy", "generation_efficacy")
"""Scores that are yes or no for each fact."""


def all_runs(search: str = "") -> list[RunInfo]:
    """The store's own runs, the newest first, then the recorded ones, the longest first.

    Args:
        search: as for `RunStore.runs`.

    Raises:
        InputError: when the store cannot be read.
    """
    kept = recorded.recorded_runs()
    longest_first = sorted(in_order(kept.runs(search)), key=lambda run: -run.n_edits) if kept else []
    return RunStore().runs(search) + longest_first


def store_of(run: RunInfo) -> RunStore:
    """The store that a run is in."""
    return RunStore(_folder(run), read_only=run.recorded)


def _folder(run: RunInfo) -> Path:
    return recorded.RECORDED if run.recorded else data_folder() / "runs"


def version(run: RunInfo) -> tuple[object, ...]:
    """Changes whenever a checkpoint was added to a run, or dropped because it was resumed from an older state."""
    return run.id, run.measuring_seconds


def read(name: str, runs: Sequence[RunInfo]) -> pd.DataFrame:
    """A series of some runs, as `encore_core.runs.series` has it. Shared between visitors: do not change it.

    Args:
        name: from `series.ALL`.
        runs: their rows follow each other in this order; column `run` holds plain strings.
    """
    return _joined([_series(str(_folder(run)), run.recorded, name, version(run)) for run in runs])


def scores(runs: Sequence[RunInfo], subset: str) -> pd.DataFrame:
    """Scores of a subset, of the tasks, perplexity and the like, and the largest growth of an edited matrix.

    Returns:
        run, edits, metric, value, n, low, high, sure (how the 95 % interval came about, or why there is none, as in
        `run_words`; empty for what is not scored on facts); metrics as in `run_words.MEASURES`.
    """
    return _joined([_scores(str(_folder(run)), run.recorded, version(run), run.layers, subset) for run in runs])


def measures(runs: Sequence[RunInfo]) -> pd.DataFrame:
    """The series `measures` with perplexity as the ratio to the unedited model's, too."""
    found = [_series(str(_folder(run)), run.recorded, "measures", version(run)) for run in runs]
    return _joined([frame for of_run in found for frame in (of_run, _perplexity_ratios(of_run))])


def health(runs: Sequence[RunInfo]) -> pd.DataFrame:
    """How well the models of some runs fare: rows of `scores` on what has nothing to do with the edited facts.

    Returns:
        run, edits, metric ("mean" of the tasks, "perplexity_ratio", "norm_ratio"), value, n, low, high, sure.
    """
    frame = scores(runs, "sample")
    return frame[frame["metric"].isin([MEAN, RATIO, "norm_ratio"])]


def differences(
    runs: Sequence[RunInfo], subset: str, metrics: Sequence[str], at: int
) -> dict[tuple[str, str, str], Interval]:
    """How much higher one run scores than another on the same facts, with its 95 % interval.

    Args:
        runs: those compared.
        subset: of facts.
        metrics: names of scores.
        at: edits; both runs are read at their last checkpoint up to there, where it is the same.

    Returns:
        (metric, id, id of the other) → the difference; nothing where there is none.
    """
    key = tuple((str(_folder(run)), run.recorded, version(run)) for run in runs)
    return _differences(key, subset, tuple(metrics), at)


def task_changes(runs: Sequence[RunInfo], metric: str) -> dict[tuple[str, str], tuple[int, Interval]]:
    """How a score of the tasks changed from the unedited model to the last checkpoint, on the same tests.

    Args:
        runs: any.
        metric: "f1", "f1_nll" or "accuracy".

    Returns:
        (task, id) → edits at the last checkpoint, and the difference; nothing where answers were not recorded.
    """
    found = {}
    for run in runs:
        found |= _task_changes(str(_folder(run)), run.recorded, version(run), metric)
    return found


def seconds_of_edits(run: RunInfo) -> float | None:
    """Seconds per edit, the median over batches, so that a machine paused or busy for some of them does not count.

    With more batches than a series has points, the median over stretches of them. None until a batch has been done.
    """
    # A batch can end without a checkpoint.
    return _seconds(str(_folder(run)), run.recorded, (*version(run), run.done))


def csv(name: str, runs: Sequence[RunInfo]) -> bytes:
    """Every row of a series of some runs as CSV, safe in a spreadsheet."""
    frames = [series.every_row(store_of(run), name, [run.id]).astype({"run": str}) for run in runs]
    return series.as_csv(_joined(frames))


def lines(runs: Sequence[RunInfo]) -> list[Line]:
    """Runs as charts draw them; names distinguish those of one method."""
    seen: dict[str, int] = {}
    methods = [run.method for run in runs]
    found = []
    for run in runs:
        repeat = seen[run.method] = seen.get(run.method, -1) + 1
        name = run.method if methods.count(run.method) == 1 else _told_apart(run, runs)
        found.append(Line(run.id, run.method, name, run.layers, repeat))
    return found


def gaps(runs: Sequence[RunInfo], parts: Mapping[str, str]) -> str:
    """Where lines of a chart of these runs break, see `run_words.gaps`."""
    return run_words.gaps(read("checkpoints", runs), {line.run: line.name for line in lines(runs)}, parts)


def _told_apart(run: RunInfo, runs: Sequence[RunInfo]) -> str:
    """A short name with the method in it that no other run of the method has."""

    def named(one: RunInfo) -> str:
        name = one.name if one.method in one.name else f"{one.method} · {one.name}"
        return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1].rstrip() + "…"

    alike = [named(other) for other in runs if other.method == run.method]
    return named(run) if alike.count(named(run)) == 1 else f"{run.method} · {run.id}"


def known_measures(frame: pd.DataFrame) -> list[Measure]:
    """The measures that a frame of `scores` holds at all."""
    there = set(frame["metric"].astype(str)[frame["value"].notna()])
    return [measure for measure in MEASURES if measure.name in there]


@st.cache_resource(show_spinner=False, max_entries=KEPT_FRAMES)
def _series(folder: str, recorded: bool, name: str, key: tuple[object, ...]) -> pd.DataFrame:
    # cache_resource returns the object itself, not a copy; nothing here changes it.
    frame = series.ALL[name](RunStore(folder, read_only=recorded), [str(key[0])])
    return frame.astype({"run": str})


@st.cache_resource(show_spinner=False, max_entries=KEPT_FRAMES)
def _scores(folder: str, recorded: bool, key: tuple[object, ...], layers: tuple[int, ...], subset: str) -> pd.DataFrame:
    of_run, measures, growth = (_series(folder, recorded, name, key) for name in ("scores", "measures", "norms"))
    largest = growth[growth["layer"].isin(layers)].groupby("edits", as_index=False)["ratio"].max()
    grown = {"run": str(key[0]), "edits": largest["edits"], "metric": "norm_ratio", "value": largest["ratio"]}
    of_subset = _with_intervals(of_run[of_run["subset"] == subset].drop(columns="subset"))
    others = _joined([measures, _perplexity_ratios(measures), pd.DataFrame(grown)])
    tasks = in_panels(_series(folder, recorded, "downstream", key), measures.iloc[:0], "f1")
    tasks = tasks[tasks["metric"] == MEAN].astype({"n": float})
    tasks = tasks.assign(sure=tasks["low"].isna().map({True: TASKS_UNSURE, False: BY_TASKS}))
    return _joined([of_subset, others.assign(n=np.nan, low=np.nan, high=np.nan, sure=""), tasks])


def _with_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """Scores of one subset with how sure they are; Wilson's interval where nothing but a share and n is known."""
    frame = frame.astype({"metric": str, "n": float}).assign(sure=BOOTSTRAP)
    old = frame["n"].isna()
    if not old.any():
        return frame
    frame.loc[old, "sure"] = NO_INTERVAL
    counts = frame[frame["metric"] == "facts"].set_index("edits")["value"]
    shares = frame.index[old & frame["metric"].isin(YES_OR_NO) & frame["value"].notna()]
    for row in shares:
        n = counts.get(frame.at[row, "edits"])
        if n:
            found = intervals.of_share(frame.at[row, "value"] / 100, int(n)).times(100)
            frame.loc[row, ["n", "low", "high", "sure"]] = [found.n, found.low, found.high, WILSON]
    return frame[frame["metric"] != "facts"]


def _perplexity_ratios(measures: pd.DataFrame) -> pd.DataFrame:
    """Perplexity as the ratio to that of the unedited model, where that was measured."""
    of_text = measures[measures["metric"] == "perplexity"]
    before = of_text.loc[of_text["edits"] == 0, "value"]
    if before.empty or not before.iloc[0] > 0:
        return of_text.iloc[:0]
    return of_text.assign(metric=RATIO, value=of_text["value"] / before.iloc[0])


@st.cache_resource(show_spinner=False, max_entries=KEPT_FRAMES)
def _differences(
    runs: tuple[tuple[str, bool, tuple[object, ...]], ...], subset: str, metrics: tuple[str, ...], at: int
) -> dict[tuple[str, str, str], Interval]:
    places = []
    for folder, is_recorded, key in runs:
        there = _series(folder, is_recorded, "scored", key)
        reached = there.loc[(there["edits"] <= at) & (there["subset"] == subset), "edits"]
        if len(reached):
            places.append(RunAt(RunStore(folder, read_only=is_recorded), str(key[0]), int(reached.max()), subset))
    found = {}
    for one, other in itertools.permutations(places, 2):
        if one.edits == other.edits:
            for metric in metrics:
                if (difference := paired.between(one, other, metric)) is not None:
                    found[metric, one.run, other.run] = difference
    return found


@st.cache_resource(show_spinner=False, max_entries=KEPT_FRAMES)
def _task_changes(
    folder: str, recorded: bool, key: tuple[object, ...], metric: str
) -> dict[tuple[str, str], tuple[int, Interval]]:
    there = _series(folder, recorded, "task_answers", key)
    if there.empty or there["edits"].min() or not there["edits"].max():
        return {}
    store, run, last = RunStore(folder, read_only=recorded), str(key[0]), int(there["edits"].max())
    before, after = RunAt(store, run, 0), RunAt(store, run, last)
    changes = {task: paired.of_task(after, before, task, metric) for task in after.answers}
    return {(task, run): (last, change) for task, change in changes.items() if change is not None}


@st.cache_resource(show_spinner=False, max_entries=KEPT_FRAMES)
def _seconds(folder: str, recorded: bool, key: tuple[object, ...]) -> float | None:
    timings = _series(folder, recorded, "timings", key)
    of_editing = timings[timings["phase"].isin(EDITING)]
    batches = of_editing.groupby("edits").agg(seconds=("seconds", "sum"), facts=("facts", "first"))
    return float((batches["seconds"] / batches["facts"]).median()) if len(batches) else None


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    kept = [frame for frame in frames if len(frame)]
    if not kept:
        return frames[0] if frames else pd.DataFrame()
    return pd.concat(kept, ignore_index=True) if len(kept) > 1 else kept[0]
