"""Where does the norm grow? Norms of the edited matrices over edits, and of all matrices at some checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import page_list
from dashboard.elements import chart_card, layer_choice, run_picker, widgets
from dashboard.parts.runs_compared import checkpoints, norm_cards, page_frame
from dashboard.parts.runs_compared.view import View
from dashboard.reading import run_frames, run_words
from dashboard.reading.answers import landing, order
from dashboard.talk import presenter
from dashboard.visitors.messages import Message
from encore_core.runs import RunInfo


def restore(asked: page_frame.Asked, known: page_frame.Known) -> None:
    """Set the page's controls to what a link asks for; invalid values are ignored."""
    run_picker.restore(asked, known)
    layer_choice.restore("norms", asked)
    checkpoints.restore_several(asked.get("at", ()))


def beside(runs: Sequence[RunInfo]) -> str:
    """Whether growth orders the damage, over all recorded runs where those shown are recorded."""
    if not all(run.recorded for run in runs):
        return ""
    others = [run for run in run_picker.measured_runs().values() if run.recorded]
    return order.answer(*order.fates(others, run_frames.health(others)))


def draw(runs: Sequence[RunInfo], answer: DeltaGenerator) -> page_frame.Drawn:
    """Everything below the choice of runs, and the answer above it."""
    norms = run_frames.read("norms", runs)
    there = set(norms["run"])
    without = [run for run in runs if run.id not in there]
    runs = [run for run in runs if run.id in there]
    if without:
        widgets.notice(Message("info", f"No norms were measured in {run_words.listed(without)}."))
    if not runs:
        return {"run": [run.id for run in without]}, ()
    ids = [run.id for run in runs]
    question = f"After {max(run.done for run in runs):,} edits, which matrices will have grown most?"
    choices = ["the first of the edited layers", "the last of the edited layers", "layers that are not edited",
               "all alike"]  # fmt: skip
    if presenter.covered("norms", ids, question, choices):
        return {"run": [*ids, *without]}, ()
    growth, by_layer = st.container(border=True, key="card_norms"), st.container(border=True, key="card_layers")
    with growth:
        above_growth = st.container()
        scale, layers = layer_choice.pick("norms", runs, norms)
    with by_layer:
        above_layers = st.container()
        at = checkpoints.pick_several(norms)
    view = View(tuple(runs), scale, None if layers is None else tuple(layers), tuple(at))
    rows, commands, revision = (
        norm_cards.rows_of(view, norms),
        chart_card.commands_of(runs),
        " ".join([scale, *view.ids]),
    )
    with growth:
        norm_cards.over_edits(view, norms, rows, commands, revision, above_growth)
    with by_layer:
        norm_cards.layer_by_layer(view, norms, rows, commands, revision, above_layers)
    with answer:
        widgets.answer(landing.answer(norms, view.lines, view.at, beside(runs)))
    address = {
        "run": [*view.ids, *without],
        **layer_choice.view("norms"),
        "at": checkpoints.several_of_address(view.checkpoints),
    }
    return address, runs


st.title(page_list.question("norms"), anchor=False)
page_frame.show(
    "norms",
    ask="Pick one to four runs",
    none_yet="Start some on the Run page; their norms appear here.",
    restore=restore,
    draw=draw,
)
