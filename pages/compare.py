"""Which method survives? Up to four runs side by side: norms by layer, scores over edits, a table at any checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from dashboard import links, page_list
from dashboard.charts import runs as run_charts
from dashboard.charts.chart import Chart
from dashboard.charts.palette import LIGHT, Palette
from dashboard.elements import chart_cache, figure, layer_choice, run_picker, theme, widgets
from dashboard.reading import report, run_frames
from dashboard.reading.at_checkpoints import AtCheckpoints
from dashboard.reading.run_words import STRIP, SUBSETS, Measure, duration, seconds_an_edit, short_model, status_line
from dashboard.talk import presenter
from dashboard.visitors.messages import Message
from dashboard.visitors.session_state import remembered
from encore_core.errors import InputError
from encore_core.runs import RunInfo
from encore_core.runs.compare import differences
from encore_core.tables import neutral_csv

# -- what is compared --------------------------------------------------------------------------------------------------


def restore(asked: Mapping[str, Sequence[str]], known: Mapping[str, RunInfo]) -> None:
    """Set the page's controls to what a link asks for. What it asks for and is not there is said, and left out."""
    first = {name: values[0] for name, values in asked.items() if values}
    run_picker.restore(asked, known)
    layer_choice.restore("compare", asked)
    if first.get("facts") in SUBSETS:
        st.session_state["compare_facts"] = first["facts"]
    at = first.get("at", "")
    if at.isdecimal() and len(at) < 9:
        st.session_state["compare_at"] = int(at)
        st.session_state["compare_end"] = None


def pick_checkpoint(checkpoints: Sequence[int]) -> int:
    """The edits after which the table is read; stays at the end of runs that go on."""
    end = checkpoints[-1]
    at = remembered("compare_at", end)
    if presenter.plays_over("compare_at", checkpoints):
        at = st.session_state["compare_at"]
        st.session_state["compare_end"] = None
    if at not in checkpoints:
        at = max((point for point in checkpoints if point <= at), default=checkpoints[0])
    if st.session_state.get("compare_end") == st.session_state["compare_at"]:
        at = end
    st.session_state["compare_at"], st.session_state["compare_end"] = at, end
    if len(checkpoints) > 1:
        st.select_slider(
            "After … edits",
            list(checkpoints),
            key="compare_at",
            persist_state="session",
            format_func=lambda edits: f"{edits:,}",
        )
    return st.session_state["compare_at"]


# -- what is shown -----------------------------------------------------------------------------------------------------


def charts_of(
    runs: Sequence[RunInfo],
    norms: pd.DataFrame,
    scores: pd.DataFrame,
    measures: Sequence[Measure],
    colours: Palette,
    scale: str,
    layers: list[int] | None,
    at: int,
) -> dict[str, Chart]:
    """Heading → chart of the page, in order."""
    lines = run_frames.lines(runs)
    growth = partial(run_charts.norms, norms, lines, scale=scale, layers=layers, at=at)
    charts = {"Norm of the edited matrices": chart_cache.chart(growth, colours)}
    titles = {measure.name: measure.title for measure in measures if measure.name in STRIP}
    if titles:
        said = partial(run_charts.scores, scores, lines, titles, at=at)
        charts["What the model says"] = chart_cache.chart(said, colours)
    return charts


def table_of(runs: Sequence[RunInfo], scores: pd.DataFrame, measures: Sequence[Measure], at: int) -> list[list]:
    """Rows of the table: measure, a cell a run with the best marked by symbol and word, what it is."""
    values = AtCheckpoints(scores)
    rows = []
    for measure in measures:
        found = [values.last(run.id, measure.name, at) for run in runs]
        shown = [round(value, measure.digits) if value is not None else None for value, _ in found]
        best = _best(measure, shown)
        cells: list[object] = []
        for (_, when), value in zip(found, shown, strict=True):
            text = "–" if value is None else f"{value:,.{measure.digits}f}"
            late = f" (after {when:,})" if value is not None and when != at else ""
            is_best = value is not None and value == best
            cells.append((f"✓ best {text}{late}", "good") if is_best else f"{text}{late}")
        rows.append([measure.title, *cells, measure.about])
    return rows


def _best(measure: Measure, values: Sequence[float | None]) -> float | None:
    """The best of some values; None when there is nothing to choose between."""
    there = [value for value in values if value is not None]
    if len(set(there)) < 2 or not measure.best:
        return None
    if measure.best == "one":
        return min(there, key=lambda value: abs(value - 1))
    return max(there) if measure.best == "high" else min(there)


def _plain(cell: object) -> str:
    return cell[0] if isinstance(cell, tuple) else str(cell)


def costs(runs: Sequence[RunInfo]) -> None:
    """How the runs stand and what they took."""
    rows = [
        (
            line.name,
            run.id,
            short_model(run.model),
            f"{run.done:,} of {run.n_edits:,}",
            status_line(run),
            duration(run.editing_seconds),
            duration(run.measuring_seconds),
            _seconds(run),
        )
        for line, run in zip(run_frames.lines(runs), runs, strict=True)
    ]
    columns = [
        ("Run", "name"),
        ("Id", "about"),
        ("Model", "about"),
        ("Edits", "right"),
        ("Status", "name"),
        ("Editing", "right"),
        ("Measuring", "right"),
        ("s an edit, median", "right"),
    ]
    widgets.table(columns, rows, "The runs compared, and what they took")


def _seconds(run: RunInfo) -> str:
    found = run_frames.seconds_of_edits(run)
    return "–" if found is None else seconds_an_edit(found)


