"""What the Start page says: the ways in, which recorded runs it opens with, and the sentence that sums them up.

The page draws it, and so does `first_look` while the page is loading. Knows no streamlit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dashboard.charts.downstream import MEAN
from dashboard.charts.runs import RATIO
from dashboard.reading import recorded_choice
from dashboard.reading.answers import survival
from dashboard.reading.answers.answer import Answer, listed, times
from dashboard.reading.answers.courses import Lines, courses
from dashboard.reading.run_words import short_model
from encore_core.runs import RunInfo
from encore_core.runs.recorded import recorded_runs

HEADING = "What repeated editing does to a model"
PANELS = {
    RATIO: "Perplexity, × unedited (log)",
    MEAN: "Mean F1 of the tasks (0–100)",
    "norm_ratio": "Largest ‖W‖ / ‖W₀‖",
}
"""Measure → title of its panel."""

LEADS = {
    "one lasts longest": "It breaks. ",
    "none survives": "It breaks. ",
    "some survive": "With some methods it breaks. ",
    "all survive": "It holds, so far. ",
}
"""Outcome of `survival.answer` → what comes before it here."""

WORDS = (
    "An edit overwrites one fact in the model's weights; MEMIT and ENCORE are two ways to compute it. Perplexity says "
    "how surprised the model is by ordinary text, F1 how well it does six small tasks, ‖W‖ how large an edited matrix "
    "has become."
)
"""What the chart's words mean."""

RECORDED = "◆ recorded runs, which come with the program"


@dataclass(frozen=True)
class Way:
    """A way in.

    Attributes:
        title, about: for readers.
        page: name of the page that it leads to.
        icon: beside the title.
        with_runs: whether the page opens with the longest runs.
    """

    title: str
    about: str
    page: str
    icon: str
    with_runs: bool = False


WAYS = (
    Way(
        "Edit one fact",
        "Tell the model that the capital of France is Rome, and see what else has changed.",
        "edit",
        ":material/edit_note:",
    ),
    Way(
        "Watch a collapse",
        "Follow the methods through the same edits: which model still works at the end?",
        "compare",
        ":material/compare_arrows:",
        with_runs=True,
    ),
    Way(
        "Read the method",
        "The paper's figures, table by table, beside those measured with this program.",
        "paper",
        ":material/article:",
    ),
)


def recorded() -> list[RunInfo]:
    """The recorded runs that the page opens with: the longest comparable ones, in which a collapse shows most.

    Raises:
        InputError: when the store cannot be read.
    """
    kept = recorded_runs()
    return recorded_choice.longest(kept.runs() if kept else [])


def growth_at_end(norms: pd.DataFrame, runs: Sequence[RunInfo]) -> tuple[int, list[tuple[str, float]]]:
    """The largest growth of an edited matrix in each run, after as many edits as all of them have.

    Args:
        norms: columns run, edits, layer, ratio.
        runs: which.

    Returns:
        edits; method and growth, the smallest first. 0 edits and nothing where the runs have no checkpoint in common.
    """
    edited = {run.id: norms[(norms["run"] == run.id) & norms["layer"].isin(run.layers)] for run in runs}
    common = set.intersection(*(set(part["edits"]) for part in edited.values())) - {0} if edited else set()
    if not common:
        return 0, []
    at = int(max(common))
    found = [(run.method, float(part.loc[part["edits"] == at, "ratio"].max())) for run, part in
             zip(runs, edited.values(), strict=True)]  # fmt: skip
    return at, sorted(found, key=lambda pair: pair[1])


def answer(norms: pd.DataFrame, health: pd.DataFrame, runs: Sequence[RunInfo], names: Sequence[str]) -> Answer | None:
    """The page's question answered: whether the models break, where, and how far their matrices have grown.

    Args:
        norms, runs: as for `growth_at_end`.
        health: of `run_frames.health`.
        names: what each run is called beside the others.

    Returns:
        None while nothing has been edited.
    """
    at, growth = growth_at_end(norms, runs)
    if not growth:
        return None
    lines = Lines()
    found = survival.answer(courses(runs, names, health, lines), lines, brief=True)
    models = " / ".join(dict.fromkeys(short_model(run.model) for run in runs))
    told = listed(f"{times(ratio)} with {method}" for method, ratio in growth)
    grown = f"After {at:,} sequential edits of {models} the norm of the matrix that grew most is {told}."
    return Answer(found.outcome, f"{LEADS.get(found.outcome, '')}{found.text} {grown}")


def panels(health: pd.DataFrame) -> dict[str, str]:
    """The panels of the chart: what the models have lost first, then how far their matrices have grown.

    Args:
        health: of `run_frames.health`.
    """
    there = set(health["metric"][health["value"].notna()])
    return {name: title for name, title in PANELS.items() if name in there}
