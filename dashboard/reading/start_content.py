"""What the Start page says: the ways in, which recorded runs it opens with, and the sentence that sums them up.

The page draws it, and so does `first_look` while the page is loading. Knows no streamlit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dashboard.reading.run_words import MAIN_METHODS, in_order, short_model
from encore_core.runs import RunInfo
from encore_core.runs.recorded import recorded_runs

HEADING = "Norm of the edited matrices, against the norm as loaded"
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
        "Published figures beside those measured here; the update rule is below.",
        "paper",
        ":material/article:",
    ),
)


def recorded_groups() -> list[list[RunInfo]]:
    """The main methods' recorded runs, in the methods' order; grouped by number of edits and kind of device.

    Raises:
        InputError: when the store cannot be read.
    """
    kept = recorded_runs()
    groups: dict[tuple[int, str], list[RunInfo]] = {}
    for run in in_order(kept.runs() if kept else []):
        if run.method in MAIN_METHODS and run.measuring_seconds:
            groups.setdefault((run.n_edits, run.device.partition(":")[0]), []).append(run)
    return list(groups.values())


def broadest(groups: Sequence[list[RunInfo]]) -> list[RunInfo]:
    """The group of recorded runs with the most methods, and of those the longest; empty where none are recorded."""
    return max(groups, key=lambda runs: (len(runs), runs[0].done), default=[])


def longest(groups: Sequence[list[RunInfo]], otherwise: list[RunInfo]) -> list[RunInfo]:
    """The group of recorded runs of two methods or more that went furthest; a collapse shows most in it."""
    several = [runs for runs in groups if len(runs) > 1]
    return max(several, key=lambda runs: min(run.done for run in runs)) if several else otherwise


def growth_at_end(norms: pd.DataFrame, runs: Sequence[RunInfo]) -> tuple[int, list[tuple[str, float]]]:
    """The largest growth of an edited matrix in each run, after as many edits as all of them have.

    Args:
        norms: columns run, edits, layer, ratio.
        runs: which.

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


def answer(norms: pd.DataFrame, runs: Sequence[RunInfo]) -> str:
    """The page's question answered in one sentence; "" where nothing can be said.

    Args:
        norms, runs: as for `growth_at_end`.
    """
    at, growth = growth_at_end(norms, runs)
    if not growth:
        return ""
    told = [f"{ratio:.2f} × with {method}" for method, ratio in growth]
    listed = told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"
    models = " / ".join(dict.fromkeys(short_model(run.model) for run in runs))
    return (
        f"After {at:,} sequential edits of {models}, the norm of the most grown edited matrix, relative to its norm as "
        f"loaded, is {listed}."
    )


def of_edited_layers(norms: pd.DataFrame, runs: Sequence[RunInfo]) -> pd.DataFrame:
    """The rows of layers that at least one run edits; the page draws these."""
    return norms[norms["layer"].isin({layer for run in runs for layer in run.layers})]
