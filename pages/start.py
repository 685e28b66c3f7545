"""What happens to a model that is edited again and again? Three ways in, and the answer of the recorded runs at once.

This page opens without a model, and reads nothing but norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd
import streamlit as st

from dashboard import chart_card, run_picker, run_reading, tour, widgets
from dashboard.charts import runs as run_charts
from dashboard.runs_view import MAIN_METHODS, in_order, newest_comparison, short_model
from dashboard.state import Message
from encore_core.errors import InputError
from encore_core.methods import METHODS
from encore_core.runs import RunInfo
from encore_core.runs.recorded import recorded_runs

# What the paper calls so, in four sentences.
IMPORTANCE_HACKING = (
    "Every batch of edits adds to the matrices of a few layers; unless something holds them back, their norms grow "
    "with each addition, while all other matrices stay as they were.",
    "Larger matrices write larger vectors, so the outputs of the edited layers come to dominate the residual stream, "
    "the running sum that the model reads its answer from.",
    "That is how edited facts win: the edited layers decide the answer, and what the other layers contribute, the rest "
    "of the model's knowledge and skills, is drowned out.",
    "ENCORE has two remedies: it stops optimising a fact once its answer is the most probable one (MPES), lest it be "
    "overfitted, and it puts a price on the norm in the least-squares problem that gives the update.",
)

RULE = "Δ = R (S + Kᵀ P K)⁻¹ Kᵀ P        W ← W + Δ        P ← P − P K (I + Kᵀ P K)⁻¹ Kᵀ P"
PAPER = "https://arxiv.org/abs/2502.01636"


def recorded_groups() -> list[list[RunInfo]]:
    """The main methods' recorded runs, those of equally many edits together, in the methods' order.

    Raises:
        InputError: when the store cannot be read.
    """
    kept = recorded_runs()
    groups: dict[int, list[RunInfo]] = {}
    for run in in_order(kept.runs() if kept else []):
        if run.method in MAIN_METHODS and run.measuring_seconds:
            groups.setdefault(run.n_edits, []).append(run)
    return list(groups.values())


def shown_runs(groups: Sequence[list[RunInfo]]) -> tuple[list[RunInfo], bool]:
    """Those of most methods, and among these the longest, or else the visitor's own newest comparison; if recorded.

    Raises:
        InputError: when a store cannot be read.
    """
    if groups:
        return max(groups, key=lambda runs: (len(runs), runs[0].done)), True
    return newest_comparison([run for run in run_reading.all_runs() if run.measuring_seconds]), False


def longest_runs(groups: Sequence[list[RunInfo]], shown: list[RunInfo]) -> list[RunInfo]:
    """The recorded runs of two methods or more that went furthest, in which a collapse shows most; else those shown."""
    several = [runs for runs in groups if len(runs) > 1]
    return max(several, key=lambda runs: min(run.done for run in runs)) if several else shown


def growth_at_end(norms: pd.DataFrame, runs: Sequence[RunInfo]) -> tuple[int, list[tuple[str, float]]]:
    """The largest growth of an edited matrix in each run, after as many edits as all of them have.

    Args:
        norms: columns run, edits, layer, ratio.
        runs: those to tell about.

    Returns:
        edits; method and growth, the largest first. 0 edits and nothing where the runs have no checkpoint in common.
    """
    edited = {run.id: norms[(norms["run"] == run.id) & norms["layer"].isin(run.layers)] for run in runs}
    common = set.intersection(*(set(part["edits"]) for part in edited.values())) - {0} if edited else set()
    if not common:
        return 0, []
    at = int(max(common))
    found = [(run.method, float(part.loc[part["edits"] == at, "ratio"].max())) for run, part in
             zip(runs, edited.values(), strict=True)]  # fmt: skip
    return at, sorted(found, key=lambda pair: -pair[1])


def answer(at: int, growth: Sequence[tuple[str, float]], model: str) -> str:
    """The page's question answered in one sentence; "" where nothing can be said."""
    if not growth:
        return ""
    told = [f"{ratio:.2f} × with {method}" for method, ratio in growth]
    listed = told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"
    return (
        f"After {at:,} sequential edits of {model}, the norm of the most grown edited matrix, relative to its norm as "
        f"loaded, is {listed}."
    )


# -- pieces of the page ------------------------------------------------------------------------------------------------