def offer(
    runs: Sequence[RunInfo],
    table: report.Table,
    light: Callable[[], Mapping[str, Chart]],
    link: str,
) -> None:
    """Downloads, and the link to this view."""
    with st.container(horizontal=True, key="compare_offer"):
        with st.popover("Download", icon=":material/download:", key="compare_downloads"):
            for name, words in (("norms", "Norms"), ("scores", "Scores"), ("measures", "Perplexity and entropy")):
                st.download_button(
                    f"{words}, CSV",
                    lambda name=name: run_frames.csv(name, runs),
                    f"{name}.csv",
                    "text/csv",
                    on_click="ignore",
                    width="stretch",
                    key=f"csv_{name}",
                )
            st.download_button(
                "This table, CSV",
                lambda: neutral_csv(table.columns, table.rows),
                "comparison.csv",
                "text/csv",
                on_click="ignore",
                width="stretch",
                key="csv_table",
            )
            st.download_button(
                "Report, one HTML file",
                lambda: report.comparison(runs, light(), table, differences(runs), link),
                "comparison.html",
                "text/html",
                on_click="ignore",
                width="stretch",
                key="html_report",
            )
            st.caption("Charts as PNG or SVG: the two buttons at their top right.")
        with st.popover("Link to this view", icon=":material/link:", key="compare_link"):
            st.code(link, language=None, wrap_lines=True)
            st.caption("The address of this page says the same. It works wherever this store is served.")


# -- the page ----------------------------------------------------------------------------------------------------------


def main() -> None:
    st.title(page_list.question("compare"), anchor=False)
    try:
        known = run_picker.measured_runs()
    except InputError as error:
        widgets.problem(error)
        return
    asked = links.opened("compare")
    if asked is not None:
        restore(asked, known)
    if not known:
        widgets.notice(
            Message(
                "info",
                "No run has come to its first checkpoint yet. Start some on the Run page; their "
                "curves appear here as they grow.",
            )
        )
        return
    runs = run_picker.pick(known, "Pick two to four runs")
    if not runs:
        widgets.notice(Message("info", "Pick two to four runs above."))
        links.write("compare", {})
        return
    if len(runs) == 1:
        widgets.notice(Message("info", "This is one run alone; pick another one to compare it with."))
    run_picker.warn_of_differences(runs)
    answer = [run.id for run in runs]
    if presenter.covers("compare", answer):
        presenter.cover(
            "compare",
            answer,
            f"After {max(run.done for run in runs):,} edits, which model still works best?",
            list(dict.fromkeys(line.name for line in run_frames.lines(runs))),
        )
        links.write("compare", {"run": answer})
        return
    try:
        compared(runs)
    except InputError as error:
        widgets.problem(error)


def compared(runs: Sequence[RunInfo]) -> None:
    """Everything below the choice of runs."""
    colours = theme.palette()
    norms, marks = run_frames.read("norms", runs), run_frames.read("checkpoints", runs)
    with st.container(border=True, key="card_compared"):
        scale, layers = layer_choice.pick("compare", runs, norms)
        at = pick_checkpoint(sorted(int(edits) for edits in marks["edits"].unique()))
        remembered("compare_facts", "sample")
        scores = run_frames.scores(runs, st.session_state["compare_facts"])
        measures = run_frames.known_measures(scores)
        charts = charts_of(runs, norms, scores, measures, colours, scale, layers, at)
        for number, (heading, chart) in enumerate(charts.items()):
            widgets.heading(heading, f"{'dotted line: ' if number == 0 else ''}after {at:,} edits")
            if number == 1:
                st.segmented_control(
                    "Facts that are scored",
                    list(SUBSETS),
                    key="compare_facts",
                    format_func=SUBSETS.get,
                    required=True,
                    persist_state="session",
                )
            figure.draw(
                chart,
                key=f"compare chart {number + 1}",
                revision=_revision(runs, number),
                alt=f"{heading} of {', '.join(run.method for run in runs)}; figures are in the table below.",
            )
    rows = table_of(runs, scores, measures, at)
    names = [line.name for line in run_frames.lines(runs)]
    view = _view(runs, at)
    table = report.Table(
        ("Measure", *names, "What it is"),
        [[_plain(cell) for cell in row] for row in rows],
        f"After {at:,} edits; scores on {SUBSETS[st.session_state['compare_facts']]}",
    )
    with st.container(border=True, key="card_table"):
        widgets.heading(f"After {at:,} edits", f"scores on {SUBSETS[st.session_state['compare_facts']]}")
        columns = [("Measure", "name"), *((name, "right") for name in names), ("What it is", "about")]
        widgets.table(columns, rows, table.caption)
        # Made when the report is asked for, on a thread that has no session state. A file is read in the light.
        offer(
            runs,
            table,
            lambda: charts_of(runs, norms, scores, measures, LIGHT, scale, layers, at),
            links.address(view),
        )
    with st.container(border=True, key="card_costs"):
        widgets.heading("The runs", "and what they took")
        costs(runs)
    links.write("compare", view)
    run_picker.follow(runs)


def _view(runs: Sequence[RunInfo], at: int) -> dict[str, str | list[str]]:
    return {
        "run": [run.id for run in runs],
        **layer_choice.view("compare"),
        "at": str(at),
        "facts": st.session_state["compare_facts"],
    }


def _revision(runs: Sequence[RunInfo], number: int) -> str:
    """Changes when a zoom into the chart would mean something else."""
    shown = st.session_state
    of_chart = shown["compare_scale"] if number == 0 else shown["compare_facts"]
    return " ".join([of_chart, *(run.id for run in runs)])


main()
