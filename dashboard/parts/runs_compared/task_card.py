"""The chart of downstream tasks and perplexity, and how far its figures can be off."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from dashboard.charts import downstream as charts
from dashboard.elements import chart_card, widgets
from dashboard.parts.runs_compared.view import View
from dashboard.reading import run_frames
from dashboard.reading.run_words import HEALTH_PARTS
from dashboard.visitors.messages import Message
from encore_core.measures.downstream import PROTOCOLS
from encore_core.runs import RunInfo

METRICS = {"f1": "F1", "f1_nll": "F1, likelier option", "accuracy": "Accuracy"}
ABOUT = {
    "f1": "Weighted F1 × 100 of what the model says: the first word of its greedy continuation. A word that is none of "
    "the options counts as wrong.",
    "f1_nll": "Weighted F1 × 100 of the option that the model finds most probable. More lenient: the answer is "
    "always one of the options.",
    "accuracy": "Share of tests, × 100, where the model gives the right answer.",
}
GUESSING = (
    "The answers are about equally frequent. With two options, guessing is right half the time, and always giving "
    "the same answer scores an F1 of 33. With MMLU's four, guessing is right a quarter of the time, and a constant "
    "answer scores 10."
)


def draw(
    view: View, have: Sequence[RunInfo], frame: pd.DataFrame, raw: pd.DataFrame, titles: Mapping[str, str]
) -> None:
    """Draw the chart with its controls.

    Args:
        view: what is shown.
        have: the runs in which tasks were asked.
        frame: what is drawn, from `charts.downstream.in_panels`.
        raw: the series `downstream`.
        titles: of the panels, in order.
    """
    above = st.container()
    if have:
        st.segmented_control(
            "Measure",
            list(METRICS),
            key="downstream_metric",
            format_func=METRICS.get,
            required=True,
            persist_state="session",
        )
        widgets.caption(ABOUT[view.metric])
    heading = f"{METRICS[view.metric]} of the tasks, and perplexity" if have else "Perplexity, as a ratio"
    chart_card.show(
        partial(charts.chart, frame, view.lines, titles),
        key="downstream tasks",
        heading=heading,
        aside="against edits",
        alt=f"{heading}, against edits, of {', '.join(view.names)}; values are in the table below.",
        frame=frame,
        commands=chart_card.commands_of(view.runs),
        revision=" ".join([view.metric, *view.ids]),
        above=above,
    )
    if have:
        widgets.notice(Message("info", f"{_certainty(raw, have, view)} {GUESSING}"))
        st.caption(f"Protocol · {PROTOCOLS[view.metric]}.")
    said = run_frames.gaps(view.runs, HEALTH_PARTS)
    if said:
        widgets.caption(said)


def _certainty(frame: pd.DataFrame, have: Sequence[RunInfo], view: View) -> str:
    """How many tests there were, and how far a figure can be off.

    Args:
        frame: the series `downstream`.
        have: the runs in it.
        view: what they are called.
    """
    counts = frame.loc[frame["metric"] == "n", "value"]
    fewest, most = int(counts.min()), int(counts.max())
    tests = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    said = f"{tests} tests per task: one test is {100 / fewest:.3g} points of accuracy."
    known = set(frame.loc[frame["low"].notna(), "run"].astype(str))
    names = dict(zip(view.ids, view.names, strict=True))
    without = [names[run.id] for run in have if run.id not in known]
    if known:
        said += (
            " Bands and brackets are 95 % intervals by a bootstrap over tests, seeded; that of the mean follows from "
            "those of the tasks."
        )
    if without:
        off = 100 * math.sqrt(0.25 / fewest)
        said += (
            f" {', '.join(without)}: no interval, recorded without the answers to each test; sampling of tests "
            f"alone gives a task's score a standard error of about ±{off:.0f} points."
        )
    return said