def ways_in(runs: Sequence[RunInfo]) -> None:
    """What to do first: one card each; in `runs` one can watch a collapse."""
    ways = (
        (
            "Edit one fact",
            "Tell the model that the capital of France is Rome, and see what else has changed.",
            ("../pages/edit.py", "Edit", ":material/edit_note:", None),
        ),
        (
            "Watch a collapse",
            "Follow the methods through the same edits: which model still works at the end?",
            ("../pages/compare.py", "Compare", ":material/compare_arrows:", [run.id for run in runs]),
        ),
        (
            "Read the method",
            "What was published, beside what was measured here; the update rule stands below.",
            ("../pages/paper.py", "Paper", ":material/article:", None),
        ),
    )
    for column, (title, about, (page, words, icon, chosen)) in zip(st.columns(3), ways, strict=True):
        with column, st.container(border=True, height="stretch", key=f"way {title}"):
            widgets.heading(title)
            st.html(widgets.rich("<p>{about}</p>", about=about))
            st.page_link(page, label=f"**{words}**", icon=icon, query_params={"run": chosen} if chosen else None)


def curves(runs: Sequence[RunInfo], are_recorded: bool) -> None:
    """The norms of the edited matrices, all methods on the same axes, with the sentence that they come to."""
    norms = run_reading.read("norms", runs)
    said = answer(*growth_at_end(norms, runs), " / ".join(dict.fromkeys(short_model(run.model) for run in runs)))
    if said:
        st.html(widgets.rich('<p class="es-sentence">{said}</p>', said=said))
    with st.container(border=True, key="card_curves"):
        shown = norms[norms["layer"].isin({layer for run in runs for layer in run.layers})]
        chart_card.show(
            partial(run_charts.norms, norms, run_reading.lines(runs)),
            key="norms at the start",
            heading="Norm of the edited matrices, against the norm as loaded",
            aside="◆ recorded runs, which come with the program" if are_recorded else "your newest runs",
            alt=f"Norm of the edited matrices over edits. {said}",
            frame=shown,
            commands=chart_card.commands_of(runs),
        )


def explanation() -> None:
    """What importance hacking is, and the methods in one table."""
    with st.container(border=True, key="card_hacking"):
        widgets.heading("Importance hacking", "how edited facts win, and what the model pays for it")
        st.html(widgets.rich("<p>{text}</p>", text=" ".join(IMPORTANCE_HACKING)))
        with st.container(horizontal=True):
            st.page_link("../pages/norms.py", label="See the norms grow", icon=":material/show_chart:")
            st.page_link("../pages/contributions.py", label="See what dominates", icon=":material/stacked_bar_chart:")
            st.page_link("../pages/downstream.py", label="See what is lost", icon=":material/checklist:")
    with st.container(border=True, key="card_methods"):
        widgets.heading("The methods", "one update rule; a method is a row of numbers")
        st.code(RULE, language=None, wrap_lines=True)
        st.caption("R: what is missing to the target states · K: keys of a batch · P: inverse of all to be preserved.")
        rows = [[name, METHODS[name].summary] for name in MAIN_METHODS]
        widgets.table([("Method", "name"), ("What it does", "")], rows, "The four methods")
        st.page_link(PAPER, label="The paper: arXiv 2502.01636", icon=":material/open_in_new:")


def main() -> None:
    st.title("What happens to a model that is edited again and again?", anchor=False)
    groups: list[list[RunInfo]] = []
    runs: list[RunInfo] = []
    are_recorded = False
    trouble = None
    try:
        groups = recorded_groups()
        runs, are_recorded = shown_runs(groups)
    except InputError as error:
        trouble = Message("error", str(error))
    ways_in(longest_runs(groups, runs))
    tour.offer()
    widgets.notice(trouble)
    if runs:
        try:
            curves(runs, are_recorded)
        except InputError as error:
            widgets.notice(Message("error", str(error)))
    elif trouble is None:
        widgets.notice(
            Message("info", "No runs have been recorded with this copy of the program, and none of yours has come to a "
                            "checkpoint yet. Start one on the Run page; its curves appear here.")
        )  # fmt: skip
        st.page_link("../pages/run.py", label="Start a run", icon=":material/play_circle:")
    explanation()
    run_picker.follow(runs)


main()
