"""Downstream tasks over edits: one panel per task, their mean, and perplexity; a line per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from dashboard.charts.chart import Chart
from dashboard.charts.palette import Palette
from dashboard.charts.runs import RATIO, Line, scores

TASKS = {"sst2": "SST-2", "mrpc": "MRPC", "cola": "CoLA", "rte": "RTE", "nli": "NLI", "mmlu": "MMLU"}
"""Task → its title, in the order of the panels."""

MEAN = "mean"
COLUMNS = ["run", "edits", "metric", "value", "n", "low", "high"]


def in_panels(downstream: pd.DataFrame, measures: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One frame of everything that the panels show.

    Args:
        downstream: run, edits, task, metric, value, n, low, high.
        measures: run, edits, metric, value; its ratios of perplexities are taken.
        metric: of the tasks, for example "f1".

    Returns:
        run, edits, metric (a task, "mean" of the tasks where all of a run's tasks were asked, or "perplexity_ratio"),
        value, n, low, high (the 95 % interval over tests; missing where answers were not recorded).
    """
    tasks = downstream.loc[downstream["metric"] == metric, ["run", "edits", "task", "value", "n", "low", "high"]]
    tasks = tasks.rename(columns={"task": "metric"}).astype({"metric": str})
    perplexity = measures[measures["metric"] == RATIO].astype({"metric": str})
    parts = [part.reindex(columns=COLUMNS) for part in (tasks, _means(tasks), perplexity) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else tasks[COLUMNS]


def _means(tasks: pd.DataFrame) -> pd.DataFrame:
    """The mean of the tasks with its interval, where all of a run's tasks were asked.

    The tasks are independent, so the distances from a mean to the ends of its interval follow from theirs (the method
    of variance estimates recovery, Zou and Donner 2008, doi:10.1002/sim.3095).
    """
    spread = tasks.assign(below=(tasks["value"] - tasks["low"]) ** 2, above=(tasks["high"] - tasks["value"]) ** 2)
    at = spread.groupby(["run", "edits"], sort=False, as_index=False)
    means = at.agg(value=("value", "mean"), count=("value", "count"), n=("n", "sum"), known=("low", "count"),
                   below=("below", "sum"), above=("above", "sum"))  # fmt: skip
    # A mean over fewer tasks than before would jump although the model has not changed.
    means = means[means["count"] == means.groupby("run")["count"].transform("max")].assign(metric=MEAN)
    sure = means["known"] == means["count"]
    low = means["value"] - means["below"] ** 0.5 / means["count"]
    high = means["value"] + means["above"] ** 0.5 / means["count"]
    return means.assign(n=means["n"].where(sure), low=low.where(sure), high=high.where(sure))


def titles_of(frame: pd.DataFrame) -> dict[str, str]:
    """The panels that a frame of `in_panels` fills, in order: metric → title."""
    titles = TASKS | {MEAN: "Mean of the tasks", RATIO: "Perplexity ratio"}
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
    return scores(frame, lines, titles, colours, height=200)
