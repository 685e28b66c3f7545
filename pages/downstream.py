"""What did the model lose? Six tasks that have nothing to do with the edits, and perplexity, against edits."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from dashboard import links, page_list
from dashboard.charts import downstream as charts
from dashboard.elements import chart_card, run_picker, widgets
from dashboard.reading import run_frames
from dashboard.reading.at_checkpoints import AtCheckpoints
from dashboard.reading.run_words import left_out
from dashboard.visitors.messages import Message
from dashboard.visitors.session_state import remembered
from encore_core.errors import InputError
from encore_core.measures import task_sets
from encore_core.runs import RunInfo

log = logging.getLogger(__name__)

METRICS = {"f1": "F1", "f1_nll": "F1, more probable", "accuracy": "Accuracy"}
ABOUT = {
    "f1": "Weighted F1 × 100 of what the model says: the first word of its greedy continuation. A word that is none of "
    "the options counts as wrong.",
    "f1_nll": "Weighted F1 × 100 of the option that the model finds most probable. Kinder, for it always is an option.",
    "accuracy": "Share of tests, × 100, where the model says the right answer.",
}
GUESSING = (
    "The answers are about equally frequent. So, of two options, guessing is right half the time and always saying the "
    "same has an F1 of 33; of MMLU's four it is a quarter and 10."
)


def restore(asked: Mapping[str, Sequence[str]], known: Mapping[str, RunInfo]) -> None:
    """Set the page's controls to what a link asks for; what is not there is left out."""
    run_picker.restore(asked, known)
    metric = next(iter(asked.get("metric", ())), "")
    if metric in METRICS:
        st.session_state["downstream_metric"] = metric


# -- what is shown -----------------------------------------------------------------------------------------------------


def certainty(frame: pd.DataFrame) -> str:
    """How many tests there were, and how far a figure can be off.

    Args:
        frame: the series `downstream`.
    """
    counts = frame.loc[frame["metric"] == "n", "value"]
    fewest, most = int(counts.min()), int(counts.max())
    tests = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    one, off = 100 / fewest, 100 * math.sqrt(0.25 / fewest)
    n_tasks = frame["task"].nunique()
    mean_off = off / math.sqrt(n_tasks)
    return (
        f"{tests} tests a task: one test is {one:.3g} points of accuracy. By the choice of tests alone a task's figure "
        f"is off by about ±{off:.0f} points, the mean of {n_tasks} by about ±{mean_off:.0f}: do not read much into "
        "smaller differences."
    )


def ends(values: AtCheckpoints, run: str, metric: str) -> tuple[float | None, float | None, int | None]:
    """A value before any edit, at the last checkpoint that has it, and how many edits that is."""
    first, _ = values.last(run, metric, 0)
    last, at = values.last(run, metric)
    return (first, last, at) if at else (first, None, None)


def table_of(runs: Sequence[RunInfo], frame: pd.DataFrame, raw: pd.DataFrame, titles: Mapping[str, str]) -> list[list]:
    """Rows of the table: what it is, and a cell a run with the value before and after and the difference."""
    values = AtCheckpoints(frame)
    found = {(metric, run.id): ends(values, run.id, metric) for metric in titles for run in runs}
    # What nearly all rows share is said once; tasks are asked less often than perplexity is measured.
    checkpoints = {run.id: [found[metric, run.id][2] for metric in titles] for run in runs}
    last = {run: next((at for at in of_run if at), 0) for run, of_run in checkpoints.items()}
    rows: list[list] = [["Edits", *(f"0 → {last[run.id]:,}" if last[run.id] else "–" for run in runs)]]
    for metric, title in titles.items():
        rows.append([title, *(_change(*found[metric, run.id], last[run.id]) for run in runs)])
    if len(raw):
        counts = raw[raw["metric"].isin(["unparsable", "n"])].astype({"metric": str})
        summed = counts.groupby(["run", "metric", "edits"], sort=False, as_index=False)["value"].sum()
        sums = AtCheckpoints(summed)
        rows.append(["Answers that are no option", *(_unparsable(sums, run.id) for run in runs)])
    return rows


def _change(first: float | None, last: float | None, at: int | None, usual: int) -> str:
    """A value before and after; at which checkpoint, where that is not the run's usual one."""
    if last is None:
        return "–"
    late = "" if at == usual else f" after {at:,}"
    if first is None:
        return f"{last:,.1f}{late}"
    if max(first, last) >= 1000:
        return f"{first:,.0f} → {last:,.0f}{late}"
    return f"{first:.1f} → {last:.1f}\n({last - first:+.1f}){late}".replace("-", "−")


def _unparsable(sums: AtCheckpoints, run: str) -> str:
    """How many answers of all tasks were none of the options, before and after."""
    first, last, _ = ends(sums, run, "unparsable")
    n, _ = sums.last(run, "n")
    return "–" if first is None or last is None or n is None else f"{first:.0f} → {last:.0f} of {n:.0f}"


