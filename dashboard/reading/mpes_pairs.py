"""Runs that differ in early stopping (MPES), and what it changed: probabilities, steps, seconds. Knows no streamlit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dashboard.reading.run_words import EDITING, belongs
from encore_core.facts.source import SETS
from encore_core.methods import MARKS, METHODS, USUAL, WITHOUT_TARGETS
from encore_core.resources import ASSETS
from encore_core.runs import RunInfo

KNOWN_FACTS = ASSETS / "recorded" / "known_facts.csv"
KNOWN_MODEL = "smollm2-135m"
"""The model that `KNOWN_FACTS` is about."""


@dataclass(frozen=True)
class Pair:
    """A run without MPES and one with it on the same facts; either is None where there is no such run.

    Attributes:
        clean: whether the two differ in MPES alone.
    """

    without: RunInfo | None
    stopped: RunInfo | None
    clean: bool = True

    @property
    def runs(self) -> list[RunInfo]:
        return [run for run in (self.without, self.stopped) if run is not None]

    @property
    def key(self) -> str:
        """Names the pair in widgets."""
        return " ".join(run.id for run in self.runs)


NOT_IN_ROW = {"method", "mpes", "mpes_extra_steps", "mpes_contexts", *MARKS}
"""Settings in which the runs of a clean pair may differ."""


def stops_early(run: RunInfo) -> bool:
    """Whether a run's targets stop early."""
    return bool(run.settings.get("mpes"))


def pairs_of(runs: Sequence[RunInfo]) -> list[Pair]:
    """Every pair, whole and clean ones first, otherwise in the order of the runs; then runs without a counterpart.

    Methods that search for no targets have nothing to stop.

    Args:
        runs: in order of preference.
    """
    begun = [run for run in runs if run.done and METHODS[run.method].preservation not in WITHOUT_TARGETS]
    whole = []
    for run in begun:
        if stops_early(run):
            continue
        others = [other for other in begun if stops_early(other) and belongs(other) == belongs(run)]
        clean = [other for other in others if _row(other) == _row(run)]
        whole += [Pair(run, other) for other in clean]
        # ENCORE is MEMIT with MPES and the norm constraint: the search for targets differs only in MPES.
        if run.method == "MEMIT":
            whole += [Pair(run, other, clean=False) for other in others if other.method == "ENCORE"]
    whole.sort(key=lambda pair: not pair.clean)
    paired = {run.id for pair in whole for run in pair.runs}
    alone = [Pair(None, run) if stops_early(run) else Pair(run, None) for run in begun if run.id not in paired]
    return whole + alone


def _row(run: RunInfo) -> tuple[object, ...]:
    """What defines a run's method and its settings besides MPES."""
    method = METHODS[run.method]
    # Runs of earlier versions lack settings that came later.
    settings = {name: value for name, value in (USUAL | dict(run.settings)).items() if name not in NOT_IN_ROW}
    return method.preservation, method.norm_constraint, method.equality, json.dumps(settings, sort_keys=True)


def common_facts(frame: pd.DataFrame, pair: Pair) -> pd.DataFrame:
    """The rows of facts that every run of a pair has, without those that were skipped.

    Args:
        frame: run, fact and others, of the series `targets` or `trajectories`.
    """
    frame = frame.dropna(subset=["probability"])
    n_runs = frame.groupby("fact")["run"].nunique()
    return frame[frame["fact"].isin(n_runs.index[n_runs == len(pair.runs)])]


def seconds_by_phase(timings: pd.DataFrame, run: str) -> dict[str, float]:
    """Seconds per edit by phase, the median over batches (see `run_frames.seconds_of_edits`).

    Args:
        timings: run, edits, phase, seconds, facts.
        run: id.
    """
    of_run = timings[(timings["run"] == run) & (timings["facts"] > 0)]
    medians = (of_run["seconds"] / of_run["facts"]).groupby(of_run["phase"].astype(str)).median()
    return {phase: float(medians[phase]) for phase in EDITING if phase in medians}


def known_facts(run: RunInfo) -> tuple[str, pd.Series] | None:
    """Probabilities of true answers that a run's model gives by itself, for facts like the run's.

    Returns:
        where the facts are from, and the probabilities; None for another model, or where nothing was recorded.
    """
    if run.model != KNOWN_MODEL or not KNOWN_FACTS.is_file():
        return None
    frame = pd.read_csv(KNOWN_FACTS)
    bundled = run.plan_json.get("facts") in SETS  # the long set is like the bundled one; people's own are not
    rows = frame[(frame["dataset"] == "bundled") == bundled]
    if rows.empty:
        return None
    return ("the bundled facts" if bundled else "CounterFact"), rows["probability"]
