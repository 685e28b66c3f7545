"""Downstream tasks over edits: one panel per task, their mean, and perplexity; a line per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from dashboard.charts.chart import Chart
from dashboard.charts.palette import Palette
from dashboard.charts.runs import Line, scores

TASKS = {"sst2": "SST-2", "mrpc": "MRPC", "cola": "CoLA", "rte": "RTE", "nli": "NLI", "mmlu": "MMLU"}
"""Task → its title, in the order of the panels."""

MEAN, PERPLEXITY = "mean", "perplexity"
LOG_FROM = 20
"""Perplexities that differ by this factor or more are drawn on a logarithmic axis."""

LOG_TICKS = [digit * 10**power for power in range(12) for digit in (1, 3)]


def in_panels(downstream: pd.DataFrame, measures: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One frame of everything that the panels show.

    Args:
        downstream: run, edits, task, metric, value.
        measures: run, edits, metric, value; its perplexity is taken.
        metric: of the tasks, for example "f1".

    Returns:
        run, edits, metric (a task, "mean" of the tasks where all of a run's tasks were asked, or "perplexity"), value.
    """
    columns = ["run", "edits", "metric", "value"]
    tasks = downstream.loc[downstream["metric"] == metric, ["run", "edits", "task", "value"]]
    tasks = tasks.rename(columns={"task": "metric"}).astype({"metric": str})
    at = tasks.groupby(["run", "edits"], sort=False, as_index=False)
    # A mean over fewer tasks than before would jump although the model has not changed.
    means = at["value"].agg(value="mean", n="count")
    means = means[means["n"] == means.groupby("run")["n"].transform("max")].assign(metric=MEAN)
    perplexity = measures.loc[measures["metric"] == PERPLEXITY, columns].astype({"metric": str})
    parts = [part[columns] for part in (tasks, means, perplexity) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else tasks[columns]


def titles_of(frame: pd.DataFrame) -> dict[str, str]:
    """The panels that a frame of `in_panels` fills, in order: metric → title."""
    titles = TASKS | {MEAN: "Mean of the tasks", PERPLEXITY: "Perplexity"}
    there = set(frame["metric"])
    return {name: title for name, title in titles.items() if name in there}


def chart(frame: pd.DataFrame, lines: Sequence[Line], titles: Mapping[str, str], colours: Palette) -> Chart:
    """The panels.

    Args:
        frame: as `in_panels` gives it.
        lines: the runs.
        titles: as `titles_of` gives it.
        colours: the theme's.
    """
    drawn = scores(frame, lines, titles, colours, height=200)
    shown = frame.loc[(frame["metric"] == PERPLEXITY) & frame["run"].isin([line.run for line in lines]), "value"]
    if len(shown) and shown.max() >= LOG_FROM * shown.min():
        number = list(titles).index(PERPLEXITY)
        axis = f"yaxis{number + 1 if number else ''}"
        for layout in drawn.layouts:
            layout[axis].update(type="log", tickvals=LOG_TICKS, tickformat="~s")
    return drawn