def shown(runs: Sequence[RunInfo]) -> None:
    """The chart and the table of runs that have scores of the tasks, or perplexity."""
    raw, measures = run_frames.read("downstream", runs), run_frames.read("measures", runs)
    have = [run for run in runs if (raw["run"] == run.id).any()]
    without = [run for run in runs if run not in have]
    if without:
        names = ", ".join(f"{run.method} ({run.id})" for run in without)
        widgets.notice(
            Message(
                "info",
                f"No downstream task was asked in {names}. Say where the tasks' data are when a run is started: on the "
                "Run page under what is measured, or with --downstream. Below is how to get them.",
            )
        )
    metric = remembered("downstream_metric", "f1")
    frame = charts.in_panels(raw, measures, metric)
    titles = charts.titles_of(frame)
    if not titles:
        return
    lines = run_frames.lines(runs)
    with st.container(border=True, key="card_downstream"):
        if have:
            st.segmented_control(
                "Measure",
                list(METRICS),
                key="downstream_metric",
                format_func=METRICS.get,
                required=True,
                persist_state="session",
            )
            st.caption(ABOUT[metric])
        chart_card.show(
            partial(charts.chart, frame, lines, titles),
            key="downstream tasks",
            heading=f"{METRICS[metric]} of the tasks, and perplexity" if have else "Perplexity",
            aside="against edits",
            alt=f"{METRICS[metric]} of downstream tasks and perplexity against edits, of "
            f"{', '.join(line.name for line in lines)}; figures are in the table below.",
            frame=frame,
            commands=chart_card.commands_of(runs),
            revision=" ".join([metric, *(run.id for run in runs)]),
        )
        if have:
            widgets.notice(Message("info", f"{certainty(raw)} {GUESSING}"))
        cut = left_out(run_frames.read("checkpoints", have)["left_out"]) if have else []
        for line in cut:
            if line.startswith("downstream"):
                st.caption(f"Of these runs, {line}")
    with st.container(border=True, key="card_downstream_table"):
        widgets.heading("Before and after", "the unedited model against the last checkpoint")
        columns = [(METRICS[metric] if have else "Measure", "name"), *((line.name, "figures") for line in lines)]
        widgets.table(columns, table_of(runs, frame, raw, titles), "Scores before any edit and at the last checkpoint")


# -- the tasks' data ---------------------------------------------------------------------------------------------------


def data_of_tasks() -> None:
    """Where the tasks come from: fetched from the hub once, or a folder of one's own."""
    with st.container(border=True, key="card_tasks"):
        widgets.heading("Data of the tasks")
        widgets.notice(st.session_state.pop("tasks_message", None))
        try:
            here = task_sets.is_fetched()
        except InputError as error:
            widgets.problem(error)
            return
        if here:
            st.caption("The six tasks are here. A run asks them when the field on the Run page says “hub”, or by")
            st.code("encore run … --downstream hub", language=None)
            return
        st.caption(
            "Runs ask SST-2, MRPC, CoLA, RTE and NLI (from GLUE) and MMLU. They are fetched from the Hugging Face hub "
            "once, about 1 MB; or put sst2.jsonl and the others into a folder and name it on the Run page."
        )
        if st.button("Fetch the tasks from the hub", icon=":material/download:", key="fetch_tasks"):
            _fetch()
            st.rerun()


def _fetch() -> None:
    """Fetch the tasks, and leave a message on how it went."""
    bar = st.progress(0.0, text="Asking the hub …")
    try:
        folder = task_sets.fetch_tasks(lambda what, share: bar.progress(min(1.0, share), text=f"{what} …"))
    except InputError as error:
        st.session_state["tasks_message"] = Message("error", str(error))
        return
    except Exception:
        log.exception("fetching the downstream tasks failed")
        st.session_state["tasks_message"] = Message(
            "error", "The tasks could not be fetched; the reason is in the server's log."
        )
        return
    if not st.session_state.get("run_downstream"):
        st.session_state["run_downstream"] = task_sets.HUB
    st.session_state["tasks_message"] = Message(
        "success", f"Fetched into {folder}. Runs that are started on the Run page now ask them."
    )


# -- the page ----------------------------------------------------------------------------------------------------------


def main() -> None:
    st.title(page_list.question("downstream"), anchor=False)
    try:
        known = run_picker.measured_runs()
    except InputError as error:
        widgets.problem(error)
        return
    asked = links.opened("downstream")
    if asked is not None:
        restore(asked, known)
    if not known:
        widgets.notice(
            Message(
                "info",
                "No run has come to its first checkpoint yet. Start some on the Run page, with the data of the tasks; "
                "their curves appear here as they grow.",
            )
        )
        data_of_tasks()
        return
    runs = run_picker.pick(known)
    if not runs:
        widgets.notice(Message("info", "Pick one to four runs above."))
        links.write("downstream", {})
        data_of_tasks()
        return
    run_picker.warn_of_differences(runs)
    try:
        shown(runs)
    except InputError as error:
        widgets.problem(error)
    data_of_tasks()
    links.write(
        "downstream",
        {"run": [run.id for run in runs], "metric": st.session_state.get("downstream_metric", "")},
    )
    run_picker.follow(runs)


main()
