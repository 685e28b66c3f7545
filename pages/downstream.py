"""What did the model lose? Six tasks that have nothing to do with the edits, and perplexity, against edits."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import page_list
from dashboard.charts import downstream as charts
from dashboard.elements import run_picker, widgets
from dashboard.parts.runs_compared import page_frame, task_card, task_data, task_table
from dashboard.parts.runs_compared.view import View
from dashboard.reading import run_frames, run_words
from dashboard.reading.answers import lost
from dashboard.reading.answers.answer import Answer
from dashboard.talk import presenter
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import remembered
from encore_core.errors import InputError
from encore_core.runs import RunInfo


def restore(asked: page_frame.Asked, known: page_frame.Known) -> None:
    """Set the page's controls to what a link asks for; unknown values are ignored."""
    run_picker.restore(asked, known)
    metric = next(iter(asked.get("metric", ())), "")
    st.session_state["downstream_metric"] = metric if metric in task_card.METRICS else next(iter(task_card.METRICS))


def draw(runs: Sequence[RunInfo], answer: DeltaGenerator) -> page_frame.Drawn:
    """Everything below the choice of runs. The tasks' data are offered below whatever goes wrong here."""
    try:
        _draw(runs, answer)
    except InputError as error:
        widgets.problem(error)
    return {"run": [run.id for run in runs], "metric": st.session_state.get("downstream_metric", "")}, runs


def _draw(runs: Sequence[RunInfo], answer: DeltaGenerator) -> None:
    """The chart and the table of runs that have scores of the tasks, or perplexity."""
    raw, measures = run_frames.read("downstream", runs), run_frames.measures(runs)
    have = [run for run in runs if (raw["run"] == run.id).any()]
    _tell_without([run for run in runs if run not in have])
    view = View(tuple(runs), metric=remembered("downstream_metric", "f1"))
    question = f"After {max(run.done for run in runs):,} edits, how much of their skill in other tasks is lost?"
    choices = ["nothing", "some of it", "nearly all of it", *(["it depends on the method"] if len(runs) > 1 else [])]
    if presenter.covered("downstream", view.ids, question, choices):
        return
    frame = charts.in_panels(raw, measures, view.metric)
    with answer:
        widgets.answer(_answer(view, raw, measures))
    titles = charts.titles_of(frame)
    if not titles:
        return
    with st.container(border=True, key="card_downstream"):
        task_card.draw(view, have, frame, raw, titles)
    with st.container(border=True, key="card_downstream_table"):
        widgets.heading("Before and after", "the unedited model against the last checkpoint")
        of_tasks = task_card.METRICS[view.metric] if have else "Measure"
        columns = [(of_tasks, "name"), *((name, "figures") for name in view.names)]
        rows = task_table.rows_of(view, frame, raw, titles)
        widgets.table(columns, rows, "Scores before any edit and at the last checkpoint")


def _answer(view: View, raw: pd.DataFrame, measures: pd.DataFrame) -> Answer:
    """The page's question answered by the paper's measure, whichever is drawn."""
    frame = charts.in_panels(raw, measures, "f1")
    found = lost.losses(frame, raw, view.lines, run_frames.task_changes(view.runs, "f1"))
    return lost.answer(found, frame, view.lines, raw, [run.model for run in view.runs])


def _asked_tasks(run: RunInfo) -> bool:
    """Whether tasks were asked before and after edits."""
    asked = run_frames.read("downstream", [run])
    return bool(len(asked)) and asked["edits"].min() == 0 < asked["edits"].max()


def _tell_without(runs: Sequence[RunInfo]) -> None:
    """Name the runs in which no task was asked."""
    if not runs:
        return
    widgets.notice(
        Message(
            "info",
            f"No downstream task was run in {run_words.listed(runs)}. Give the folder of the tasks' data when you "
            "start a run: on the Run page under what is measured, or with --downstream. How to get them is described "
            "below.",
        )
    )


st.title(page_list.question("downstream"), anchor=False)
page_frame.show(
    "downstream",
    ask="Pick one to four runs",
    none_yet="Start some on the Run page, with the data of the tasks; their curves appear here as they grow.",
    restore=restore,
    draw=draw,
    below=task_data.draw,
    has=_asked_tasks,
)
