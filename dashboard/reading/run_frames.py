"""What pages read of runs, cached by each run's progress: a page that is drawn again reads nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard.charts.runs import Line
from dashboard.reading.run_words import EDITING, MEASURES, Measure, in_order
from encore_core.runs import RunInfo, RunStore, recorded, series
from encore_core.storage import data_folder

KEPT_FRAMES = 200
LONGEST_NAME = 28


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
    """Scores of a subset, perplexity and the like, and the largest growth of an edited matrix, in one frame.

    Returns:
        run, edits, metric, value; metrics as in `run_words.MEASURES`.
    """
    return _joined([_scores(str(_folder(run)), run.recorded, version(run), run.layers, subset) for run in runs])


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
    of_subset = of_run.loc[of_run["subset"] == subset, ["run", "edits", "metric", "value"]]
    return _joined([of_subset, measures, pd.DataFrame(grown)])


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
