"""Runs that differ in their seed alone: how far their figures spread."""

from __future__ import annotations

from collections.abc import Sequence

from dashboard.elements import widgets
from dashboard.parts.runs_compared import score_table
from dashboard.parts.runs_compared.view import View
from dashboard.reading import run_frames
from dashboard.reading.run_words import Measure
from dashboard.reading.scores_at_checkpoint import AtCheckpoints
from encore_core.runs import RunInfo
from encore_core.runs.seeds import apart_from_seed, same_but_seed

Group = tuple[str, list[RunInfo]]


def groups_of(view: View, known: Sequence[RunInfo]) -> list[Group]:
    """Groups of two runs or more that differ in the seed alone, each with its name, each once.

    Args:
        view: what is shown; every group has one of its runs.
        known: all runs that have been measured.
    """
    found: dict[tuple[object, ...], Group] = {}
    for run in view.runs:
        group = same_but_seed(run, [*view.runs, *known])
        if len(group) > 1:
            seeds = ", ".join(str(one.plan_json.get("seed")) for one in group)
            found.setdefault(apart_from_seed(run), (f"{run.method}, seeds {seeds}", group))
    return list(found.values())


def draw(view: View, measures: Sequence[Measure], groups: Sequence[Group]) -> None:
    """A row per measure of each group.

    Args:
        view: what is shown.
        measures: those of the table.
        groups: from `groups_of`.
    """
    widgets.heading("Over seeds", f"runs that differ in their seed alone, after {view.at:,} edits")
    rows = [row for name, runs in groups for row in rows_of(name, runs, view, measures)]
    columns = [("Runs", "name"), ("Measure", "name"), ("Mean", "right"), ("Lowest", "right"), ("Highest", "right"),
               ("Seeds", "right"), ("Protocol", "about")]  # fmt: skip
    widgets.table(columns, rows, "The spread over seeds")


def rows_of(name: str, runs: Sequence[RunInfo], view: View, measures: Sequence[Measure]) -> list[tuple[str, ...]]:
    """(runs, measure, mean, lowest, highest, number of seeds, protocol) of every measure that two runs or more have."""
    values = AtCheckpoints(run_frames.scores(runs, view.subset))
    rows = []
    for measure in measures:
        of_runs = [values.score(run.id, measure.name, view.at) for run in runs]
        there = [one.value for one in of_runs if one is not None and one.edits == view.at]
        if len(there) > 1:
            figures = (sum(there) / len(there), min(there), max(there))
            shown = (f"{figure:,.{max(1, measure.digits)}f}" for figure in figures)
            rows.append((name, measure.title, *shown, f"{len(there)}", score_table.protocol_of(view, measure)))
    return rows
