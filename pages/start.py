"""What happens to a model that is edited again and again? Three ways in, and the recorded runs' answer.

This page opens without a model, and reads only what was measured of the models.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import streamlit as st

from dashboard import page_list
from dashboard.charts import runs as run_charts
from dashboard.elements import chart_card, run_picker, widgets
from dashboard.reading import run_frames, start_content
from dashboard.reading.run_words import HEALTH_PARTS, MAIN_METHODS, newest_comparison
from dashboard.talk import tour
from dashboard.visitors.messages import Message
from encore_core.errors import InputError
from encore_core.methods import METHODS
from encore_core.runs import RunInfo

# The paper's term, explained in four sentences.
IMPORTANCE_HACKING = (
    "Every batch of edits adds to the matrices of a few layers; unless something holds them back, their norms grow "
    "with each addition, while all other matrices stay as they were.",
    "Larger matrices write larger vectors, and the paper finds that on its models the edited layers come to dominate "
    "the residual stream, the running sum that the model reads its answer from.",
    "That, it says, is how edited facts win: the edited layers decide the answer, and the rest of the model is "
    "outvoted; whether the recorded runs show it, too, is answered on Contributions.",
    "ENCORE has two remedies: it stops optimising a fact once its answer is the most probable one (MPES), to avoid "
    "overfitting, and it penalises the norm in the least-squares problem that gives the update.",
)

RULE = "Δ = R (S + Kᵀ P K)⁻¹ Kᵀ P        W ← W + Δ        P ← P − P K (I + Kᵀ P K)⁻¹ Kᵀ P"
PAPER = "https://arxiv.org/abs/2502.01636"


def shown_runs(recorded: list[RunInfo]) -> tuple[list[RunInfo], bool]:
    """Recorded runs, or else the visitor's own newest comparison; and whether they are recorded.

    Raises:
        InputError: when a store cannot be read.
    """
    if recorded:
        return recorded, True
    return newest_comparison([run for run in run_frames.all_runs() if run.measuring_seconds]), False


# -- pieces of the page ------------------------------------------------------------------------------------------------


def ways_in(runs: Sequence[RunInfo]) -> None:
    """What to do first, a card each; `runs` are those that show a collapse."""
    for column, way in zip(st.columns(len(start_content.WAYS)), start_content.WAYS, strict=True):
        with column, st.container(border=True, height="stretch", gap=None, key=f"way {way.page}"):
            st.page_link(
                page_list.script(way.page),
                label=f"**{way.title}**",
                icon=way.icon,
                query_params={"run": [run.id for run in runs]} if way.with_runs and runs else None,
            )
            st.html(widgets.rich("<p>{about}</p>", about=way.about))


def curves(runs: Sequence[RunInfo], are_recorded: bool) -> None:
    """What editing does to the models, all methods on the same axes, with the answer that it comes to."""
    health, lines = run_frames.health(runs), run_frames.lines(runs)
    found = start_content.answer(run_frames.read("norms", runs), health, runs, [line.name for line in lines])
    if found:
        widgets.answer(found)
    titles = start_content.panels(health)
    with st.container(border=True, key="card_curves"):
        chart_card.show(
            partial(run_charts.scores, health, lines, titles, height=300, fitted=True),
            key="health at the start",
            heading=start_content.HEADING,
            aside=start_content.RECORDED if are_recorded else "your newest runs",
            alt=f"{', '.join(titles.values())} over edits. {found.text if found else ''}",
            frame=health,
            commands=chart_card.commands_of(runs),
        )
        st.caption(f"{start_content.WORDS} {run_frames.gaps(runs, HEALTH_PARTS)}".strip())


def explanation() -> None:
    """What importance hacking is, and the methods in one table."""
    with st.container(border=True, key="card_hacking"):
        widgets.heading("Importance hacking", "how edited facts win, and what the model pays for it")
        st.html(widgets.rich("<p>{text}</p>", text=" ".join(IMPORTANCE_HACKING)))
        with st.container(horizontal=True):
            st.page_link(page_list.script("norms"), label="See the norms grow", icon=":material/show_chart:")
            st.page_link(
                page_list.script("contributions"), label="See what dominates", icon=":material/stacked_bar_chart:"
            )
            st.page_link(page_list.script("downstream"), label="See what is lost", icon=":material/checklist:")
    with st.container(border=True, key="card_methods"):
        widgets.heading("The methods", "one update rule; methods differ in P, S and when targets stop")
        widgets.verbatim(RULE)
        st.caption(
            "R: residuals to the target states · K: keys of a batch · S: slack, how far new facts may be missed · "
            "P: inverse of all to be preserved."
        )
        rows = [[name, METHODS[name].summary] for name in MAIN_METHODS]
        widgets.table([("Method", "name"), ("What it does", "")], rows, "The four methods")
        st.page_link(PAPER, label="The paper: arXiv 2502.01636", icon=":material/open_in_new:")


def main() -> None:
    with st.container(horizontal=True, vertical_alignment="center", key="start_head"):
        st.title(page_list.question("start"), anchor=False, width="stretch")
        tour.offer()
    runs: list[RunInfo] = []
    are_recorded = False
    trouble = None
    try:
        runs, are_recorded = shown_runs(start_content.recorded())
    except InputError as error:
        trouble = Message("error", str(error))
    ways_in(runs)
    widgets.notice(trouble)
    if runs:
        try:
            curves(runs, are_recorded)
        except InputError as error:
            widgets.problem(error)
    elif trouble is None:
        widgets.notice(
            Message("info", "No runs have been recorded with this copy of the program, and none of yours has reached a "
                            "checkpoint yet. Start one on the Run page; its curves appear here.")
        )  # fmt: skip
        st.page_link(page_list.script("run"), label="Start a run", icon=":material/play_circle:")
    explanation()
    run_picker.follow(runs)


main()
