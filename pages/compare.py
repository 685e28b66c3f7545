"""Which method survives? The answer, edits until collapse, up to four runs side by side, a table at any checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import links, page_list
from dashboard.charts.palette import LIGHT
from dashboard.elements import layer_choice, run_picker, theme, widgets
from dashboard.parts.runs_compared import (
    checkpoints,
    collapse_card,
    costs,
    files,
    page_frame,
    run_charts,
    score_table,
    seed_spread,
)
from dashboard.parts.runs_compared.view import View
from dashboard.reading import run_frames
from dashboard.reading.answers import survival
from dashboard.reading.answers.answer import Answer
from dashboard.reading.answers.courses import Course, Lines
from dashboard.reading.answers.courses import courses as courses_of
from dashboard.reading.run_words import SUBSETS
from dashboard.talk import presenter
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import remembered
from encore_core.runs import RunInfo

KEPT = 100  # answers


def restore(asked: page_frame.Asked, known: page_frame.Known) -> None:
    """Set the page's controls to what a link asks for. What does not exist is left out; missing runs are named."""
    first = {name: values[0] for name, values in asked.items() if values}
    run_picker.restore(asked, known)
    layer_choice.restore("compare", asked)
    st.session_state["compare_facts"] = first["facts"] if first.get("facts") in SUBSETS else "sample"
    checkpoints.restore_one(first.get("at", ""))
    collapse_card.restore(first)


def address_of(view: View) -> links.View:
    """The query of a link to a view."""
    return {
        "run": view.ids,
        **layer_choice.view("compare"),
        "at": str(view.at),
        "facts": view.subset,
        **collapse_card.address(view.limits),
    }


def _measured(run: RunInfo) -> bool:
    """Whether perplexity or tasks were measured after an edit."""
    health = run_frames.health([run])
    return bool(((health["edits"] > 0) & (health["metric"] != "norm_ratio")).any())


def beside(runs: Sequence[RunInfo]) -> dict[str, str]:
    """What the answer says besides: how much of the edits is left, and recorded runs that went further."""
    kept = survival.retained(run_frames.scores(runs, "sample"), runs, View(tuple(runs)).names)
    if not all(run.recorded for run in runs):
        return {"kept": kept}
    others = survival.furthest(runs, [run for run in run_picker.measured_runs().values() if run.recorded])
    return {"kept": kept, "others": survival.further(others, run_frames.health(others)) if others else ""}


@st.cache_resource(show_spinner=False, max_entries=KEPT)
def told(of: tuple[object, ...], limits: Lines, _runs: Sequence[RunInfo]) -> tuple[Sequence[Course], Answer]:
    """How the runs fared, and the answer; neither follows the slider, so both are kept while it is moved.

    Args:
        of: changes whenever the runs do.
        limits: what is not to be reached.
    """
    courses = courses_of(_runs, View(tuple(_runs)).names, run_frames.health(_runs), limits)
    return courses, survival.answer(courses, limits, [run.model for run in _runs], **beside(_runs))


def draw(runs: Sequence[RunInfo], answer: DeltaGenerator) -> page_frame.Drawn:
    """Everything below the choice of runs, and the answer above it."""
    if len(runs) == 1:
        widgets.notice(Message("info", "This is only one run; pick another one to compare it with."))
    view = View(tuple(runs))
    question = f"After {max(run.done for run in runs):,} edits, which model still works best?"
    if presenter.covered("compare", view.ids, question, list(dict.fromkeys(view.names))):
        return {"run": view.ids}, ()
    norms, limits = run_frames.read("norms", runs), collapse_card.chosen()
    of = tuple((*run_frames.version(run), run.done, run.status, run.name) for run in runs)
    courses, said = told(of, limits, runs)
    with answer:
        widgets.answer(said)
    with st.container(border=True, key="card_collapse"):
        collapse_card.draw(limits, courses)
    fare, by_layer = st.container(border=True, key="card_compared"), st.container(border=True, key="card_norms")
    with by_layer:
        above_norms = st.container()
        scale, layers = layer_choice.pick("compare", runs, norms)
    with fare:
        above_fare = st.container()
        there = sorted(int(edits) for edits in run_frames.read("checkpoints", runs)["edits"].unique())
        at, subset = checkpoints.pick_one(there), remembered("compare_facts", "sample")
    view = View(tuple(runs), scale, None if layers is None else tuple(layers), (at,), subset, limits=limits)
    scores = run_frames.scores(runs, view.subset)
    measures = run_frames.known_measures(scores)
    across = collapse_card.limits(view, courses)
    charts = run_charts.charts_of(view, norms, scores, across, theme.palette())
    with fare:
        collapse_card.marks(view, courses, there)
        run_charts.draw_fare(view, charts, run_charts.rows_of(view, scores), above_fare)
    with by_layer:
        run_charts.draw_norms(view, charts, above_norms)
    address = address_of(view)
    with st.container(border=True, key="card_table"):
        table = score_table.draw(view, score_table.rows_of(view, scores, measures), score_table.remarks(view, scores))
        light = partial(run_charts.charts_of, view, norms, scores, across, LIGHT)  # downloads use the light theme
        files.offer(runs, table, light, links.address(address))
    groups = seed_spread.groups_of(view, list(run_picker.measured_runs().values()))
    if groups:
        with st.container(border=True, key="card_seeds"):
            seed_spread.draw(view, measures, groups)
    with st.container(border=True, key="card_costs"):
        widgets.heading("The runs", "and what they took")
        costs.draw(view)
    return address, runs


st.title(page_list.question("compare"), anchor=False)
page_frame.show(
    "compare",
    ask="Pick two to four runs",
    none_yet="Start some on the Run page; their curves appear here as they grow.",
    restore=restore,
    draw=draw,
    has=_measured,
)
